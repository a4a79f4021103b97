"""The objects of a view stay what they are while versions come and go."""

from __future__ import annotations

import pytest

from pmkv.engine.engine import Engine
from pmkv.engine.watches import Watch
from pmkv.errors import ReadOnlyError, UnknownNameError, UnknownViewError
from tests.engines import Clock, eio, failing_engine, reopen, small_engine


@pytest.fixture
def engine() -> Engine:
    engine = small_engine(segments=32)
    engine.create_table("t", "i8").put([1], [1])
    engine.keyspaces[2].put(b"k", b"1")
    return engine


def test_tables_and_keyspaces_follow_a_rollback(engine: Engine) -> None:
    table, space = engine.tables["t"], engine.keyspaces[2]
    engine.versions.snapshot("s")
    table.put([1, 2], [10, 20])
    space.put(b"k", b"2")
    later = engine.create_table("later", "i8")
    engine.versions.rollback("s")
    assert table is engine.tables["t"] and table.get([1, 2]).tolist() == [1, 0] and space.get(b"k") == b"1"
    with pytest.raises(UnknownNameError, match="'later' was dropped"):
        later.get([1])
    engine.versions.undo()
    assert table.get([1, 2]).tolist() == [10, 20] and engine.tables["later"].get([1]).tolist() == [0]
    engine.check()


def test_a_snapshot_takes_no_writes(engine: Engine) -> None:
    engine.versions.snapshot("s")
    view = engine.view("s")
    for write in (
        lambda: view.tables["t"].put([1], [5]), lambda: view.tables["t"].add([1], [5]),
        lambda: view.tables["t"].delete([1]), lambda: view.keyspace(2).put(b"k", b"v"),
        lambda: view.keyspace(2).delete(b"k"), lambda: view.keyspace(2).expire(b"k", 1),
        lambda: view.keyspace(2).clear(), lambda: engine.clear_all("s"),
        lambda: engine.versions.rollback("s", head="s"),
        lambda: engine.create_table("x", "i8", head="s"), lambda: engine.drop_table("t", "s"),
        lambda: engine.versions.snapshot("of-it", "s"),
    ):  # fmt: skip
        with pytest.raises(ReadOnlyError, match="is a snapshot"):
            write()
    assert view.tables["t"].get([1]).tolist() == [1] and view.keyspace(2).get(b"k") == b"1"


@pytest.mark.parametrize("kind", ["snapshot", "branch"])
def test_what_was_deleted_says_so(engine: Engine, kind: str) -> None:
    getattr(engine.versions, kind)("v")
    view = engine.view("v")
    table, space = view.tables["t"], view.keyspace(2)
    engine.versions.delete_view("v")
    for use in (
        lambda: table.get([1]), lambda: len(table), lambda: table.put([1], [1]), lambda: space.get(b"k"),
        lambda: space.put(b"k", b"v"), lambda: list(space.scan()), lambda: space.keys(), lambda: len(space),
        lambda: view.keyspace(0), lambda: engine.view("v"), lambda: list(table.scan()),
        lambda: Watch().add(space, b"k"),
    ):  # fmt: skip
        with pytest.raises(UnknownViewError, match="'v'"):
            use()
    engine.versions.snapshot("v")
    with pytest.raises(UnknownViewError):  # another view has the name now
        space.get(b"k")


def test_after_a_failed_flush_views_are_what_is_durable() -> None:
    engine, medium = failing_engine(16)
    engine.create_table("t", "i8").put([1], [1])
    engine.versions.snapshot("s")
    branch = engine.versions.branch("b")
    table, space = branch.tables["t"], branch.keyspace(0)
    table.put([2], [2])
    engine.tables["t"].put([3], [3])
    medium.flush_error = eio()
    with engine.log.deferred():
        engine.versions.branch("lost")
        lost = engine.view("lost").keyspace(0)
        table.put([9], [9])
        engine.versions.promote("b", force=True)
    with pytest.raises(Exception, match="refused a flush"):
        engine.log.flush(engine.log.lsn)
    assert table.get([1, 2, 9]).tolist() == [1, 2, 0] and space.get(b"k") is None
    assert engine.tables["t"].get([1, 2, 3]).tolist() == [1, 0, 3]
    assert sorted(engine.views()) == ["b", "main", "s"] and engine.main_changes == (0, 0)
    with pytest.raises(UnknownViewError):
        lost.get(b"k")
    engine.check()


