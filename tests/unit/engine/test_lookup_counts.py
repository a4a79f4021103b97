"""Lookups are counted once for each key that somebody asks for."""

from __future__ import annotations

from pmkv.engine.lookup_counts import LookupCounts
from tests.engines import Clock, small_engine


def test_hits_misses_and_expired_keys() -> None:
    engine = small_engine(now=Clock())
    space, counts = engine.keyspaces[3], engine.context.lookups
    space.put_many({b"a": b"1", b"b": b"2"}, ttl=1)
    assert counts == LookupCounts()
    space.get_many([b"a", b"none", b"b"])
    engine.versions.snapshot("s")
    engine.view("s").keyspace(3).get(b"a")
    dict(space.scan()), space.keys(), len(space)
    assert counts == LookupCounts(3, 1, 0)
    engine.log.now.now += 2000
    for _ in range(2):
        assert space.get(b"a") is None
    assert counts == LookupCounts(3, 3, 1)
    counts.reset()
    assert counts == LookupCounts()
