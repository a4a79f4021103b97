"""No reply reveals what is not durable: whatever a read says depends on an LSN, that it waits for or notes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pmkv.engine.engine import Engine
from pmkv.engine.transaction import Transaction
from pmkv.errors import ConflictError, ExistsError, FlushError, UnknownNameError
from tests.engines import contents, eio, failing_engine, small_engine

Step = Callable[[Engine], Any]


@pytest.fixture
def engine() -> Engine:
    engine, _ = failing_engine()
    engine.keyspaces[0].put_many({b"a": b"1", b"b": b"2", b"gone": b"3"})
    engine.create_table("t", "f4").put([1, 2], [1.0, 2.0])
    engine.create_table("old", "f4")
    return engine


def rest(engine: Engine) -> Any:
    return engine.keyspaces[0]


WRITES: dict[str, Step] = {
    "put": lambda e: rest(e).put(b"a", b"new"),
    "delete": lambda e: rest(e).delete(b"gone"),
    "expire": lambda e: rest(e).expire(b"a", 1),
    "clear": lambda e: rest(e).clear(),
    "clear all": lambda e: e.clear_all(),
    "rows": lambda e: e.table("t").put([1], [5.0]),
    "add": lambda e: e.table("t").add([1], [5.0]),
    "delete rows": lambda e: e.table("t").delete([1]),
    "create": lambda e: e.create_table("new", "f4"),
    "drop": lambda e: e.drop_table("old"),
}

KEYS: dict[str, Step] = {
    "get": lambda e: rest(e).get(b"a"),
    "contains": lambda e: rest(e).contains_many([b"a"]),
    "in": lambda e: b"a" in rest(e),
    "expiry": lambda e: rest(e).expiry(b"a"),
    "size": lambda e: rest(e).size(b"a"),
    "entry": lambda e: rest(e).entry(b"a"),
    "len": lambda e: len(rest(e)),
    "keys": lambda e: rest(e).keys(),
    "scan": lambda e: list(rest(e).scan()),
    "random": lambda e: rest(e).random_key(),
    "delete of what is not there": lambda e: rest(e).delete(b"a"),
}
ROWS: dict[str, Step] = {
    "get": lambda e: e.table("t").get([1]),
    "contains": lambda e: e.table("t").contains([1]),
    "len": lambda e: len(e.table("t")),
    "scan": lambda e: list(e.table("t").scan()),
    "pool": lambda e: e.table("t").pool([1], [0]),
    "gather": lambda e: e.main.gather({"t": [1]}),
    "pool many": lambda e: e.main.pool_many({"t": ([1], [0])}),
    "delete of what is not there": lambda e: e.table("t").delete([1]),
}
PAIRS = [
    *((w, f"key {r}", WRITES[w], KEYS[r]) for w in ("put", "expire", "clear", "clear all") for r in KEYS),
    *((w, f"row {r}", WRITES[w], ROWS[r]) for w in ("rows", "add", "delete rows") for r in ROWS),
    ("delete", "key get", WRITES["delete"], lambda e: rest(e).get(b"gone")),
    ("create", "new row", WRITES["create"], lambda e: e.table("new").get([1])),
    ("create", "new len", WRITES["create"], lambda e: len(e.table("new"))),
]  # fmt: skip


@pytest.mark.parametrize(("write", "read"), [pair[2:] for pair in PAIRS], ids=[f"{w}-{r}" for w, r, *_ in PAIRS])
def test_a_read_depends_on_the_pending_write(engine: Engine, write: Step, read: Step) -> None:
    with engine.log.deferred() as writer:
        write(engine)
    assert writer.lsn == engine.log.lsn
    with engine.log.deferred() as reader:
        read(engine)
    assert reader.lsn >= writer.lsn
    engine.log.flush(writer.lsn)
    with engine.log.deferred() as later:
        read(engine)
    assert later.lsn in (0, engine.log.lsn), "nothing pending is left, but what the read itself wrote"


def test_a_put_that_leaves_a_newer_row_alone_depends_on_it(engine: Engine) -> None:
    prices = engine.create_table("prices", [("at", "i8"), ("price", "f4")])
    with engine.log.deferred() as writer:
        prices.put([1], [(9, 2.0)])
    with engine.log.deferred() as reader:
        assert prices.put([1], [(8, 3.0)], newer="at") == 0
    assert reader.lsn == writer.lsn == engine.log.lsn


def test_that_a_name_is_taken_or_gone_depends_on_the_decision(engine: Engine) -> None:
    with engine.log.deferred() as writer:
        engine.drop_table("old")
    with engine.log.deferred() as reader, pytest.raises(UnknownNameError):
        engine.table("old")
    assert reader.lsn == writer.lsn
    with engine.log.deferred() as writer:
        engine.create_table("new", "f4")
    with engine.log.deferred() as reader, pytest.raises(ExistsError):
        engine.create_table("new", "f4")
    assert reader.lsn == writer.lsn
    with engine.log.deferred() as reader, pytest.raises(UnknownNameError):
        engine.drop_table("never was")
    assert reader.lsn == writer.lsn


def test_what_nobody_writes_depends_on_nothing(engine: Engine) -> None:
    with engine.log.deferred():
        engine.keyspaces[3].put(b"a", b"1")
    with engine.log.deferred() as reader:
        rest(engine).get(b"a")
        rest(engine).get(b"never")
        engine.table("t").get([1, 77])
        len(engine.table("t"))
    assert reader.lsn == 0


def test_a_snapshot_keeps_nobody_waiting_but_who_asks_for_it(engine: Engine) -> None:
    with engine.log.deferred() as writer:
        engine.versions.snapshot("s")
    with engine.log.deferred() as reader:
        assert rest(engine).get(b"a") == b"1" and rest(engine).get(b"never") is None
        assert engine.table("t").get([1, 77]).tolist() == [1.0, 0.0]
    assert reader.lsn == 0
    with engine.log.deferred() as reader:
        engine.view("s").keyspaces[0].get(b"a")
    assert reader.lsn >= writer.lsn


@pytest.mark.parametrize("write", ["clear", "rows", "delete rows", "delete"])
def test_what_was_pending_before_a_snapshot_is_waited_for_behind_it(engine: Engine, write: str) -> None:
    with engine.log.deferred() as writer:
        WRITES[write](engine)
    with engine.log.deferred():
        rest(engine).put(b"other", b"")  # else there is nothing to seal where all was cleared
        engine.versions.snapshot("s")
    with engine.log.deferred() as reader:
        assert rest(engine).get(b"gone") is None if "rows" not in write else engine.table("t").get([1])[0] != 1
    assert reader.lsn >= writer.lsn


def promoted(engine: Engine) -> int:
    """The LSN of a promote that nobody has waited for."""
    engine.versions.branch("b").tables["t"].put([1], [7.0])
    with engine.log.deferred() as writer:
        engine.versions.promote("b")
    return writer.lsn


def test_what_others_promote_keeps_nobody_waiting(engine: Engine) -> None:
    lsn = promoted(engine)
    with engine.log.deferred() as reader:
        rest(engine).get(b"a")
        engine.table("old").get([1])
        assert engine.table("t").get([1])[0] == 1
    assert reader.lsn == 0
    engine.check()
    engine.log.flush(lsn)
    with engine.log.deferred() as reader:
        assert engine.table("t").get([1])[0] == 7
    assert reader.lsn == 0
    engine.check()


def test_whoever_promotes_sees_it(engine: Engine) -> None:
    engine.versions.branch("b").tables["t"].put([1], [7.0])
    with engine.log.deferred() as whole:
        engine.versions.promote("b")
        with engine.log.deferred() as inner:
            assert engine.table("t").get([1])[0] == 7
        assert inner.lsn == whole.lsn == engine.log.lsn
    with engine.log.deferred() as later:
        later.min_lsn = whole.lsn
        assert engine.table("t").get([1])[0] == 7
    assert later.lsn == whole.lsn


@pytest.mark.parametrize(
    "read",
    [lambda t: t.get([1])[0] == 7, lambda t: 7 in next(t.scan())[1], lambda t: len(t) == 2],
    ids=["get", "scan", "len"],
)
def test_behind_something_new_nothing_old_is_shown(engine: Engine, read: Callable[[Any], bool]) -> None:
    promoted(engine)
    with engine.log.deferred():
        rest(engine).put(b"behind", b"1")
    with engine.log.deferred() as reader:
        assert rest(engine).get(b"behind") == b"1" and read(engine.table("t"))
    assert reader.lsn == engine.log.lsn


def test_tables_are_gathered_as_they_were_or_as_they_are(engine: Engine) -> None:
    lsn = promoted(engine)
    wanted = {"t": [1], "old": [1]}
    with engine.log.deferred() as reader:
        assert {name: rows[0] for name, rows in engine.main.gather(wanted).items()} == {"t": 1, "old": 0}
    assert reader.lsn == 0
    with engine.log.deferred():
        engine.table("old").put([1], [5.0])
    with engine.log.deferred() as reader:
        assert {name: rows[0] for name, rows in engine.main.gather(wanted).items()} == {"t": 7, "old": 5}
        pooled = engine.main.pool_many({name: (ids, [0]) for name, ids in wanted.items()})
        assert {name: rows[0] for name, rows in pooled.items()} == {"t": 7, "old": 5}
    assert reader.lsn >= lsn


def test_who_writes_goes_by_what_is_there(engine: Engine) -> None:
    promoted(engine)
    with engine.log.deferred():
        engine.table("t").add([1, 2], [1.0, 1.0])
    engine.log.flush(engine.log.lsn)
    assert engine.table("t").get([1, 2]).tolist() == [8, 3]


def test_a_transaction_goes_by_what_is_there(engine: Engine) -> None:
    branch = engine.versions.branch("b")
    branch.tables["t"].put([1, 3], [7.0, 7.0])
    branch.keyspaces[0].put(b"new", b"1")
    with engine.log.deferred():
        engine.versions.promote("b")
    transaction = Transaction(engine)
    assert transaction.delete(b"new") and transaction.table("t").delete([3]) == 1
    transaction.table("t").add([1], [1.0])
    transaction.commit()
    assert rest(engine).get(b"new") is None
    assert engine.table("t").get([1, 3]).tolist() == [8, 0]


def test_what_was_watched_as_it_was_conflicts(engine: Engine) -> None:
    engine.versions.branch("b").keyspaces[0].put(b"a", b"new")
    with engine.log.deferred():
        engine.versions.promote("b")
    transaction = Transaction(engine)
    transaction.watch(b"a")
    assert rest(engine).get(b"a") == b"1"
    transaction.put(b"a", b"1 and more")
    with pytest.raises(ConflictError):
        transaction.commit()
    assert rest(engine).get(b"a") == b"new"


def test_a_second_promote_is_waited_for_once_the_first_is_durable(engine: Engine) -> None:
    lsn = promoted(engine)
    engine.log.flush(lsn)
    engine.view("b").tables["t"].put([1], [8.0])
    with engine.log.deferred() as first:
        engine.versions.promote("b")
    with engine.log.deferred() as second:
        engine.versions.undo()
    with engine.log.deferred() as reader:
        assert engine.table("t").get([1])[0] == 7
    assert reader.lsn == 0 and first.lsn < second.lsn
    engine.log.flush(second.lsn)
    assert engine.table("t").get([1])[0] == 7


@pytest.mark.parametrize("head", ["main", "b"])
def test_what_a_rollback_drops_is_shown_until_it_is_durable(engine: Engine, head: str) -> None:
    engine.versions.branch("b")
    table = engine.table("t", head)
    engine.versions.snapshot("s", head)
    table.put([1, 3], [9.0, 9.0])
    with engine.log.deferred() as writer:
        engine.versions.rollback("s", head=head)
    with engine.log.deferred() as reader:
        assert table.get([1, 3]).tolist() == [9, 9] and table.contains([3]).all()
    assert reader.lsn == 0
    engine.check()
    engine.log.flush(writer.lsn)
    assert table.get([1, 3]).tolist() == [1, 0]
    engine.check()
    assert not any(layer.shown for tree in engine.view_set.trees.values() for layer in tree.layers.values())


def test_after_a_failed_flush_what_was_shown_is_what_there_is() -> None:
    engine, medium = failing_engine()
    table = engine.create_table("t", "f4")
    table.put([1], [1.0])
    promoted(engine)
    assert table.get([1])[0] == 1
    medium.flush_error = eio()
    with pytest.raises(FlushError):
        engine.log.flush(engine.log.lsn)
    assert table.get([1])[0] == 1 and table._previous is None
    engine.check()


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_after_a_failed_flush_memory_is_the_durable_state(write: Step) -> None:
    engine, medium = failing_engine()
    rest(engine).put_many({b"a": b"1", b"gone": b"3"})
    table = engine.create_table("t", "f4")
    table.put([1, 2], [1.0, 2.0])
    engine.create_table("old", "f4")
    before = contents(engine)
    medium.flush_error = eio()
    with pytest.raises(FlushError):
        write(engine)
    assert contents(engine) == before
    assert engine.table("t") is table
    assert table.get([1, 2]).tolist() == [1.0, 2.0]
    engine.check()
    recovered = Engine.on_medium(medium.survivor())
    assert contents(recovered) == before


@pytest.mark.parametrize("told", ["gather", "pool", "scan", "count", "conflict"])
def test_an_error_waits_for_what_it_tells(told: str) -> None:
    engine = small_engine()
    table = engine.create_table("t", "f4")
    engine.keyspaces[0].put(b"k", b"1")
    transaction = Transaction(engine)
    transaction.watch(b"k")
    with engine.log.deferred():
        engine.drop_table("t")
        engine.keyspaces[0].put(b"k", b"2")
    assert table.is_gone
    calls = {
        "gather": lambda: engine.main.gather({"t": [1]}),
        "pool": lambda: engine.main.pool_many({"t": ([1], [0])}),
        "scan": table.scan_from,
        "count": lambda: len(table),
        "conflict": transaction.commit,
    }
    with engine.log.deferred() as seen, pytest.raises((UnknownNameError, ConflictError)):
        calls[told]()
    assert seen.lsn > engine.log.durable
    with pytest.raises((UnknownNameError, ConflictError)):
        calls[told]()
    assert engine.log.durable >= seen.lsn
