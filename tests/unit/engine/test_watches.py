"""A watch is marked by every write of its keys and by every exchange that changes them, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pmkv
from pmkv.engine.engine import Engine
from pmkv.engine.watches import Watch
from pmkv.errors import ConflictError
from tests.engines import Clock, eio, failing_engine, small_engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = small_engine(segments=32, now=Clock())
    engine.keyspaces[0].put(b"k", b"1")
    engine.versions.snapshot("one")
    yield engine
    engine.check()


def changed(engine: Engine, watch: Watch) -> bytes | None:
    with engine.batch():
        return watch.changed_key()


def watching(engine: Engine, *keys: bytes) -> Watch:
    watch = Watch()
    for key in keys:
        watch.add(engine.keyspaces[0], key)
    return watch


@pytest.mark.parametrize("key", [b"k", b"new"])
@pytest.mark.parametrize(
    "end",
    [
        lambda store, key: store.delete(key),
        lambda store, key: store.keyspace(0).clear(),
        lambda store, key: store.flush_all(),
        lambda store, key: store.rollback("before"),
    ],
    ids=["delete", "clear", "flush_all", "rollback"],
)
def test_a_key_that_ends_as_it_began_was_written(end: Callable, key: bytes, tmp_path: Path) -> None:
    """Also if checkpoints have forgotten its delete meanwhile."""
    with pmkv.open(tmp_path, capacity="64MiB") as store:
        store.put(b"k", b"1")
        store.snapshot("before")
        with pytest.raises(ConflictError, match=f"key {key!r} was written by another"):
            with store.transaction() as transaction:
                transaction.watch(key)
                store.put(key, b"2")
                end(store, key)
                store.checkpoint()
                store.checkpoint()
        assert not store.keyspace(0).watches


def test_a_checkpoint_alone_changes_nothing(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity="64MiB") as store:
        store.put_many({b"k": b"1", b"gone": b"2"})
        store.delete(b"gone")
        with store.transaction() as transaction:
            for key in (b"k", b"gone", b"never"):
                transaction.watch(key)
            store.checkpoint()
            store.put(b"other", b"3")
            store.checkpoint()
            transaction.put(b"mine", b"4")
        assert store.get(b"mine") == b"4"


@pytest.mark.parametrize(
    ("decide", "keys"),
    [
        (lambda engine: engine.keyspaces[0].clear(), {b"k"}),
        (lambda engine: engine.versions.rollback("one"), {b"later"}),
        (lambda engine: engine.versions.promote("branch"), {b"k"}),
        (lambda engine: engine.versions.snapshot("two"), set()),
        (lambda engine: engine.keyspaces[1].clear(), set()),
        (lambda engine: engine.view("branch").keyspace(0).clear(), set()),
    ],
    ids=["clear", "rollback", "promote", "snapshot", "another keyspace", "another view"],
)
def test_a_decision_changes_the_keys_that_it_exchanges(engine: Engine, decide: Callable, keys: set[bytes]) -> None:
    engine.versions.branch("branch").keyspace(0).put(b"k", b"changed")
    if keys == {b"later"}:
        engine.keyspaces[0].put(b"later", b"2")
    watches = {key: watching(engine, key) for key in (b"k", b"later", b"absent")}
    decide(engine)
    assert {key for key, watch in watches.items() if changed(engine, watch)} == keys


def test_an_undo_changes_what_it_brings_back(engine: Engine) -> None:
    engine.keyspaces[0].put(b"k", b"2")
    engine.versions.rollback("one")
    back, other = watching(engine, b"k"), watching(engine, b"absent")
    engine.versions.undo()
    assert changed(engine, back) == b"k" and changed(engine, other) is None


def test_a_key_that_expires_has_changed_and_one_that_had_expired_has_not(engine: Engine) -> None:
    space, clock = engine.keyspaces[0], engine.log.now
    space.put(b"brief", b"1", ttl=1)
    alive = watching(engine, b"brief")
    assert changed(engine, alive) is None
    clock.now += 2000
    dead = watching(engine, b"brief")
    assert changed(engine, alive) == b"brief" and changed(engine, dead) is None
    space.clear()
    assert changed(engine, dead) is None
    space.put(b"brief", b"2")
    assert changed(engine, dead) == b"brief"


def test_watches_are_released(engine: Engine) -> None:
    first, second = watching(engine, b"k", b"k", b"other"), watching(engine, b"k")
    first.release()
    engine.keyspaces[0].put(b"k", b"2")
    assert changed(engine, first) is None and changed(engine, second) == b"k"
    second.release()
    assert not engine.keyspaces[0].watches and changed(engine, second) is None


def test_a_deleted_view_and_a_failed_store_mark_all() -> None:
    engine, medium = failing_engine()
    engine.keyspaces[0].put(b"k", b"1")
    branch = engine.versions.branch("branch").keyspace(0)
    watch = Watch()
    watch.add(branch, b"absent")
    engine.versions.delete_view("branch")
    assert changed(engine, watch) == b"absent"
    watch = watching(engine, b"k")
    medium.flush_error = eio()
    with pytest.raises(pmkv.errors.FlushError):
        engine.keyspaces[0].put(b"other", b"2")
    assert watch.written == b"k"


def test_many_watches_and_long_batches() -> None:
    engine = small_engine(segments=32)
    space = engine.keyspaces[0]
    watches = [watching(engine, b"%d" % i) for i in range(50)]
    space.put_many({b"%d" % i: b"" for i in range(40, 300)})
    space.put(b"7", b"")
    marked = [i for i, watch in enumerate(watches) if watch.written]
    assert marked == [7, *range(40, 50)]
