"""Folds in DRAM, for stores that have no files: closed runs of one layer and of about one size become one.

Where views keep layers apart, or runs are large, nothing is folded: each is a run that reads ask. Assumes: the caller
holds the store's lock.
"""

from __future__ import annotations

import numpy as np

from ..index.lookup_batch import IdBatch, KeyBatch, LookupBatch, expiries_of
from ..index.memtable import MemTable
from ..kernels.records import key_bounds
from ..versions.layer import Layer, LayerTree, replaced
from .compaction_policy import TIER, tier_of

MOST_ENTRIES = 1 << 15  # folded at once: some twenty milliseconds, for which everybody waits


def merge_in_memory(layer: Layer, data: np.ndarray, owner: int) -> None:
    """data: the pool's bytes; owner: of the checks of its records (see `kernels.probe.find_keys`)."""
    tree = layer.tree
    while inputs := layer.closed[tier_of([mutable.index.count for mutable in layer.closed], TIER)]:
        if sum(mutable.index.count for mutable in inputs) > MOST_ENTRIES:
            return
        is_bottom = layer.below is None and inputs[-1] is layer.closed[-1]
        layer.closed = replaced(layer.closed, inputs, merged(tree, inputs, data, np.uint64(owner), is_bottom))
        tree.changed()
        for mutable in inputs:
            mutable.die()


def merged(
    tree: LayerTree, inputs: tuple[MemTable, ...], data: np.ndarray, owner: np.uint64, is_bottom: bool
) -> MemTable:
    """As if all of it had been written to one open run, and nobody had counted yet."""
    result = MemTable(tree.dram.heap, tree.seed, sum(mutable.index.count for mutable in inputs))
    result.first = inputs[-1].first
    for mutable in reversed(inputs):  # what is entered later wins
        for _, words, locations in mutable.index.walk():
            if words.size:
                wanted_at(tree, words, locations, data, owner).enter(result.index, locations)
    for _, words, locations in result.index.walk():
        if words.size:
            wanted = wanted_at(tree, words, locations, data, owner)
            result.tally.expiries.update(expiries_of(wanted, locations).tolist())
            if not is_bottom:
                result.tally.note(wanted)
    return result


def wanted_at(
    tree: LayerTree, words: np.ndarray, locations: np.ndarray, data: np.ndarray, owner: np.uint64
) -> LookupBatch:
    """What stands at these locations."""
    if not tree.keyed:
        return IdBatch(words.view(np.int64))
    key_bounds(data, locations, bounds := np.empty((words.size, 2), np.int64))
    return KeyBatch(words, data, bounds, data, owner, True, locations)