@pytest.mark.parametrize("use", ["get", "len", "keyspace", "view", "put"])
def test_who_is_told_that_a_view_is_gone_waits_until_that_is_durable(engine: Engine, use: str) -> None:
    engine.versions.branch("b")
    view = engine.view("b")
    with engine.log.deferred():
        engine.versions.delete_view("b")
    uses = {
        "get": lambda: view.tables["t"].get([1]) if "t" in view.tables else None,
        "len": lambda: len(view.keyspaces[0]),
        "keyspace": lambda: view.keyspace(0),
        "view": lambda: engine.view("b"),
        "put": lambda: view.keyspaces[0].put(b"k", b"v"),
    }
    with engine.log.deferred() as seen, pytest.raises(UnknownViewError):
        uses[use]()
    assert seen.lsn == engine.log.lsn > engine.log.durable
    with pytest.raises(UnknownViewError):
        uses[use]()
    assert engine.log.durable == engine.log.lsn


def test_what_is_told_of_a_view_waits_for_its_writes(engine: Engine) -> None:
    branch = engine.versions.branch("b")
    with engine.log.deferred():
        branch.keyspace(0).put(b"k", b"v")
    with engine.log.deferred() as seen:
        assert engine.view_info("b").writes == 1
    assert seen.lsn == engine.log.lsn


def test_expiry_in_views_is_by_the_clock_now_and_a_rollback_revives_nothing() -> None:
    clock = Clock()
    engine = small_engine(segments=32, now=clock)
    space = engine.keyspaces[0]
    space.put_many({b"a": b"1", b"b": b"1"}, expire_at=clock.now + 1000)
    space.put(b"c", b"1")
    engine.versions.snapshot("s")
    space.expire(b"b", 0)
    engine.versions.branch("branch", at="s").keyspace(0).put(b"a", b"2")
    old = engine.view("s").keyspace(0)
    assert len(old) == 3 and old.get(b"a") == b"1"
    clock.now += 2000
    assert len(old) == 1 and old.get_many([b"a", b"b", b"c"]) == [None, None, b"1"]
    assert [key for key, _ in old.scan()] == [b"c"] and len(space) == 2
    assert engine.view("branch").keyspace(0).get(b"a") == b"2" and len(engine.view("branch").keyspace(0)) == 2
    engine.versions.rollback("s")
    assert len(space) == 1 and space.get_many([b"a", b"b"]) == [None, None]
    engine.check()


@pytest.mark.parametrize("again", [False, True])
def test_nothing_is_decided_for_a_view_that_was_deleted_just_before(engine: Engine, again: bool) -> None:
    """Its keyspace was looked at, then it was deleted by another thread, then the lock came."""
    space = engine.versions.branch("b").keyspace(0)
    space.put(b"k", b"v")
    real = engine.log.locks.append

    class Late:
        def __enter__(self) -> None:
            engine.log.locks.append = real
            engine.versions.delete_view("b")
            if again:
                engine.versions.branch("b").keyspace(0).put(b"k", b"of another")
            real.acquire()

        def __exit__(self, *_: object) -> None:
            real.release()

    engine.log.locks.append = Late()
    with pytest.raises(UnknownViewError):
        space.clear()
    assert not again or engine.view("b").keyspace(0).get(b"k") == b"of another"
    with pytest.raises(UnknownViewError):
        engine.decide({"op": "clear", "keyspaces": [0]}, "nobody")
    assert sorted(reopen(engine).views()) == (["b", "main"] if again else ["main"])
