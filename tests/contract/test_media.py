"""What every medium owes the engine (pmkv/media/base.py), on each of them."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pmkv.errors import FullError
from pmkv.media.base import Granularity, Medium
from pmkv.media.dax import DaxMedium
from pmkv.media.file import FileMedium
from pmkv.media.memory import MemoryMedium
from pmkv.media.simulated import SimulatedMedium

CAPACITY = 4 << 20
PAGE = 4096


class Bench:
    """Opens media of one kind, and opens them again as the next process would."""

    persists = True
    full_disk = True  # the disk below it can be full

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, capacity: int = CAPACITY) -> Medium:
        raise NotImplementedError

    def reopen(self, medium: Medium) -> Medium:
        capacity = len(medium.data)
        medium.close()
        return self.open(capacity)


class OnFile(Bench):
    def open(self, capacity: int = CAPACITY) -> Medium:
        return FileMedium(self.folder / "pool", capacity)


class OnDax(Bench):
    def open(self, capacity: int = CAPACITY) -> Medium:
        return DaxMedium(self.folder / "pool", capacity, force=True)


class InMemory(Bench):
    persists = full_disk = False

    def open(self, capacity: int = CAPACITY) -> Medium:
        return MemoryMedium(capacity)


class Simulated(Bench):
    """Its next process comes after a power cut."""

    full_disk = False
    granularity = Granularity.PAGE

    def open(self, capacity: int = CAPACITY) -> Medium:
        return SimulatedMedium(capacity, self.granularity)

    def reopen(self, medium: Medium) -> Medium:
        assert isinstance(medium, SimulatedMedium)
        point = medium.point()
        return point.medium(np.zeros(len(point.units), bool))


class SimulatedLines(Simulated):
    granularity = Granularity.CACHE_LINE


BENCHES = [OnFile, OnDax, InMemory, Simulated, SimulatedLines]


@pytest.fixture(params=BENCHES, ids=lambda bench: bench.__name__)
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    if request.param is OnDax:
        request.getfixturevalue("needs_libpmem")
        monkeypatch.setenv("PMEM_IS_PMEM_FORCE", "1")
    return request.param(tmp_path)


@pytest.fixture
def medium(bench: Bench) -> Iterator[Medium]:
    medium = bench.open()
    medium.prepare(0, 16 * PAGE)
    yield medium
    medium.close()


def stored(medium: Medium, start: int, size: int, seed: int = 1) -> bytes:
    rows = np.random.default_rng(seed).integers(1, 256, size, np.uint8)
    medium.data[start : start + size] = rows
    return rows.tobytes()


def read(medium: Medium, start: int, size: int) -> bytes:
    return medium.data[start : start + size].tobytes()


def test_data_is_a_flat_writable_array_of_bytes(medium: Medium) -> None:
    assert medium.data.dtype == np.uint8 and medium.data.shape == (CAPACITY,)
    assert medium.data.flags.writeable and medium.data.flags.c_contiguous
    assert isinstance(medium.granularity, Granularity) and isinstance(medium.inline, bool)


def test_a_store_is_seen_at_once(medium: Medium) -> None:
    view = medium.data[64:]
    assert stored(medium, 64, 300) == view[:300].tobytes()


def test_what_is_flushed_is_found_again(bench: Bench, medium: Medium) -> None:
    if not bench.persists:
        assert type(medium) is MemoryMedium
        return
    first, second = stored(medium, 64, 300), stored(medium, 3 * PAGE - 64, 2 * PAGE, seed=2)
    medium.flush([(64, 384), (3 * PAGE - 64, 5 * PAGE - 64)])
    again = bench.reopen(medium)
    assert read(again, 64, 300) == first and read(again, 3 * PAGE - 64, 2 * PAGE) == second
    again.close()


def test_a_flush_leaves_the_rest_as_it_was(medium: Medium) -> None:
    before, after = stored(medium, 0, 128), stored(medium, 384, 6000, seed=2)
    middle = stored(medium, 128, 256, seed=3)
    medium.flush([(128, 384)])
    assert read(medium, 0, 128) == before and read(medium, 128, 256) == middle and read(medium, 384, 6000) == after


@pytest.mark.parametrize("start", [2 * PAGE, 2 * PAGE + 128])
def test_a_large_flush_leaves_what_lies_around_it(start: int, bench: Bench, medium: Medium) -> None:
    medium.prepare(16 * PAGE, CAPACITY)
    size = 3 * (1 << 20)
    before, after = stored(medium, start - 64, 64), stored(medium, start + size, 64, seed=2)
    flushed = stored(medium, start, size, seed=3)
    medium.flush([(start, start + size)])
    assert read(medium, start - 64, 64) == before and read(medium, start + size, 64) == after
    assert read(medium, start, size) == flushed
    medium.flush([(start - 64, start), (start + size, start + size + 64)])
    if bench.persists:
        medium = bench.reopen(medium)
    assert read(medium, start - 64, size + 128) == before + flushed + after
    medium.close()


def test_what_was_stored_beside_a_flushed_range_is_flushed_later(bench: Bench, medium: Medium) -> None:
    stored(medium, 0, 64)
    beside = stored(medium, 64, 256, seed=2)
    medium.flush([(0, 64)])
    medium.flush([(64, 320)])
    if bench.persists:
        medium = bench.reopen(medium)
    assert read(medium, 64, 256) == beside
    medium.close()


def test_nothing_but_zeros_outside_of_what_was_written(bench: Bench, medium: Medium) -> None:
    medium.prepare(16 * PAGE, 32 * PAGE)
    medium.prepare(32 * PAGE, CAPACITY, fill=False)
    stored(medium, 40 * PAGE + 192, 64)
    medium.flush([(40 * PAGE + 192, 40 * PAGE + 256)])
    medium.store(90 * PAGE + 64, np.ones(20 * PAGE, np.uint8))
    medium.flush([(90 * PAGE + 64, 110 * PAGE + 64)], sync=False)
    for start, stop in [(0, CAPACITY), (40 * PAGE + 128, 100 * PAGE), (200 * PAGE, CAPACITY)]:
        places, at = np.flatnonzero(medium.data[start:stop]) + start, start
        found = list(medium.written(start, stop))
        for first, last in found:
            assert at <= first < last <= stop
            at = last
        inside = np.zeros(places.size, bool)
        for first, last in found:
            inside |= (places >= first) & (places < last)
        assert inside.all()
    medium.close()


def test_a_file_tells_where_it_was_written_to(tmp_path: Path) -> None:
    medium = FileMedium(tmp_path / "pool", 64 << 20)
    medium.prepare(0, 64 << 20, fill=False)
    stored(medium, 32 << 20, 64)
    medium.flush([(32 << 20, (32 << 20) + 64)])
    found = list(medium.written(0, 64 << 20))
    if found == [(0, 64 << 20)]:
        pytest.skip("this file system does not say where a file has no data")
    assert sum(last - first for first, last in found) < 4 << 20 and list(medium.written(0, 16 << 20)) == []
    medium.close()


def test_groups_one_after_another(bench: Bench, medium: Medium) -> None:
    stops = np.cumsum(np.random.default_rng(5).integers(1, 32, 60)) * 64
    expected = b""
    for seed, (start, stop) in enumerate(zip([0, *stops], stops)):
        expected += stored(medium, start, stop - start, seed)
        medium.flush([(start, stop)])
    assert read(medium, 0, len(expected)) == expected
    if bench.persists:
        medium = bench.reopen(medium)
        assert read(medium, 0, len(expected)) == expected
        medium.close()


def test_a_sync_covers_what_was_flushed_without_one(bench: Bench, medium: Medium) -> None:
    rows = stored(medium, 64, 5000)
    medium.flush([(64, 5064)], sync=False)
    assert read(medium, 64, 5000) == rows
    medium.flush([])
    if bench.persists:
        medium = bench.reopen(medium)
    assert read(medium, 64, 5000) == rows
    medium.close()


def test_prepare_zeroes_for_good(bench: Bench, medium: Medium) -> None:
    stored(medium, 0, 8 * PAGE)
    medium.flush([(0, 8 * PAGE)])
    stored(medium, 5 * PAGE, 100, seed=2)  # and not flushed
    medium.prepare(2 * PAGE, 6 * PAGE)
    assert not medium.data[2 * PAGE : 6 * PAGE].any()
    assert medium.data[: 2 * PAGE].all() and medium.data[6 * PAGE : 8 * PAGE].all()
    if bench.persists:
        medium = bench.reopen(medium)
        assert not medium.data[2 * PAGE : 6 * PAGE].any() and medium.data[6 * PAGE : 8 * PAGE].all()
        medium.close()


def test_a_prepared_range_can_be_filled_again(bench: Bench, medium: Medium) -> None:
    for seed in range(3):
        medium.prepare(PAGE, 3 * PAGE)
        rows = stored(medium, PAGE, 2 * PAGE, seed)
        medium.flush([(PAGE, 3 * PAGE)])
        assert read(medium, PAGE, 2 * PAGE) == rows


def test_growing_keeps_everything(bench: Bench, medium: Medium) -> None:
    flushed = stored(medium, 0, 512)
    medium.flush([(0, 512)])
    old = medium.data
    medium.grow(2 * CAPACITY)
    assert medium.data.shape == (2 * CAPACITY,) and old.shape == (CAPACITY,)
    assert old[:512].tobytes() == read(medium, 0, 512) == flushed
    more = stored(medium, 512, 512, seed=2)
    medium.flush([(512, 1024)])
    medium.prepare(CAPACITY, CAPACITY + PAGE)
    beyond = stored(medium, CAPACITY, 64, seed=3)
    medium.flush([(CAPACITY, CAPACITY + 64)])
    if bench.persists:
        medium = bench.reopen(medium)
    assert read(medium, 0, 1024) == flushed + more and read(medium, CAPACITY, 64) == beyond
    medium.close()


def test_revert_keeps_what_was_flushed(medium: Medium) -> None:
    flushed = stored(medium, 0, 5000)
    medium.flush([(0, 5000)])
    stored(medium, 5056, 5000, seed=2)
    medium.revert()
    assert read(medium, 0, 5000) == flushed
    if not medium.inline or (type(medium) is SimulatedMedium and medium.granularity is Granularity.PAGE):
        assert not medium.data[5056 : 5056 + 5000].any()


def test_rewrite_makes_durable_what_is_visible(bench: Bench, medium: Medium) -> None:
    rows = stored(medium, 64, 5000)
    medium.flush([(64, 5064)], sync=False)
    medium.rewrite([(64, 5064)])
    if bench.persists:
        medium = bench.reopen(medium)
    assert read(medium, 64, 5000) == rows
    medium.close()


def test_closing_flushes_nothing_and_can_be_repeated(bench: Bench, medium: Medium) -> None:
    flushed, view = stored(medium, 0, 64), medium.data[:64]
    medium.flush([(0, 64)])
    medium.close()
    medium.close()
    assert view.tobytes() == flushed  # arrays that readers still hold outlive the medium


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 256 KiB, or, where none may be mounted, one on which every reservation beyond that fails."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        monkeypatch.setattr("os.posix_fallocate", refusing_beyond(256 * 1024))
    yield folder
    if not mounted.returncode:
        subprocess.run(["umount", "-l", folder], check=True)


def refusing_beyond(limit: int) -> Callable[[int, int, int], None]:
    def posix_fallocate(fd: int, start: int, size: int) -> None:
        if start + size > limit:
            raise OSError(errno.ENOSPC, "No space left on device")

    return posix_fallocate


def check_full(medium: Medium) -> None:
    medium.prepare(0, 16 * PAGE)
    rows = stored(medium, 0, PAGE)
    medium.flush([(0, PAGE)])
    with pytest.raises(FullError):
        medium.prepare(16 * PAGE, CAPACITY)
    assert read(medium, 0, PAGE) == rows
    more = stored(medium, PAGE, PAGE, seed=2)  # what is reserved can still be used
    medium.flush([(PAGE, 2 * PAGE)])
    assert read(medium, 0, 2 * PAGE) == rows + more


def test_a_hint_to_write_changes_nothing(bench: Bench, medium: Medium) -> None:
    middle, end = 3 * PAGE // 2, 19 * PAGE // 2
    rows = stored(medium, 0, middle)
    medium.flush([(0, middle)])
    medium.will_write(middle, 16 * PAGE)  # in the page where the last flush ended, too
    assert read(medium, 0, middle) == rows and not any(read(medium, middle, 14 * PAGE))
    more = stored(medium, middle, end - middle, seed=2)
    medium.flush([(middle, end)])
    assert read(medium, 0, end) == rows + more
    if bench.persists:
        with contextlib.closing(bench.reopen(medium)) as again:
            assert read(again, 0, end) == rows + more


@pytest.mark.parametrize("start", [0, 64, PAGE - 64, PAGE, 3 * PAGE + 640])
@pytest.mark.parametrize("size", [1, 640, PAGE, 2 * PAGE - 1, 5 * PAGE + 192])
@pytest.mark.parametrize("ready", [False, True])
def test_much_is_stored_as_little_is(bench: Bench, medium: Medium, start: int, size: int, ready: bool) -> None:
    medium.prepare(0, 16 * PAGE)
    if ready:
        medium.will_write(start, 12 * PAGE)
    raw = np.random.default_rng(size).integers(1, 256, size, np.uint8)
    raw.flags.writeable = False
    before, after = stored(medium, start, 64, seed=2), stored(medium, start + 64 + size, 64, seed=3)
    assert 0 <= medium.store(start + 64, raw) <= size
    whole = before + raw.tobytes() + after
    assert read(medium, start, len(whole)) == whole
    medium.flush([(start, start + len(whole))])
    behind = start + len(whole) + 63 & -64
    more = np.arange(3 * PAGE, dtype=np.uint64).view(np.uint8)[: 3 * PAGE]
    medium.store(behind, more)
    assert read(medium, start, len(whole)) == whole
    medium.flush([(behind, behind + more.size)])
    assert read(medium, behind, more.size) == more.tobytes()
    if bench.persists:
        with contextlib.closing(bench.reopen(medium)) as again:
            assert read(again, start, len(whole)) == whole
            assert read(again, behind, more.size) == more.tobytes()


def noted_writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Where a file is written from now on."""
    written: list[tuple[int, int]] = []
    pwrite = os.pwrite

    def noting(fd: int, view: memoryview, at: int) -> int:
        written.append((at, at + len(view)))
        return pwrite(fd, view, at)

    monkeypatch.setattr(os, "pwrite", noting)
    return written


