"""`pmkv.check`: says what is in a store, and where it is damaged; changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pmkv
from pmkv.data_directory import DataDirectory
from pmkv.errors import CorruptionError, UnknownNameError
from pmkv.log.format import Kind
from pmkv.tools.check import Report, check
from tests.unit.damaged import CAPACITY, flip, frames_of, numbered, overwrite, place_of

MARKER = np.full(16, 1234.5, "<f4")


def make(path: Path) -> Path:
    with pmkv.open(path, capacity=CAPACITY) as store:
        store.put_many({b"a": b"first value", b"b": b"second value"})
        store.put(b"c", b"x", ttl=3600)
        store.keyspace(3).put(b"long", np.random.default_rng(1).bytes(400_000))
        items = store.create_table("items", ("f4", 16))
        items.put(np.arange(10), np.ones((10, 16), "f4"))
        items.put([11], MARKER[None])
        items.delete([0])
    return path


def test_a_whole_store(tmp_path: Path) -> None:
    make(tmp_path)
    before = (tmp_path / "pool").read_bytes()
    report = check(tmp_path)
    assert report.is_whole and report.problems == []
    assert (report.keys, report.rows) == (4, 10)
    assert report.frames == len(frames_of(tmp_path))
    assert report.records == sum(frame.count for frame in frames_of(tmp_path))
    assert (tmp_path / "pool").read_bytes() == before


@pytest.mark.parametrize("what", [b"second value", MARKER.tobytes()], ids=["record", "row"])
def test_a_flipped_bit_is_reported_with_its_place(tmp_path: Path, what: bytes) -> None:
    at = place_of(make(tmp_path), what)
    frame = next(frame for frame in frames_of(tmp_path) if frame.body <= at < frame.body + frame.length)
    flip(tmp_path, at + 5)
    report = check(tmp_path)
    assert not report.is_whole
    assert len(report.problems) == 1
    assert f"damaged at offset {frame.offset:,} of the pool" in report.problems[0]
    assert f"frame {frame.lsn} is missing" in report.problems[0]


@pytest.mark.parametrize("kind", [Kind.OPEN, Kind.PART, Kind.CONTROL, Kind.PUT, Kind.ROWS])
def test_a_flipped_bit_of_any_frames_header(tmp_path: Path, kind: Kind) -> None:
    frame = next(frame for frame in frames_of(make(tmp_path)) if frame.kind == kind)
    for at in (0, 8, 10, 40, 56):
        flip(tmp_path, frame.offset + at)
        assert f"offset {frame.offset:,} " in "".join(check(tmp_path).problems)
        flip(tmp_path, frame.offset + at)
    assert check(tmp_path).is_whole


def test_a_damaged_header_of_a_segment(tmp_path: Path) -> None:
    numbered(tmp_path, 40, 60_000)
    overwrite(tmp_path, 4096, bytes(64))
    assert "the header of segment 0 (offset 4,096) is damaged" in check(tmp_path).problems[0]


def test_a_torn_tail_is_no_damage(tmp_path: Path) -> None:
    last = frames_of(make(tmp_path))[-1]
    overwrite(tmp_path, last.end, b"\1" * 300)  # what a frame never acknowledged may have left
    assert check(tmp_path).is_whole


def test_there_must_be_a_store(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="holds no store to be read"):
        check(tmp_path)


def test_a_report_of_nothing_is_whole() -> None:
    assert Report().is_whole and not Report(problems=["one"]).is_whole


class TestCheckpointed:
    """What a checkpoint wrote is looked at, too."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        with pmkv.open(tmp_path, capacity=CAPACITY) as store:
            store.put_many({b"key %d" % i: b"" for i in range(300)} | {b"long" * 200: b"v"})
            store.put(b"soon", b"v", ttl=3600)
            store.create_table("items", "i8").put(np.arange(300), np.arange(300))
            store.checkpoint()
            store.put(b"key 7", b"later")
            store.delete(b"key 8")
        assert check(tmp_path).is_whole
        return tmp_path

    def test_counts(self, path: Path) -> None:
        report = check(path)
        assert (report.keys, report.rows) == (301, 300)
        assert report.records == 2, "the log is replayed from the checkpoint on"

    def test_a_file_of_runs_that_is_gone(self, path: Path) -> None:
        (file,) = (path / "runs").iterdir()
        file.rename(path / "elsewhere")
        (problem,) = check(path).problems
        assert file.name in problem and "no such file" in problem

    @pytest.mark.parametrize("at", [5000, -5000])
    def test_a_flipped_bit_in_a_run(self, path: Path, at: int) -> None:
        (file,) = (path / "runs").iterdir()
        raw = bytearray(file.read_bytes())
        raw[at] ^= 1
        file.write_bytes(raw)
        (problem,) = check(path).problems
        assert "is damaged" in problem and file.name in problem

    def test_a_flipped_bit_in_the_directory_of_keys(self, path: Path) -> None:
        file = path / "catalog" / "data.mdb"
        raw = bytearray(file.read_bytes())
        raw[raw.index(b"key 123") + 4] ^= 1
        file.write_bytes(raw)
        assert any("the directory of keys" in problem for problem in check(path).problems)

    def test_a_directory_that_lacks_a_key(self, path: Path) -> None:
        place = DataDirectory(path, "auto", None, "page", readonly=False)
        place.open_pool()
        catalog, _ = place.open_files()
        catalog.commit(catalog.load(), (), [(0, b"key 123", 0)])
        place.close()
        assert check(path).problems == ["a scan of keyspace 0 finds 300 of its 301 keys"]


class TestWhileOpen:
    """Damage under an open store, which replay never sees: in memory it is there to be looked at."""

    @pytest.fixture
    def store(self) -> pmkv.Store:
        with pmkv.open(pool=":memory:", capacity=CAPACITY) as store:
            store.put(b"key", b"the value of a key")
            store.put(b"long", b"begin" + bytes(400_000))
            store.create_table("items", ("f4", 16)).put([5], MARKER[None])
            store.check()
            yield store

    @pytest.mark.parametrize(
        ("what", "message"),
        [
            (b"the value of a key", "a record of keyspace 0 at offset .* is damaged"),
            (MARKER.tobytes(), "row 5 of table 'items', at offset .* is damaged"),
            (b"begin" + bytes(40), "part 0 of a value, at offset .* is damaged"),
        ],
        ids=["record", "row", "part"],
    )
    def test_it_is_found(self, store: pmkv.Store, what: bytes, message: str) -> None:
        data = store._engine.pool.medium.data
        data[data[: 4 << 20].tobytes().index(what)] ^= 1
        with pytest.raises(CorruptionError, match=message):
            store.check()
