"""Merging frozen memtables of one layer in memory.

Stores without files merge memtables of about one size, where a store with files would take a checkpoint and compact.
Memtables of different layers, and large ones, stay as they are: reads probe each of them.

A checkpoint merges many small memtables before it writes them, since it would otherwise look each of them up in all
below it and merge them with the others window by window. A client that publishes without a pause leaves many.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np

from ..index.arena import HELD
from ..index.lookup_batch import IdBatch, KeyBatch, LookupBatch, expiries_of
from ..index.memtable import MemTable
from ..kernels.probe import hash_keys
from ..kernels.records import key_bounds
from ..versions.layer import Layer, LayerTree, replaced
from .compaction_policy import TIER, tier_of

MERGED_ENTRIES = 1 << 15  # merged at once under the state lock: about 20 ms, for which everybody waits
MANY_MEMTABLES = 8  # of one layer; a checkpoint merges neighbours beyond that
SMALL_ENTRIES = 1 << 14  # of a memtable that a checkpoint merges with its neighbours
GROUP_ENTRIES = 1 << 18  # of the memtables that a checkpoint merges into one
UNVERIFIED = np.uint64(0)  # the owner of records whose checks are not verified


# of stores without files


def merge_in_memory(layer: Layer, data: np.ndarray, owner: int) -> None:
    """Merge the frozen memtables of a layer by tiers. data: the pool's bytes; owner: of the checks of its records (see
    `kernels.probe.find_keys`). The caller holds locks.state."""
    tree = layer.tree
    while inputs := layer.frozen[tier_of([memtable.index.count for memtable in layer.frozen], TIER)]:
        if sum(memtable.index.count for memtable in inputs) > MERGED_ENTRIES:
            return
        is_bottom = layer.below is None and inputs[-1] is layer.frozen[-1]
        merged = merge_memtables(tree, inputs, data, np.uint64(owner), is_bottom)
        layer.frozen = replaced(layer.frozen, inputs, merged)
        tree.invalidate_stacks()
        for memtable in inputs:
            memtable.die()


def merge_memtables(
    tree: LayerTree, inputs: tuple[MemTable, ...], data: np.ndarray, owner: np.uint64, is_bottom: bool
) -> MemTable:
    """Return one memtable, as if all had been written to it and nothing were counted yet. inputs: newest first;
    is_bottom: nothing lies below them. The caller holds locks.state."""
    result = MemTable(tree.dram.arena, tree.seed, sum(memtable.index.count for memtable in inputs))
    result.first = inputs[-1].first
    for memtable in reversed(inputs):  # what is inserted later wins
        insert_all(tree, memtable, result, data, owner)
    for _, keys64, locations in result.index.walk():
        if keys64.size:
            batch = batch_at(tree, keys64, locations, data, owner)
            result.counter.expiries.add(expiries_of(batch, locations).tolist())
            if not is_bottom:
                result.counter.record(batch)
    return result


# before a checkpoint


def group_small(memtables: tuple[MemTable, ...]) -> list[list[MemTable]]:
    """Split memtables into groups of neighbours to be merged: small ones, and only where there are many."""
    groups: list[list[MemTable]] = []
    room = -1  # entries that the last group may still take
    for memtable in memtables:
        count = memtable.index.count
        if len(memtables) <= MANY_MEMTABLES or count > SMALL_ENTRIES or count > room:
            groups.append([memtable])
            room = GROUP_ENTRIES - count if count <= SMALL_ENTRIES else -1
        else:
            groups[-1].append(memtable)
            room -= count
    return groups


def has_readable_keys(memtable: MemTable, data: np.ndarray, hash_words: tuple[np.uint64, ...]) -> bool:
    """Return whether every record has the key whose hash the memtable holds.

    A damaged record hides its key. A lookup of that key has to meet the damage before an older record, so the group of
    such a memtable must not be merged."""
    for _, keys64, locations in memtable.index.walk():
        key_bounds(data, locations, bounds := np.empty((keys64.size, 2), np.int64))
        if (bounds[:, 1] > data.size).any():
            return False
        hash_keys(data, bounds, *hash_words, hashes := np.empty(keys64.size, np.uint64))
        if (hashes != keys64).any():
            return False
    return True


# of both


def insert_all(
    tree: LayerTree,
    source: MemTable,
    target: MemTable,
    data: np.ndarray,
    owner: np.uint64 = UNVERIFIED,
    lock: AbstractContextManager[object] = HELD,
) -> None:
    """Insert all entries of `source` into `target`, where they win. lock: taken while memory is allocated.

    The caller holds locks.state, or the source is held by a checkpoint and nobody else knows the target."""
    for _, keys64, locations in source.index.walk():
        if keys64.size:
            batch_at(tree, keys64, locations, data, owner).enter(target.index, locations, lock)


def batch_at(
    tree: LayerTree, keys64: np.ndarray, locations: np.ndarray, data: np.ndarray, owner: np.uint64
) -> LookupBatch:
    """Return the batch of the ids or keys whose records stand at these locations."""
    if not tree.keyed:
        return IdBatch(keys64.view(np.int64))
    key_bounds(data, locations, bounds := np.empty((keys64.size, 2), np.int64))
    return KeyBatch(keys64, data, bounds, data, owner, True, locations)