def test_pages_that_were_stored_straight_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(FileMedium(tmp_path / "pool", CAPACITY)) as medium:
        medium.prepare(0, 16 * PAGE, fill=False)
        written = noted_writes(monkeypatch)
        medium.data[:64] = 1
        assert medium.store(64, np.full(4 * PAGE, 2, np.uint8)) == 3 * PAGE
        medium.flush([(0, 64 + 4 * PAGE)], sync=False)
        medium.flush([(0, 64 + 4 * PAGE)])
    assert sorted(written[:3]) == [(0, PAGE), (PAGE, 4 * PAGE), (4 * PAGE, 4 * PAGE + 64)]
    assert written[3:] == [(0, 64 + 4 * PAGE)], "asked again, it is written again"


def test_a_copy_under_way_does_not_hide_what_is_stored(tmp_path: Path) -> None:
    """One thread makes copies of pages all the time; another stores there."""
    with contextlib.closing(FileMedium(tmp_path / "pool", 64 * PAGE)) as medium, ThreadPoolExecutor(1) as other:
        medium.prepare(0, 64 * PAGE, fill=False)
        for value in range(1, 201):
            copies = [other.submit(medium.will_write, 0, 64 * PAGE) for _ in range(3)]
            medium.store(0, np.full(64 * PAGE, value, np.uint8))
            assert (medium.data == value).all()
            for copy in copies:
                copy.result()
            assert (medium.data == value).all()
            medium.flush([(0, 64 * PAGE)], sync=False)
            assert set((tmp_path / "pool").read_bytes()[: 64 * PAGE]) == {value}


