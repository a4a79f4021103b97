"""Writes runs of memtables and other runs, for tests."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pmkv.engine.byte_batch import join
from pmkv.index.arena import Arena
from pmkv.index.hash_table import HashTable
from pmkv.index.run import Run, RunInfo
from pmkv.index.run_files import MemoryRunFiles, RunFiles
from pmkv.index.run_writer import write_run
from pmkv.kernels.location import DELETE, OFFSET_MASK
from pmkv.kernels.records import FLAG_DELETE, record_sizes, write_records

SEED = np.uint64(4242)
OWNER = np.uint64(1 << 32)
SEGMENT, FIRST = 1 << 16, 4096
NONE = np.empty(0, np.int64)
HEAP = Arena()


def finish(steps: Generator[None, None, RunInfo]) -> RunInfo:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


@dataclass
class Maker:
    """Writes runs to one shelf, of one pool."""

    shelf: RunFiles = field(default_factory=lambda: MemoryRunFiles(bytes(16)))
    data: np.ndarray = field(default_factory=lambda: np.zeros(1 << 20, np.uint8))
    width: int = 8
    number: int = 0

    def info(self, sources: list[HashTable | Run], **other: Any) -> RunInfo:
        self.number += 1
        out = self.shelf.create(f"{self.number}.runs")
        given = {"bottom": False, "live": 0, "added": NONE, "gone": NONE, "first": 1, "last": 2} | other
        pool = {"pool_data": self.data, "width": self.width, "seed": np.uint64(SEED), "segments": (FIRST, SEGMENT)}
        info = finish(write_run(out, sources, **pool, **given))
        out.sync()
        out.close()
        return info

    def run(self, sources: list[HashTable | Run], **other: Any) -> Run:
        info = self.info(sources, **other)
        return Run(info, self.shelf.open(info.file), f"run {info.file}", (FIRST, SEGMENT))


def index_of(ids: np.ndarray, locations: np.ndarray) -> HashTable:
    index = HashTable(HEAP, int(SEED))
    index.insert(ids, locations)
    return index


def find(run: Run, ids: np.ndarray) -> list[int]:
    found = np.zeros(ids.size, np.uint64)
    run.find(SEED, ids, found)
    return found.tolist()


def some(rng: np.random.Generator, size: int, ids: int) -> HashTable:
    """An open index with some of so many ids, some deleted."""
    where = rng.integers(FIRST, 1 << 20, size).astype(np.uint64)
    where[rng.random(size) < 0.2] |= DELETE
    return index_of(rng.integers(0, ids, size), where)


def entries_of(source: HashTable | Run) -> dict[int, int]:
    windows = source.walk(0, SEED) if isinstance(source, Run) else source.walk()
    return {
        int(word): int(where)
        for _, some_words, places in windows
        for word, where in zip(some_words, places, strict=True)
    }


def weights_of(entries: dict[int, int], width: int) -> dict[int, int]:
    """What rows weigh, by segment."""
    weights: dict[int, int] = {}
    for where in entries.values():
        if not where & int(DELETE):
            segment = ((where & int(OFFSET_MASK)) - FIRST) // SEGMENT
            weights[segment] = weights.get(segment, 0) + width
    return weights


@dataclass
class Keys:
    """Keys whose records are written to a pool one behind the other; `word` gives their hashes."""

    maker: Maker
    words: int  # so many different hashes
    at: int = FIRST

    def __post_init__(self) -> None:
        self.maker.width = 0

    def hashes(self, keys: list[bytes]) -> np.ndarray:
        return np.array([sum(key) % self.words for key in keys], np.uint64)

    def put(self, index: HashTable, items: dict[bytes, bytes | None]) -> dict[bytes, int]:
        """Enter records, deletes where the value is None; returns where they stand."""
        keys, values = join(list(items)), join([value or b"" for value in items.values()])
        flags = np.array([FLAG_DELETE if value is None else 0 for value in items.values()], np.int64)
        locations, sizes = np.empty(len(items), np.uint64), np.empty(len(items), np.int64)
        write_records(self.maker.data, self.at, OWNER, *keys, *values, flags * 0, flags, locations)
        self.at += record_sizes(keys[1], values[1], sizes)
        index.insert_keys(self.maker.data, self.hashes(list(items)), *keys, locations)
        return dict(zip(items, locations.tolist(), strict=True))

    def find(self, run: Run, keys: list[bytes]) -> list[int]:
        found = np.zeros(len(keys), np.uint64)
        run.find_keys(self.maker.data, SEED, self.hashes(keys), *join(keys), OWNER, True, found)
        return found.tolist()

    def weight(self, locations: list[int]) -> dict[int, int]:
        weights: dict[int, int] = {}
        for where in locations:
            at = where & int(OFFSET_MASK)
            head = int.from_bytes(self.maker.data[at : at + 8].tobytes(), "little")
            size = 16 + -(-((head >> 32 & 0xFFFFFF) + (head & 0xFFFFFFFF)) // 8) * 8
            weights[(at - FIRST) // SEGMENT] = weights.get((at - FIRST) // SEGMENT, 0) + size
        return weights


def damaged(maker: Maker, run: Run, at: int) -> Run:
    """The same run with one bit of its file flipped."""
    data = maker.shelf.open(run.info.file).copy()
    data[at] ^= 4
    return Run(run.info, data, "the run of items")
