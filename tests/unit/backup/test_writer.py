"""Backups of a store: round trips, increments, views, interruptions, and writers meanwhile."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pmkv
from pmkv.backup import writer
from pmkv.backup.held import HELD
from pmkv.backup.target import Directory
from pmkv.errors import InvalidError, LockedError, UnknownNameError, UnknownViewError
from tests.unit.backup.contents import CAPACITY, contents, contents_of, fill


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pmkv.Store]:
    with pmkv.open(tmp_path / "store", capacity=CAPACITY) as opened:
        fill(opened)
        yield opened


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PIECE_BYTES", 4096)


def restored(source: Path | str, tmp_path: Path) -> dict[str, dict[str, object]]:
    """Return the contents of a store made from a backup."""
    folder = tmp_path / "restored"
    shutil.rmtree(folder, ignore_errors=True)
    pmkv.restore(source, folder)
    return contents_of(folder)


def test_a_restored_store_is_equal(store: pmkv.Store, tmp_path: Path) -> None:
    report = store.backup(tmp_path / "backup")
    assert restored(tmp_path / "backup", tmp_path) == {"main": contents(store)}
    assert report.lsn <= store.durable_lsn and report.pieces > 10
    assert sorted(store.views()) == ["main"]
    store.check()


@pytest.mark.parametrize("how", ["checkpointed", "in memory"])
def test_wherever_the_index_is(store: pmkv.Store, tmp_path: Path, how: str) -> None:
    if how == "checkpointed":
        store.checkpoint()
        store.backup(tmp_path / "backup")
        assert restored(tmp_path / "backup", tmp_path) == {"main": contents(store)}
        return
    with pmkv.open(pool=":memory:", capacity=CAPACITY) as volatile:
        fill(volatile)
        volatile.backup(tmp_path / "backup")
        assert restored(tmp_path / "backup", tmp_path) == {"main": contents(volatile)}


def test_only_live_bytes_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PIECE_BYTES", 1 << 20)
    with pmkv.open(tmp_path / "store", capacity=CAPACITY) as store:
        table = store.create_table("items", ("f4", 64))
        for value in range(5):
            table.put(np.arange(4000), np.full((4000, 64), value, "f4"))
        report = store.backup(tmp_path / "backup")
    assert 4000 * 256 < report.bytes < 1.1 * 4000 * 256
    assert sum(one.stat().st_size for one in (tmp_path / "backup").iterdir()) < 1.1 * 4000 * 256


def test_an_increment_holds_what_changed(store: pmkv.Store, tmp_path: Path) -> None:
    first = store.backup(tmp_path / "one")
    vectors = store.table("vectors")
    ids, rows = next(vectors.scan())
    vectors.put(ids[:3], rows[:3] + 1)
    vectors.delete(ids[3:5])
    store.put(b"key:1\0\xff", b"changed")
    store.delete(b"key:2\0\xff")
    second = store.backup(tmp_path / "two", since=tmp_path / "one")
    assert (second.entries, second.bytes < first.bytes / 10) == (3 + 2 + 1 + 1, True)
    assert restored(tmp_path / "two", tmp_path) == {"main": contents(store)}
    store.drop_table("flags")
    store.create_table("flags", "i8").put([1], [2])
    store.keyspace(15).clear()
    third = store.backup(tmp_path / "three", since=second)
    assert third.entries == 1 + 1
    assert restored(tmp_path / "three", tmp_path) == {"main": contents(store)}


def test_an_increment_where_nothing_changed_has_no_pieces(store: pmkv.Store, tmp_path: Path) -> None:
    store.backup(tmp_path / "one")
    report = store.backup(tmp_path / "two", since=tmp_path / "one")
    assert (report.entries, report.pieces) == (0, 0)
    assert restored(tmp_path / "two", tmp_path) == {"main": contents(store)}


def test_increments_beside_each_other(store: pmkv.Store, tmp_path: Path) -> None:
    """Each can be restored by its manifest; a whole backup replaces them all."""
    place, states = tmp_path / "backup", {}
    for step in range(3):
        store.put(b"step", b"%d" % step)
        report = store.backup(place, since=place if step else None)
        states[report.manifest] = contents(store)
    for manifest, state in states.items():
        assert restored(manifest, tmp_path) == {"main": state}
    last = store.backup(place)
    names = {name for name in os.listdir(place) if name != "current.json"}
    assert all(name.startswith(last.id) for name in names)


def test_an_increment_after_a_rollback_and_a_restart(tmp_path: Path) -> None:
    with pmkv.open(tmp_path / "store", capacity=CAPACITY) as store:
        fill(store)
        store.snapshot("v1")
        store.put(b"later", b"x")
        store.table("vectors").delete(next(store.table("vectors").scan())[0][:10])
        store.backup(tmp_path / "one")
        store.rollback("v1")
    with pmkv.open(tmp_path / "store") as store:
        report = store.backup(tmp_path / "two", since=tmp_path / "one")
        assert report.entries == 10 + 1
        assert restored(tmp_path / "two", tmp_path) == {"main": contents(store)}


def test_one_view(store: pmkv.Store, tmp_path: Path) -> None:
    store.snapshot("v1")
    before = contents(store)
    store.put(b"later", b"x")
    store.branch("next", at="v1").put(b"new", b"y")
    store.backup(tmp_path / "v1", view="v1")
    store.backup(tmp_path / "next", view="next")
    assert restored(tmp_path / "v1", tmp_path) == {"main": before}
    assert restored(tmp_path / "next", tmp_path) == {"main": contents(store.view("next"))}
    with pytest.raises(UnknownViewError, match="'v2'"):
        store.backup(tmp_path / "v2", view="v2")


def many_views(store: pmkv.Store) -> None:
    """Make views that share most of what they hold."""
    vectors = store.table("vectors")
    ids, rows = next(vectors.scan())
    store.snapshot("v1")
    vectors.put(ids[:5], rows[:5] + 1)
    canary = store.branch("canary", at="v1")
    canary.table("vectors").delete(ids[:2])
    canary.put(b"canary", b"1")
    store.snapshot("v2")
    store.drop_table("text")
    canary.snapshot("canary-1")
    canary.drop_table("flags")
    store.put(b"key:3\0\xff", b"main")


def test_all_views(store: pmkv.Store, tmp_path: Path) -> None:
    many_views(store)
    whole = store.backup(tmp_path / "main")
    report = store.backup(tmp_path / "all", view=None)
    assert report.bytes < 1.2 * whole.bytes
    assert restored(tmp_path / "all", tmp_path) == {name: contents(store.view(name)) for name in store.views()}


def test_a_restored_branch_is_promoted_as_before(store: pmkv.Store, tmp_path: Path) -> None:
    """A promote takes what the branch wrote, and nothing else, and conflicts where it would have."""
    many_views(store)
    store.backup(tmp_path / "all", view=None)
    pmkv.restore(tmp_path / "all", tmp_path / "copy")
    with pmkv.open(tmp_path / "copy") as copy:
        for one in (store, copy):
            with pytest.raises(pmkv.ConflictError, match=r"1 writes in keyspace 0.*5 writes in vectors"):
                one.promote("canary")
            one.promote("canary", tables=["vectors", "flags"], force=True)
        assert contents(copy) == contents(store)


def test_increments_of_all_views(store: pmkv.Store, tmp_path: Path) -> None:
    many_views(store)
    store.backup(tmp_path / "all", view=None)
    store.rollback("v1")
    store.delete_view("canary-1")
    store.delete_view("canary")
    store.branch("canary", at="v2").put(b"second", b"life")
    store.snapshot("v3")
    store.delete_view("undo")
    report = store.backup(tmp_path / "all", view=None, since=tmp_path / "all")
    assert report.entries < 20
    assert restored(tmp_path / "all", tmp_path) == {name: contents(store.view(name)) for name in store.views()}


def test_what_expired_is_left_out(store: pmkv.Store, tmp_path: Path) -> None:
    store.backup(tmp_path / "one")
    store.put(b"key:4\0\xff", b"short", expire_at=978_307_200_001)
    store.backup(tmp_path / "two", since=tmp_path / "one")
    found = restored(tmp_path / "two", tmp_path)["main"]
    assert b"key:4\0\xff" not in found["keyspace 0"]
    assert found == contents(store)


def test_an_interrupted_backup_leaves_the_one_before(
    store: pmkv.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.backup(tmp_path / "backup")
    before = contents(store)
    store.put(b"later", b"x")
    write = Directory.write

    def fail(self: Directory, name: str, content: bytes) -> None:
        if name.endswith("-000003.piece"):
            raise KeyboardInterrupt
        write(self, name, content)

    monkeypatch.setattr(Directory, "write", fail)
    for place in ("backup", "new"):
        with pytest.raises(KeyboardInterrupt):
            store.backup(tmp_path / place)
    monkeypatch.undo()
    assert sorted(store.views()) == ["main"]
    assert restored(tmp_path / "backup", tmp_path) == {"main": before}
    with pytest.raises(UnknownNameError, match="but an interrupted one"):
        pmkv.restore(tmp_path / "new", tmp_path / "nothing")
    last = store.backup(tmp_path / "new")
    assert all(name.startswith((last.id, "current")) for name in os.listdir(tmp_path / "new"))


def test_what_a_killed_process_held_is_let_go(store: pmkv.Store, tmp_path: Path) -> None:
    store.snapshot(f"{HELD}0123")
    store.snapshot("v1")
    store.close()
    with pmkv.open(tmp_path / "store") as again:
        assert sorted(again.views()) == ["main", "v1"]


def test_of_another_store_or_another_history(store: pmkv.Store, tmp_path: Path) -> None:
    with pmkv.open(tmp_path / "other", capacity=CAPACITY) as other:
        other.backup(tmp_path / "of-other")
    with pytest.raises(InvalidError, match="of another store"):
        store.backup(tmp_path / "two", since=tmp_path / "of-other")
    store.close()
    shutil.copytree(tmp_path / "store", tmp_path / "old")
    with pmkv.open(tmp_path / "store") as opened:
        opened.put(b"a", b"1")
        opened.backup(tmp_path / "one")
    with pmkv.open(tmp_path / "old") as opened:
        opened.put(b"b", b"2")
        opened.put(b"c", b"3")
        with pytest.raises(InvalidError, match="another history"):
            opened.backup(tmp_path / "two", since=tmp_path / "one")


def test_two_at_a_time_are_refused(store: pmkv.Store, tmp_path: Path) -> None:
    def again(done: int, total: int) -> None:
        with pytest.raises(LockedError, match="under way"):
            store.backup(tmp_path / "other")

    store.backup(tmp_path / "one", progress=again)
    with store.batch(), pytest.raises(InvalidError, match="within a batch"):
        store.backup(tmp_path / "one")


def test_progress_ends_at_the_total(store: pmkv.Store, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    store.backup(tmp_path / "backup", progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told) and told[-1][0] == told[-1][1]
    told.clear()
    pmkv.restore(tmp_path / "backup", tmp_path / "copy", progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told) and told[-1][0] == told[-1][1]


def test_a_store_that_is_written_meanwhile(tmp_path: Path) -> None:
    """Pairs that are always written together are equal in the backup, and in an increment."""
    with pmkv.open(tmp_path / "store", capacity="256MiB") as store:
        left, right = store.create_table("left", "i8"), store.create_table("right", "i8")
        ids, stop = np.arange(2000), threading.Event()

        def write() -> None:
            step = 0
            while not stop.is_set():
                step += 1
                some = np.random.default_rng(step).permutation(ids)[:50]
                with store.transaction() as txn:
                    txn.table("left").put(some, np.full(50, step))
                    txn.table("right").put(some, np.full(50, step))
                    txn.put(b"step", b"%d" % step)

        left.put(ids, ids * 0)
        right.put(ids, ids * 0)
        writer_thread = threading.Thread(target=write)
        writer_thread.start()
        try:
            for place, since in (("one", None), ("two", "one"), ("three", "two")):
                store.backup(tmp_path / place, since=since and tmp_path / since)
        finally:
            stop.set()
            writer_thread.join()
        store.check()
    for place in ("one", "three"):
        pmkv.restore(tmp_path / place, tmp_path / f"copy-{place}")
        with pmkv.open(tmp_path / f"copy-{place}") as copy:
            rows = copy.table("left").get(ids)
            assert (rows == copy.table("right").get(ids)).all()
            assert int(copy.get(b"step") or b"0") == rows.max()


def test_a_readonly_store(store: pmkv.Store, tmp_path: Path) -> None:
    state = contents(store)
    store.snapshot("v1")
    store.close()
    with pmkv.open(tmp_path / "store", readonly=True) as frozen:
        frozen.backup(tmp_path / "backup", view=None)
    assert restored(tmp_path / "backup", tmp_path) == {"main": state, "v1": state}


def test_a_store_that_follows_stands_still_meanwhile(store: pmkv.Store, tmp_path: Path) -> None:
    """A backup is of one state, also of a readonly store beside its writer."""
    with pmkv.open(tmp_path / "store", readonly=True) as following:
        state = contents(following)

        def write(done: int, total: int) -> None:
            store.put(b"later", b"%d" % done)
            time.sleep(0.2)  # the thread that follows looks several times

        following.backup(tmp_path / "backup", progress=write)
        following.refresh()
        assert following.get(b"later") is not None
    pmkv.restore(tmp_path / "backup", tmp_path / "copy")
    with pmkv.open(tmp_path / "copy") as copy:
        assert contents(copy) == state