def test_after_a_failed_sync_nothing_pretends_to_be_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with contextlib.closing(FileMedium(tmp_path / "pool", CAPACITY)) as medium:
        medium.prepare(0, 16 * PAGE, fill=False)
        medium.store(0, np.ones(4 * PAGE, np.uint8))
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", fails)
            with pytest.raises(OSError, match="Input/output error"):
                medium.flush([(0, 4 * PAGE)])
        with pytest.raises(OSError, match="a sync failed before"):
            medium.flush([(0, 4 * PAGE)])
        medium.rewrite([(0, 4 * PAGE)])
        medium.flush([(4 * PAGE, 5 * PAGE)])


def test_an_interrupted_sync_is_repeated_with_all_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(fd: int) -> None:
        raise KeyboardInterrupt

    with contextlib.closing(FileMedium(tmp_path / "pool", CAPACITY)) as medium:
        medium.prepare(0, 16 * PAGE, fill=False)
        medium.store(64, np.ones(4 * PAGE, np.uint8))
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(os, "fdatasync", interrupted)
            medium.flush([(0, 64 + 4 * PAGE)])
        written = noted_writes(monkeypatch)
        medium.flush([(0, 64 + 4 * PAGE)])
        assert written == [(0, 64 + 4 * PAGE)]


def test_a_full_disk_is_told_by_prepare(bench: Bench, small_disk: Path) -> None:
    if not bench.full_disk:
        assert isinstance(bench, InMemory | Simulated)
        return
    bench.folder = small_disk
    with contextlib.closing(bench.open()) as medium:
        check_full(medium)


@pytest.mark.parametrize("granularity", Granularity)
def test_a_full_simulated_disk_is_told_by_prepare(granularity: Granularity) -> None:
    check_full(SimulatedMedium(CAPACITY, granularity, room=256 * 1024))
