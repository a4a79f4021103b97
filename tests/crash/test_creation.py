"""A crash while a data directory is made leaves something that can be opened: nothing is in it that could be lost."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

import pmkv
from pmkv import data_directory
from pmkv.data_directory import IDENTITY
from pmkv.tools.check import check
from pmkv.tools.dump import dump
from pmkv.tools.salvage import salvage

pytestmark = pytest.mark.crash

CAPACITY = 4 << 20


class Crash(Exception):
    """Stands for the end of the process."""


def check_usable(folder: Path) -> None:
    with pmkv.open(folder, capacity=CAPACITY) as store:
        assert len(store.keyspace(0)) == 0 and not store.tables()
        store.put(b"key", b"value")
    with pmkv.open(folder, capacity=CAPACITY) as store:
        assert store.get(b"key") == b"value"


# which of the eight words of the pool's header have reached the medium
WORDS = [[word for word in range(8) if mask >> word & 1] for mask in range(0, 256, 5)]


@pytest.mark.parametrize("words", WORDS, ids=str)
def test_a_torn_header_of_a_pool_that_no_directory_knows(words: list[int], tmp_path: Path) -> None:
    pmkv.open(tmp_path / "whole", capacity=CAPACITY).close()
    whole = np.fromfile(tmp_path / "whole" / "pool", np.uint64, 8)
    torn = np.zeros(CAPACITY // 8, np.uint64)
    torn[words] = whole[words]
    folder = tmp_path / "torn"
    folder.mkdir()
    torn.tofile(folder / "pool")
    check_usable(folder)


@pytest.mark.parametrize("function", ["os.posix_fallocate", "os.fdatasync", "os.replace", "os.fsync"])
def test_an_end_before_a_system_call(function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*arguments: object) -> None:
        raise Crash(function)

    with monkeypatch.context() as patched:
        patched.setattr(function, end)
        with pytest.raises(Crash):
            pmkv.open(tmp_path, capacity=CAPACITY)
    check_usable(tmp_path)


def test_a_store_without_a_checkpoint_has_no_catalog(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with pmkv.open(folder, capacity=CAPACITY) as store:
        store.put(b"key", b"value")
        with pmkv.open(folder, readonly=True) as reader:
            assert reader.get(b"key") == b"value"
    before = {path.name for path in folder.iterdir()}
    assert before == {"pool", IDENTITY, "lock"}
    with pmkv.open(folder, readonly=True) as reader:
        assert list(reader.scan()) == [(b"key", b"value")]
        reader.check()
    report = check(folder)
    assert report.is_whole and report.keys == 1
    dump(folder, io.StringIO())
    assert salvage(folder, tmp_path / "copy").records == 1
    assert {path.name for path in folder.iterdir()} == before
    with pmkv.open(folder, capacity=CAPACITY) as store:
        store.checkpoint()
        assert {path.name for path in folder.iterdir()} == before | {"catalog", "runs", "row_ids"}
    with pmkv.open(folder, capacity=CAPACITY) as store:
        assert store.get(b"key") == b"value"
    assert check(folder).is_whole


def test_half_of_an_identity_was_not_put_in_place(tmp_path: Path) -> None:
    (tmp_path / (IDENTITY + ".new")).write_text('{"format": 1, "po')
    check_usable(tmp_path)


@pytest.mark.parametrize("start", [0, 8, 4096, 4096 + 64])
def test_a_pool_with_data_is_never_made_anew(start: int, tmp_path: Path) -> None:
    """Whatever else is missing: with its identity a damaged pool is damage, without it it is somebody's pool."""
    with pmkv.open(tmp_path, capacity=CAPACITY) as store:
        store.put(b"key", b"value")
    pool = np.fromfile(tmp_path / "pool", np.uint8)
    pool[start : start + 8] = 0
    pool.tofile(tmp_path / "pool")
    with pytest.raises((pmkv.CorruptionError, pmkv.FormatError)):
        pmkv.open(tmp_path, capacity=CAPACITY)
    (tmp_path / IDENTITY).unlink()
    with pytest.raises((pmkv.CorruptionError, pmkv.FormatError)):
        pmkv.open(tmp_path, capacity=CAPACITY)
    assert (np.fromfile(tmp_path / "pool", np.uint8) == pool).all()


def test_persistent_memory_can_be_required(tmp_path: Path) -> None:
    for require in ("cache_line", "byte"):
        with pytest.raises(pmkv.InvalidError, match=r"MAP_SYNC was refused|libpmem"):
            pmkv.open(tmp_path, capacity=CAPACITY, require=require)
    with pmkv.open(tmp_path, capacity=CAPACITY, require="page") as store:
        assert store.granularity == "page"
    assert pmkv.open(pool=":memory:", capacity=CAPACITY, require="byte").granularity == "byte"


def test_persistent_memory_is_taken_where_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs_libpmem: str
) -> None:
    """With the one thing replaced that this machine has not: a file system that grants MAP_SYNC."""
    monkeypatch.setenv("PMEM_IS_PMEM_FORCE", "1")
    monkeypatch.setattr(data_directory, "probe", lambda place: pmkv.media.base.Granularity.CACHE_LINE)
    medium = data_directory.DaxMedium
    monkeypatch.setattr(data_directory, "DaxMedium", lambda place, capacity: medium(place, capacity, force=True))
    with pmkv.open(tmp_path, capacity=CAPACITY, require="cache_line") as store:
        assert store.granularity == "cache_line" and store.stats().granularity == "cache_line"
        store.put_many({b"%d" % i: bytes(1000) for i in range(100)})
        table = store.create_table("t", ("f4", 4))
        table.put(np.arange(10), np.ones((10, 4)))
    with pmkv.open(tmp_path, capacity=CAPACITY) as store:
        assert len(store.keyspace(0)) == 100 and store.table("t").get([3]).sum() == 4
