"""A batch of writes as a block: one flush, and nothing at all if it raises."""

from __future__ import annotations

import pytest

from pmkv.engine.engine import Engine
from pmkv.errors import ReadOnlyError
from tests.engines import copy_of, small_engine


def test_a_block_is_durable_at_its_end_and_not_before() -> None:
    engine = small_engine()
    with engine.batch():
        engine.keyspaces[0].put(b"a", b"1")
        assert engine.log.durable < engine.log.lsn
    assert engine.log.durable == engine.log.lsn and engine.log.thread.durability_wait is None


def test_a_block_that_raises_writes_nothing() -> None:
    engine = small_engine()
    engine.keyspaces[0].put(b"a", b"1")
    with pytest.raises(ZeroDivisionError), engine.batch():
        engine.keyspaces[0].put(b"a", b"2")
        raise ZeroDivisionError
    assert engine.keyspaces[0].get(b"a") == b"1" and engine.log.thread.durability_wait is None
    engine.keyspaces[0].put(b"b", b"3")
    again = Engine.on_medium(copy_of(engine.pool.medium))
    assert again.keyspaces[0].get_many([b"a", b"b"]) == [b"1", b"3"]


def test_it_is_durable_at_once_that_a_block_was_taken_back() -> None:
    """On persistent memory the bytes of the block may be durable already, and a crash would bring it back."""
    engine = small_engine()
    table = engine.create_table("t", "i8")
    with engine.log.deferred(), pytest.raises(ZeroDivisionError), engine.batch():
        table.put([1], [1])
        raise ZeroDivisionError
    assert engine.log.durable == engine.log.lsn, "it is durable before anybody reads"
    assert not table.contains([1]).any()


def test_a_block_that_may_not_write_is_refused_at_once() -> None:
    engine = small_engine()
    engine.log.readonly = "for a test"
    with pytest.raises(ReadOnlyError):
        engine.batch()
