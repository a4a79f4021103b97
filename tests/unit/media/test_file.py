"""What is particular to a plain file: what reaches it when, what is dropped, which errors become which."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pmkv.errors import FullError
from pmkv.media import file as file_module
from pmkv.media.file import EARLY_WRITE_BYTES, SYNC_FILE_RANGE_WRITE, FileMedium

CAPACITY = 4 << 20
PAGE = mmap.PAGESIZE


@pytest.fixture
def medium(tmp_path: Path) -> FileMedium:
    medium = FileMedium(tmp_path / "pool", CAPACITY)
    medium.prepare(0, CAPACITY)
    return medium


def on_disk(medium: FileMedium) -> np.ndarray:
    return np.fromfile(medium.path, np.uint8)


def failing(code: int) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return call


def test_nothing_reaches_the_file_before_its_flush(medium: FileMedium) -> None:
    medium.data[:256] = 7
    assert not on_disk(medium).any()
    medium.flush([(64, 128)])
    assert on_disk(medium).nonzero()[0].tolist() == list(range(64, 128))


def test_a_file_keeps_its_size_and_one_for_reading_is_left_as_it_is(medium: FileMedium) -> None:
    assert FileMedium(medium.path, 4096).data.size == CAPACITY
    reader = FileMedium(medium.path, 2 * CAPACITY, readonly=True)
    assert reader.data.size == CAPACITY
    reader.data[:64] = 1  # a private copy
    assert not on_disk(medium).any()


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty"):
        FileMedium(tmp_path / "pool", 0)


def test_the_file_is_reserved_by_prepare_only(tmp_path: Path) -> None:
    medium = FileMedium(tmp_path / "pool", CAPACITY)
    assert os.stat(medium.path).st_blocks == 0
    medium.prepare(0, 1 << 20)
    assert os.stat(medium.path).st_blocks * 512 >= 1 << 20


def test_writes_come_before_the_sync_and_it_before_the_return(
    medium: FileMedium, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple] = []
    monkeypatch.setattr("os.pwrite", lambda fd, view, at: calls.append(("pwrite", at)) or len(view))
    monkeypatch.setattr("os.fdatasync", lambda fd: calls.append(("fdatasync",)))
    medium.flush([(64, 128), (8192, 8256)])
    assert calls == [("pwrite", 64), ("pwrite", 8192), ("fdatasync",)]
    calls.clear()
    medium.flush([(64, 128)], sync=False)
    assert calls == [("pwrite", 64)]


def test_zeros_are_written_in_small_pieces_and_synced_in_steps_by_a_descriptor_of_their_own(
    medium: FileMedium, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple] = []
    monkeypatch.setattr("os.pwrite", lambda fd, view, at: calls.append((fd, at, len(view))) or len(view))
    monkeypatch.setattr("os.fdatasync", lambda fd: calls.append((fd,)))
    medium.prepare(4096, 4096 + (1 << 20) + 20_000)
    [fd] = {call[0] for call in calls}
    assert fd != medium._fd, "an error is told once to each descriptor: a commit must hear of its own"
    assert [i for i, call in enumerate(calls) if len(call) == 1] == [128, len(calls) - 1]
    pieces = [call[1:] for call in calls if len(call) == 3]
    assert [at for at, _ in pieces] == list(range(4096, 4096 + (1 << 20) + 20_000, 8 << 10))
    assert sum(length for _, length in pieces) == (1 << 20) + 20_000


def test_short_writes_go_on(medium: FileMedium, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr("os.pwrite", lambda fd, view, at: pwrite(fd, view[:1000], at))
    medium.data[:5000] = 7
    medium.flush([(0, 5000)])
    assert on_disk(medium)[:5000].all()


def test_a_failed_sync_is_told_and_revert_shows_the_file(medium: FileMedium, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fdatasync", failing(errno.EIO))
    medium.data[:64] = 7
    with pytest.raises(OSError, match="Input/output"):
        medium.flush([(0, 64)])
    medium.data[64:128] = 8
    medium.revert()
    assert medium.data[:128].tolist() == [7] * 64 + [0] * 64, "the kernel has the first range, nobody the second"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_is_told_as_such(code: int, medium: FileMedium, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.posix_fallocate", failing(code))
    with pytest.raises(FullError, match="no room for 4,096 more bytes"):
        medium.prepare(0, PAGE)


def test_another_error_of_prepare_is_none_of_room(medium: FileMedium, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.posix_fallocate", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        medium.prepare(0, PAGE)


def private_dirty(medium: FileMedium) -> int:
    """Bytes of the mapping that are private copies."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.endswith(os.fspath(medium.path)))
    return next(int(line.split()[1]) << 10 for line in lines[start:] if line.startswith("Private_Dirty"))


def test_private_copies_of_what_was_flushed_are_dropped(medium: FileMedium) -> None:
    medium.data[: 3 << 20] = 7
    assert private_dirty(medium) >= 3 << 20
    for start in range(0, 3 << 20, 64 << 10):
        medium.flush([(start, start + (64 << 10))])
    assert private_dirty(medium) <= 1 << 20
    assert (medium.data[: 3 << 20] == 7).all()


def test_private_copies_are_dropped_though_ranges_end_anywhere(medium: FileMedium) -> None:
    start = 64
    while start < 3 << 20:
        stop = start + 5000
        medium.data[start:stop] = 7
        medium.flush([(start, stop)])
        start = -(-stop // 64) * 64
    assert private_dirty(medium) <= 2 << 20
    assert len(medium._unreleased) == 1, "one run of ranges, one place to remember"
    assert (medium.data[64:5064] == 7).all()


def test_the_disk_begins_with_what_is_long_and_the_flush_hears_of_errors(
    medium: FileMedium, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, ...]] = []
    monkeypatch.setattr(file_module, "_begin_writing", lambda *what: begun.append(tuple(map(plain, what))))
    for start, size in (
        (64, EARLY_WRITE_BYTES),
        (EARLY_WRITE_BYTES + PAGE, EARLY_WRITE_BYTES - PAGE),
        (2 * EARLY_WRITE_BYTES + 64, EARLY_WRITE_BYTES + PAGE),
    ):
        medium.store(start, np.ones(size, np.uint8))
    first = -(-(2 * EARLY_WRITE_BYTES + 64) // PAGE) * PAGE
    assert begun == [(medium._fd, first, EARLY_WRITE_BYTES, SYNC_FILE_RANGE_WRITE)], (
        "whole pages, and no wait that would hear of them"
    )
    monkeypatch.setattr(os, "fdatasync", failing(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        medium.flush([(0, CAPACITY)])


def plain(value: Any) -> int:
    return getattr(value, "value", value)
