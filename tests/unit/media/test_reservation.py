"""A refused reservation takes nothing, and never touches bytes that were there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pmkv.media.reservation import reserve

MIB = 1 << 20
allocate = os.posix_fallocate


def half(fd: int, start: int, size: int) -> None:
    allocate(fd, start, size // 2)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def fd(tmp_path: Path):
    handle = os.open(tmp_path / "pool", os.O_RDWR | os.O_CREAT)
    os.ftruncate(handle, 4 * MIB)
    yield handle
    os.close(handle)


def test_a_range_is_allocated(fd: int) -> None:
    reserve(fd, MIB, 2 * MIB)
    assert os.fstat(fd).st_blocks * 512 >= MIB


def test_a_refused_reservation_gives_back_what_it_got(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    os.pwrite(fd, b"x" * 4096, 0)
    before = os.fstat(fd).st_blocks
    monkeypatch.setattr("os.posix_fallocate", half)
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            reserve(fd, MIB, 3 * MIB)
    assert os.fstat(fd).st_blocks == before
    assert os.fstat(fd).st_size == 4 * MIB


def test_bytes_of_an_earlier_use_stay(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    os.pwrite(fd, b"x" * 4096, MIB)
    monkeypatch.setattr("os.posix_fallocate", half)
    with pytest.raises(OSError, match="No space left"):
        reserve(fd, MIB, 3 * MIB)
    assert os.pread(fd, 4096, MIB) == b"x" * 4096
