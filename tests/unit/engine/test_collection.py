"""What tables and keyspaces share: guards, and what they stand on."""

from __future__ import annotations

import pytest

from pmkv.errors import ClosedError, UnknownNameError
from tests.engines import small_engine


def test_a_closed_store_is_told_before_a_dropped_table() -> None:
    engine = small_engine()
    table = engine.create_table("t", "i8")
    engine.drop_table("t")
    assert table.is_gone
    for use in (lambda: table.get([1]), lambda: table.put([1], [1]), lambda: table.delete([1])):
        with pytest.raises(UnknownNameError, match="'t' was dropped"):
            use()
    engine.log.closed = "the store is closed"
    with pytest.raises(ClosedError):
        table.get([1])


def test_a_seal_keeps_what_is_hot_and_an_exchange_forgets_it() -> None:
    engine = small_engine(segments=32)
    space = engine.keyspaces[0]
    space.put(b"a", b"1")
    list(space.scan())
    order = space.ordered._order
    engine.versions.snapshot("s")
    assert space.layer > 0 and space.ordered._order is order is not None
    space.put(b"b", b"2")
    assert [key for key, _ in space.scan()] == [b"a", b"b"]
    engine.versions.rollback("s")
    assert [key for key, _ in space.scan()] == [b"a"]
