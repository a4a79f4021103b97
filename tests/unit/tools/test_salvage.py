"""Salvage: what is whole of a damaged store, in a new one, and word of the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import pmkv
from pmkv.errors import CorruptionError, InvalidError
from pmkv.log.format import Kind
from pmkv.tools.salvage import salvage
from tests.unit.damaged import CAPACITY, frames_of, numbered, overwrite


def contents(path: Path) -> dict[bytes, bytes]:
    with pmkv.open(path, readonly=True) as store:
        return dict(store.scan())


def refuses(path: Path) -> None:
    with pytest.raises(CorruptionError, match=r"salvage what is whole|is damaged"):
        pmkv.open(path, capacity=CAPACITY)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_a_zeroed_page_in_the_middle(tmp_path: Path, share: float) -> None:
    model = numbered(tmp_path / "old", 600, 900)
    frames = [frame for frame in frames_of(tmp_path / "old") if frame.kind == Kind.PUT]
    page = frames[int(share * len(frames))].offset // 4096 * 4096
    lost = {key for key, frame in zip(model, frames) if frame.offset < page + 4096 and frame.end > page}
    overwrite(tmp_path / "old", page, bytes(4096))
    before = (tmp_path / "old" / "pool").read_bytes()
    raises_or_serves(tmp_path / "old", model, lost)
    shutil.rmtree(tmp_path / "old" / "catalog")  # without it all of the log is replayed
    refuses(tmp_path / "old")
    result = salvage(tmp_path / "old", tmp_path / "new")
    assert lost and contents(tmp_path / "new") == {key: model[key] for key in model if key not in lost}
    assert result.records == len(model) - len(lost) and result.problems == []
    assert (tmp_path / "old" / "pool").read_bytes() == before, "the damaged store is only read"


def raises_or_serves(path: Path, model: dict[bytes, bytes], lost: set[bytes]) -> None:
    """Damage behind the last checkpoint concerns nobody but who reads it."""
    raised = 0
    with pmkv.open(path, readonly=True) as store:
        for key, value in model.items():
            try:
                assert store.get(key) == value
            except CorruptionError:
                raised += 1
                assert key in lost
    assert raised


@pytest.mark.parametrize("segment", [0, 1])
def test_a_zeroed_header_of_a_segment_loses_nothing(tmp_path: Path, segment: int) -> None:
    model = numbered(tmp_path / "old", 40, 60_000)
    assert any(frame.kind == Kind.NEXT for frame in frames_of(tmp_path / "old")), "the log has more than one segment"
    with pmkv.open(tmp_path / "old", readonly=True) as store:
        start = 4096 + segment * store.stats().segment_size
    overwrite(tmp_path / "old", start, bytes(64))
    refuses(tmp_path / "old")
    salvage(tmp_path / "old", tmp_path / "new")
    assert contents(tmp_path / "new") == model


def test_tables_keyspaces_expiries_and_deletes(tmp_path: Path) -> None:
    soon = 4_000_000_000_000
    with pmkv.open(tmp_path / "old", capacity=CAPACITY) as store:
        items = store.create_table("items", ("f4", 4))
        items.put([1, 2, -3], np.arange(12, dtype="f4").reshape(3, 4))
        items.delete([2])
        store.create_table("gone", "i8")
        store.drop_table("gone")
        dense = store.create_table("dense", [("price", "f8"), ("tag", "S4")], rows=10)
        dense.put([9], np.array([(2.5, b"tag")], dense.dtype))
        quantised = store.create_table("int8", ("f4", 3), codec="int8", default=0.5)
        quantised.put([5], [[0.1, 0.2, 0.7]])
        encoded = quantised.get([5], encoded=True).tobytes()
        store.put(b"victim", bytes(8192))
        store.keyspace(4).put(b"k", b"v", expire_at=soon)
        store.keyspace(5).put(b"cleared", b"v")
        store.keyspace(5).clear()
        store.put_many({b"x": b"1", b"y": b"2"})
        store.delete(b"x")
        store.put(b"long", np.random.default_rng(3).bytes(900_000))
    victim = next(frame for frame in frames_of(tmp_path / "old") if frame.kind == Kind.PUT)
    overwrite(tmp_path / "old", victim.body + 100, bytes([255] * 10))
    refuses(tmp_path / "old")
    salvage(tmp_path / "old", tmp_path / "new")
    with pmkv.open(tmp_path / "new", capacity=CAPACITY) as store:
        assert store.keyspace(4).entry(b"k") == (b"v", soon) and len(store.keyspace(5)) == 0
        assert store.get_many([b"victim", b"x", b"y"]) == [None, None, b"2"]
        assert store.get(b"long") == np.random.default_rng(3).bytes(900_000)
        rows, found = store.table("items").get([1, 2, -3], return_found=True)
        assert found.tolist() == [True, False, True] and rows[2].tolist() == [8, 9, 10, 11]
        assert store.table("int8").get([5], encoded=True).tobytes() == encoded
        assert store.table("int8").get([6]).tolist() == [[0.5, 0.5, 0.5]]
        assert set(store.tables()) == {"items", "dense", "int8"} and store.table("dense").rows == 10
        assert store.table("dense").get([9])[0].tolist() == (2.5, b"tag")
        store.check()


def versions(store: pmkv.Store) -> dict[str, object]:
    """What every view shows."""
    shown = {}
    for name in store.views():
        view = store.view(name)
        tables = {one: sorted(zip(*map(np.ndarray.tolist, next(iter(t.scan()), (np.empty(0),) * 2))))
                  for one, t in view.tables().items()}  # fmt: skip
        shown[name] = dict(view.scan()), dict(view.keyspace(3).scan()), tables
    return shown


@pytest.mark.parametrize("steps", range(1, 8))
def test_versions_are_those_of_the_source(tmp_path: Path, steps: int) -> None:
    with pmkv.open(tmp_path / "old", capacity=CAPACITY) as store:
        store.put(b"victim", bytes(8192))
        items = store.create_table("items", "i8")
        items.put([1, 2], [1, 2])
        store.snapshot("v1")
        canary = store.branch("canary")
        canary.table("items").put([2, 3], [20, 30])
        canary.keyspace(3).put(b"dense", b"2")
        canary.create_table("new", "i8").put([5], [5])
        store.put(b"session", b"1")
        changes = [
            lambda: store.promote("canary"),
            lambda: items.put([4], [4]),
            lambda: store.undo(force=True),
            lambda: canary.drop_table("new"),
            lambda: store.rollback("v1"),
            lambda: store.delete_view("v1"),
            lambda: store.promote("canary", force=True),
        ]
        for change in changes[:steps]:
            change()
        shown = versions(store)
    victim = next(frame for frame in frames_of(tmp_path / "old") if frame.kind == Kind.PUT)
    overwrite(tmp_path / "old", victim.body + 100, bytes([255] * 10))
    result = salvage(tmp_path / "old", tmp_path / "new")
    assert result.problems == []
    for keys, _, _ in shown.values():
        keys.pop(b"victim", None)
    with pmkv.open(tmp_path / "new", capacity=CAPACITY) as store:
        assert versions(store) == shown
        store.check()


def test_what_stands_on_something_lost_is_told(tmp_path: Path) -> None:
    with pmkv.open(tmp_path / "old", capacity=CAPACITY) as store:
        store.put_many({b"short": b"1", b"long": np.random.default_rng(3).bytes(900_000), b"other": b"2"})
        store.create_table("items", "i8").put([1], [1])
    frames = frames_of(tmp_path / "old")
    part = [frame for frame in frames if frame.kind == Kind.PART][1]
    create = next(frame for frame in frames if frame.kind == Kind.CONTROL)
    for frame in (part, create):
        overwrite(tmp_path / "old", frame.body + 5, b"\xff\xff")
    result = salvage(tmp_path / "old", tmp_path / "new")
    assert contents(tmp_path / "new") == {b"short": b"1", b"other": b"2"}
    assert len(result.problems) == 2
    assert "b'long' of keyspace 0 is left out: part 1 of a value" in result.problems[0]
    assert "table 1 is not known" in result.problems[1]


def test_a_nearly_full_store_of_small_records_fits(tmp_path: Path) -> None:
    with pmkv.open(tmp_path / "old", capacity=CAPACITY) as store:
        for start in range(0, 100_000, 10_000):
            store.put_many({b"%08d" % number: b"value" for number in range(start, start + 10_000)})
    result = salvage(tmp_path / "old", tmp_path / "new")
    assert result.records == 100_000 and not result.problems
    with pmkv.open(tmp_path / "new", readonly=True) as store:
        assert len(store.keyspace(0)) == 100_000


def test_the_target_must_be_empty(tmp_path: Path) -> None:
    numbered(tmp_path / "old", 3, 10)
    with pytest.raises(InvalidError, match="is not empty: salvage into a new directory"):
        salvage(tmp_path / "old", tmp_path / "old")
