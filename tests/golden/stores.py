"""Stores whose every byte is known: what is drawn at random is counted up, and the clock stands still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from unittest.mock import patch

from pmkv.engine.engine import Engine
from pmkv.log.segments import Pool
from pmkv.media.base import Granularity
from pmkv.media.simulated import SimulatedMedium

NOON = 1_700_000_000_000  # 2023-11-14 22:13:20 UTC


@contextmanager
def known_ids() -> Iterator[None]:
    """What is drawn at random, 16 bytes at a time, is 00 01 .. 0f, then 10 11 .. 1f, and so on."""
    drawn = count()
    with patch("secrets.token_bytes", lambda size: bytes(next(drawn) & 0xFF for _ in range(size))):
        yield


def new_medium(segments: int, segment_size: int) -> SimulatedMedium:
    """With a pool on it."""
    medium = SimulatedMedium(4096 + segments * segment_size, Granularity.PAGE)
    Pool.create(medium, segment_size)
    return medium


def open_engine(medium: SimulatedMedium) -> Engine:
    return Engine(Pool.load(medium), now=lambda: NOON)
