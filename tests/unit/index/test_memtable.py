"""A memtable gives its memory back when no layer needs it and no checkpoint reads it."""

from __future__ import annotations

import threading

import numpy as np

from pmkv.index.arena import Arena
from pmkv.index.memtable import MemTable


def test_memory_goes_when_no_layer_needs_it() -> None:
    arena = Arena()
    memtable = MemTable(arena, 7, expected=100_000)
    memtable.index.insert(np.arange(100_000), np.full(100_000, 8, np.uint64))
    assert arena.used
    memtable.die()
    assert not arena.used


def test_memory_stays_while_a_checkpoint_reads_it() -> None:
    arena, lock = Arena(), threading.RLock()
    memtable = MemTable(arena, 7)
    memtable.index.insert(np.arange(10), np.full(10, 8, np.uint64))
    memtable.held = True
    memtable.die()
    assert memtable.index.count == 10
    memtable.release(lock)
    assert not arena.used


def test_a_checkpoint_leaves_a_memtable_that_a_layer_needs() -> None:
    arena, lock = Arena(), threading.RLock()
    memtable = MemTable(arena, 7)
    memtable.held = True
    memtable.release(lock)
    assert arena.used and not memtable.held
