"""Shelves: files are written once, refused when they are not whole or not this pool's, and survive once synced."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import numpy as np
import pytest

from pmkv.errors import CorruptionError, FormatError, FullError
from pmkv.index import run_files as module
from pmkv.index.run_files import PAGE, SYNC_STEP_BYTES, DiskRunFiles, MemoryRunFiles, RunFiles, pack_header, will_read

POOL = b"0123456789abcdef"


@pytest.fixture(params=["file", "memory"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> RunFiles:
    return DiskRunFiles(tmp_path / "data" / "runs", POOL) if request.param == "file" else MemoryRunFiles(POOL)


def write(shelf: RunFiles, name: str, *parts: bytes) -> None:
    out = shelf.create(name)
    for part in parts:
        out.write(np.frombuffer(part, np.uint8))
    out.sync()
    assert out.name == name and out.size == PAGE + sum(map(len, parts))
    out.close()


def test_what_is_written_is_read_again_behind_a_header(shelf: RunFiles) -> None:
    assert shelf.names() == []
    write(shelf, "b.runs", b"one", b"two")
    write(shelf, "a.runs")
    assert shelf.names() == ["a.runs", "b.runs"]
    data = shelf.open("b.runs")
    assert data[PAGE:].tobytes() == b"onetwo" and data.dtype == np.uint8 and not data.flags.writeable
    assert shelf.open("a.runs").tobytes() == pack_header(POOL)


def test_a_long_write_gives_way_between_its_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(module, "yield_cpu", lambda: given.append(1))
    out = DiskRunFiles(tmp_path, POOL).create("a.runs")
    given.clear()
    out.write(np.ones(3 * module.RUN_WRITE_PIECE_BYTES, np.uint8))
    out.close()
    assert len(given) == 3


def test_reading_ahead_asks_the_system_for_whole_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = DiskRunFiles(tmp_path, POOL)
    write(shelf, "a.runs", bytes(8 * PAGE))
    data = shelf.open("a.runs")
    asked: list[list[int]] = []
    monkeypatch.setattr(module, "start_reads", lambda base, pages, step: asked.append(pages.tolist()))
    for start, stop in ((10, 1 << 20), (PAGE + 5, PAGE + 6), (1 << 20, 1 << 21)):
        will_read(data, start, stop)
    assert asked == [list(range(9)), [1]]
    will_read(np.zeros(PAGE, np.uint8), 0, PAGE)
    assert len(asked) == 2, "what is in DRAM is not read ahead"


def test_words_are_written_as_their_bytes(shelf: RunFiles) -> None:
    out = shelf.create("a.runs")
    out.write(np.arange(512, dtype=np.uint64))
    assert shelf.open("a.runs")[PAGE:].view(np.uint64).tolist() == list(range(512))


def test_removing_and_replacing_leave_those_who_read_alone(shelf: RunFiles) -> None:
    write(shelf, "a.runs", b"old")
    old = shelf.open("a.runs")
    write(shelf, "a.runs", b"new!")
    assert old[PAGE:].tobytes() == b"old" and shelf.open("a.runs")[PAGE:].tobytes() == b"new!"
    new = shelf.open("a.runs")
    shelf.remove("a.runs")
    shelf.remove("a.runs")
    assert new[PAGE:].tobytes() == b"new!" and shelf.names() == []
    with pytest.raises(FileNotFoundError):
        shelf.open("a.runs")


def damage(path: Path, at: int, value: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(value)] = value
    path.write_bytes(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(DiskRunFiles(tmp_path, POOL), "a.runs", b"body")
    return tmp_path / "a.runs"


@pytest.mark.parametrize("at", range(40))
def test_a_damaged_header_is_refused(path: Path, at: int) -> None:
    damage(path, at, bytes([path.read_bytes()[at] ^ 16]))
    with pytest.raises(CorruptionError, match=r"header of .*a\.runs .* damaged"):
        DiskRunFiles(path.parent, POOL).open("a.runs")


@pytest.mark.parametrize("size", [0, 1, 39])
def test_a_file_without_a_whole_header_is_refused(path: Path, size: int) -> None:
    os.truncate(path, size)
    with pytest.raises(CorruptionError, match=r"a\.runs"):
        DiskRunFiles(path.parent, POOL).open("a.runs")


def test_a_file_of_another_pool_is_refused(path: Path) -> None:
    with pytest.raises(FormatError, match="another pool"):
        DiskRunFiles(path.parent, bytes(16)).open("a.runs")


def test_a_file_of_another_version_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmkv.index.run_files.VERSION", 2)
    with pytest.raises(FormatError, match="version 1, this pmkv reads version 2"):
        DiskRunFiles(path.parent, POOL).open("a.runs")


def test_only_files_of_runs_are_named(path: Path) -> None:
    (path.parent / "notes.txt").write_text("somebody's")
    assert DiskRunFiles(path.parent, POOL).names() == ["a.runs"]


def test_a_full_disk_is_named_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    shelf = DiskRunFiles(tmp_path, POOL)
    out = shelf.create("a.runs")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(FullError, match=r"a\.runs.*No space left"):
        out.write(b"more")
    out.close()
    out.close()
    with pytest.raises(FullError, match=r"b\.runs"):
        shelf.create("b.runs")
    assert shelf.names() == ["a.runs"]


def test_other_errors_of_the_disk_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    out = DiskRunFiles(tmp_path, POOL).create("a.runs")
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        out.sync()


def test_a_sync_is_of_the_file_and_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = set()
    monkeypatch.setattr(os, "fsync", lambda fd: synced.add(os.fstat(fd).st_ino))
    out = DiskRunFiles(tmp_path / "runs", POOL).create("a.runs")
    assert synced == {tmp_path.stat().st_ino}, "where the directory was made"
    synced.clear()
    out.sync()
    assert synced == {(tmp_path / "runs").stat().st_ino, (tmp_path / "runs" / "a.runs").stat().st_ino}


def test_a_long_file_is_synced_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    out = DiskRunFiles(tmp_path, POOL).create("a.runs")
    for _ in range(20):
        out.write(bytes(SYNC_STEP_BYTES // 8))
    assert len(synced) == 2


def test_a_crash_keeps_what_was_synced_and_may_tear_the_rest() -> None:
    shelf, rng = MemoryRunFiles(POOL), random.Random(1)
    write(shelf, "whole.runs", b"w" * 9000)
    half = shelf.create("half.runs")
    half.write(b"h" * 9000)
    lengths, zeroed = set(), 0
    for _ in range(60):
        after = shelf.survivor(rng)
        assert after.open("whole.runs").tobytes() == shelf.open("whole.runs").tobytes()
        if "half.runs" in after.names():
            data = after._files["half.runs"].data
            lengths.add(len(data))
            zeroed += 0 in data[PAGE:]
    assert len(lengths) > 5 and zeroed and len(shelf._files["half.runs"].data) == PAGE + 9000
    gone = sum("half.runs" not in shelf.survivor(rng).names() for _ in range(60))
    assert 0 < gone < 60
    half.sync()
    half.write(b"!" * 100)
    for _ in range(10):
        assert shelf.survivor(rng)._files["half.runs"].data[: PAGE + 9000] == half.data[: PAGE + 9000]
