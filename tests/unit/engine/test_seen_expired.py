"""Keys that somebody was told have expired stay expired, in all views, also on file; others follow the clock."""

from __future__ import annotations

from pathlib import Path

import pytest

import pmkv
from pmkv.engine.engine import EXPIRED_IN_A_FRAME, Engine
from pmkv.errors import ConflictError
from tests.engines import Clock, reopen, small_engine


@pytest.fixture
def engine() -> Engine:
    engine = small_engine(segments=32, now=Clock())
    engine.keyspaces[0].put_many({b"a": b"1", b"b": b"2", b"c": b"3"}, ttl=10)
    engine.versions.snapshot("s")
    return engine


def test_only_what_was_asked_for_stays_expired(engine: Engine) -> None:
    clock, space, old = engine.log.now, engine.keyspaces[0], engine.view("s").keyspace(0)
    clock.now += 20_000
    assert space.get(b"a") is None and old.get(b"b") is None and b"none" not in space
    assert len(space) == 0 and dict(old.scan()) == {} and old.keys() == (0, [])
    clock.now -= 20_000
    for again in (engine, reopen(engine, now=clock)):
        for view in (again.keyspaces[0], again.view("s").keyspace(0)):
            assert view.get_many([b"a", b"b", b"c"]) == [None, None, b"3"]
            assert len(view) == 1 and dict(view.scan()) == {b"c": b"3"}
    assert not space.delete(b"a") and not space.expire(b"b", 0)
    space.put(b"a", b"new", ttl=1)
    assert space.get(b"a") == b"new" and len(space) == 2
    engine.check()


def test_it_is_logged_once_and_is_no_write(engine: Engine) -> None:
    engine.versions.branch("b").keyspace(0).put(b"d", b"4")
    engine.log.now.now += 20_000
    before = engine.log.lsn
    assert engine.keyspaces[0].get_many([b"a", b"b"]) == [None, None]
    assert engine.log.lsn == before + 1 and engine.log.durable == before + 1
    assert engine.keyspaces[0].get(b"a") is None and engine.view("s").keyspace(0).get(b"a") is None
    assert engine.log.lsn == before + 1
    engine.versions.promote("b")
    assert engine.keyspaces[0].get(b"d") == b"4"


def test_many_at_once_and_within_a_batch() -> None:
    engine = small_engine(segments=64, now=Clock())
    space, keys = engine.keyspaces[0], [b"%d" % i for i in range(3 * EXPIRED_IN_A_FRAME)]
    space.put_many(dict.fromkeys(keys, b""), ttl=1)
    engine.log.now.now += 2000
    with engine.batch():
        assert space.delete_many(keys) == 0 and not any(space.contains_many(keys))
    engine.log.now.now -= 2000
    assert not any(reopen(engine, now=engine.log.now).keyspaces[0].contains_many(keys))


def test_who_watches_a_key_is_told_that_it_was_seen_expired(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity="64MiB") as store:
        store._log.now = clock = Clock()
        store.put(b"k", b"1", ttl=10)
        with pytest.raises(ConflictError, match="b'k' was written"), store.transaction() as transaction:
            transaction.watch(b"k")
            clock.now += 20_000
            assert store.get(b"k") is None
            clock.now -= 20_000


def test_the_catalog_keeps_it_and_a_readonly_store_notes_it_for_itself(tmp_path: Path) -> None:
    clock = Clock()
    with pmkv.open(tmp_path, capacity="64MiB") as store:
        store._log.now = clock
        store.put_many({b"a": b"1", b"b": b"2"}, ttl=10)
        clock.now += 20_000
        assert store.get(b"a") is None
        store.checkpoint()
        clock.now -= 20_000
    for _ in range(2):
        with pmkv.open(tmp_path, readonly=True) as store:
            store._log.now = clock
            assert store.get_many([b"a", b"b"]) == [None, b"2"]
            clock.now += 20_000
            assert store.get(b"b") is None
            clock.now -= 20_000
            assert store.get(b"b") is None
