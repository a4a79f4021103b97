"""Stores on files to be damaged: where their bytes stand, and how to spoil some."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import pmkv
from pmkv.data_directory import DataDirectory
from pmkv.log.format import Frame
from pmkv.log.replay import Replay

CAPACITY = 8 << 20


def frames_of(path: Path) -> list[Frame]:
    """Every frame of a closed store, in order."""
    place = DataDirectory(path, "auto", 0, "page", readonly=True)
    try:
        return list(Replay(place.open_pool()))
    finally:
        place.close()


def place_of(path: Path, needle: bytes) -> int:
    """Where these bytes stand in the pool, once."""
    pool = (path / "pool").read_bytes()
    assert pool.count(needle) == 1, f"{needle!r} stands in the pool {pool.count(needle)} times"
    return pool.index(needle)


def overwrite(path: Path, at: int, data: bytes) -> None:
    with open(path / "pool", "r+b") as file:
        file.seek(at)
        file.write(data)


def flip(path: Path, at: int) -> None:
    """One bit of the byte at an offset of the pool."""
    byte = (path / "pool").read_bytes()[at]
    overwrite(path, at, bytes([byte ^ 0x10]))


def numbered(path: Path, count: int, size: int) -> dict[bytes, bytes]:
    """A closed store of so many keys, each written by a frame of its own; what is in it."""
    rng = np.random.default_rng(7)
    model = {b"key %04d" % number: rng.bytes(size) for number in range(count)}
    with pmkv.open(path, capacity=CAPACITY) as store, store.deferred():
        for key, value in model.items():
            store.put(key, value)
    return model
