"""Looking for frames: every magic at a multiple of the step, and nothing else."""

from __future__ import annotations

import numpy as np

from pmkv.kernels.frames import find_magic

MAGIC = np.uint64(0x6B70)


def find(data: np.ndarray, start: int, stop: int, room: int = 100) -> list[int]:
    found = np.zeros(room, np.int64)
    return found[: find_magic(data, start, stop, 64, MAGIC, found)].tolist()


def with_magic_at(*offsets: int, size: int = 1024) -> np.ndarray:
    data = np.full(size, 0x11, np.uint8)
    for offset in offsets:
        data[offset + 8 : offset + 10] = (0x70, 0x6B)
    return data


def test_all_of_them_in_order() -> None:
    assert find(with_magic_at(0, 64, 448, 960), 0, 1024) == [0, 64, 448, 960]


def test_only_at_multiples_of_the_step_from_the_start() -> None:
    assert find(with_magic_at(32, 128, 200), 0, 1024) == [128]
    assert find(with_magic_at(32, 96, 128), 32, 1024) == [32, 96]


def test_within_the_range() -> None:
    data = with_magic_at(0, 64, 128, 192)
    assert find(data, 64, 192) == [64, 128]
    assert find(data, 128, 191) == [], "a header does not fit any more"
    assert find(data, 512, 512) == []


def test_as_many_as_there_is_room_for() -> None:
    assert find(with_magic_at(0, 64, 128), 0, 1024, room=2) == [0, 64]
