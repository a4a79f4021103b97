"""Many small closed runs of a layer as one, before a checkpoint writes them: each would else be looked up in all below
it, and be merged with all others window by window. Many are there where somebody publishes without a pause.

Assumes: a checkpoint holds the runs, so that nothing is entered in them and nobody gives their memory back.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np

from ..index.memtable import MemTable
from ..kernels.probe import hash_keys
from ..kernels.records import key_bounds
from ..versions.layer import LayerTree
from .memory_merge import wanted_at

MANY = 8  # runs beyond which neighbours are joined
SMALL, MOST = 1 << 14, 1 << 18  # entries of one that is joined, and of several together
NOBODY = np.uint64(0)  # the owner of records that are not verified


def neighbours(runs: tuple[MemTable, ...]) -> list[list[MemTable]]:
    """The same in groups, of small ones where there are many."""
    groups: list[list[MemTable]] = []
    room = -1
    for mutable in runs:
        count = mutable.index.count
        if len(runs) <= MANY or count > SMALL or count > room:
            groups.append([mutable])
            room = MOST - count if count <= SMALL else -1
        else:
            groups[-1].append(mutable)
            room -= count
    return groups


def can_be_read(mutable: MemTable, data: np.ndarray, hash_words: tuple[np.uint64, ...]) -> bool:
    """Have all keys that hash? If a damaged record hides its key, whoever asks for that has to meet it before an older
    one: so its group is not joined."""
    for _, words, locations in mutable.index.walk():
        key_bounds(data, locations, bounds := np.empty((words.size, 2), np.int64))
        if (bounds[:, 1] > data.size).any():
            return False
        hash_keys(data, bounds, *hash_words, hashes := np.empty(words.size, np.uint64))
        if (hashes != words).any():
            return False
    return True


def enter(
    tree: LayerTree, newer: MemTable, joined: MemTable, data: np.ndarray, lock: AbstractContextManager[object]
) -> None:
    """What the newer run says wins. lock: taken for memory."""
    for _, words, locations in newer.index.walk():
        if words.size:
            wanted_at(tree, words, locations, data, NOBODY).enter(joined.index, locations, lock)
