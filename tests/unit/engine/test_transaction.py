"""Transactions: own reads, all or nothing, conflicts with what was watched."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import pytest

import pmkv
from pmkv.engine.engine import Engine
from pmkv.engine.transaction import Transaction
from pmkv.errors import ConflictError, FullError, InvalidError, ReadOnlyError, UnknownNameError
from pmkv.log import large_values
from pmkv.log.segments import Pool
from pmkv.media.base import Granularity
from pmkv.media.simulated import SimulatedMedium
from tests.engines import small_engine

CAPACITY = 64 << 20


@pytest.fixture
def store() -> Iterator[pmkv.Store]:
    with pmkv.open(pool=":memory:", capacity=CAPACITY) as store:
        store.put_many({b"a": b"1", b"b": b"2"})
        store.create_table("items", ("f4", 2)).put([1, 2], [[1, 1], [2, 2]])
        yield store
        store.check()


def test_reads_inside_see_own_writes_and_others_do_not(store: pmkv.Store) -> None:
    with store.transaction() as txn:
        txn.put(b"a", b"changed")
        txn.put_many([(b"c", b"3"), (b"c", b"4")])
        assert txn.delete(b"b") and not txn.delete(b"b") and not txn.delete(b"nobody")
        txn.put(b"gone", b"5", expire_at=978_307_200_000)
        txn.keyspace(3).put(b"a", b"elsewhere", ttl=60)
        assert [txn.get(key) for key in (b"a", b"b", b"c", b"gone")] == [b"changed", None, b"4", None]
        assert txn.keyspace(3).get_many([b"a", b"b"]) == [b"elsewhere", None]
        assert store.get_many([b"a", b"b", b"c"]) == [b"1", b"2", None]
    assert store.get_many([b"a", b"b", b"c", b"gone"]) == [b"changed", None, b"4", None]
    value, expiry = store.keyspace(3).entry(b"a")
    assert value == b"elsewhere" and expiry > 0
    assert len(store.keyspace(0)) == 2


def test_a_key_deleted_and_written_again(store: pmkv.Store) -> None:
    with store.transaction() as txn:
        txn.delete(b"a")
        txn.put(b"a", b"back")
        txn.put(b"b", b"for a moment")
        txn.delete(b"b")
    assert store.get_many([b"a", b"b"]) == [b"back", None]


def test_a_delete_does_not_read_the_value(store: pmkv.Store) -> None:
    store.put(b"long", bytes(3 << 20))
    with patch.object(large_values, "read", side_effect=AssertionError("the value was read")):
        with store.transaction() as txn:
            assert txn.delete(b"long") and not txn.delete(b"long") and not txn.delete(b"none")
    assert store.get(b"long") is None


def test_tables(store: pmkv.Store) -> None:
    items = store.table("items")
    with store.transaction() as txn:
        inside = txn.table("items")
        inside.put([3, 3], [[0, 0], [3, 3]])
        inside.add([1, 1, 9], [[1, 0], [1, 0], [5, 5]])
        assert inside.delete([2, 2, 77]) == 1
        rows, found = inside.get([1, 2, 3, 9, 77], default=-1, return_found=True)
        assert rows.tolist() == [[3, 1], [-1, -1], [3, 3], [5, 5], [-1, -1]]
        assert found.tolist() == [True, False, True, True, False]
        assert inside.contains([2, 3]).tolist() == [False, True]
        assert items.get([1, 2, 3]).tolist() == [[1, 1], [2, 2], [0, 0]] and len(items) == 2
    assert items.get([1, 2, 3, 9], default=-1).tolist() == [[3, 1], [-1, -1], [3, 3], [5, 5]]
    assert len(items) == 3


def test_a_table_with_a_codec_is_read_as_it_will_be_stored(store: pmkv.Store) -> None:
    table = store.create_table("int8", ("f4", 3), codec="int8", default={"uniform": (0, 1)})
    rows = np.array([[0.1, 0.2, 0.7], [1, 2, 5]], "f4")
    with store.transaction() as txn:
        inside = txn.table("int8")
        inside.put([1, 2], rows)
        inside.add([2, 3], rows)
        inside.delete([1])
        seen = inside.get([1, 2, 3])
    assert table.get([1, 2, 3]).tobytes() == seen.tobytes()
    assert table.contains([1, 2, 3]).tolist() == [False, True, True]


def test_arrays_given_may_change_afterwards(store: pmkv.Store) -> None:
    ids, rows, value = np.array([5]), np.ones((1, 2), "f4"), bytearray(b"before")
    with store.transaction() as txn:
        txn.table("items").put(ids, rows)
        txn.put(b"value", value)
        ids[:], rows[:], value[:] = 6, 7, b"after!"
    assert store.table("items").get([5]).tolist() == [[1, 1]] and store.get(b"value") == b"before"


def test_an_exception_writes_nothing(store: pmkv.Store) -> None:
    before = store.version
    with pytest.raises(RuntimeError, match="changed my mind"), store.transaction() as txn:
        txn.put(b"a", b"changed")
        txn.table("items").delete([1])
        raise RuntimeError("changed my mind")
    assert store.version == before
    assert store.get(b"a") == b"1" and len(store.table("items")) == 2


def test_nothing_written_is_nothing_logged(store: pmkv.Store) -> None:
    before = store.version
    with store.transaction() as txn:
        assert txn.get(b"a") == b"1"
    assert store.version == before


@pytest.mark.parametrize("write", ["put", "delete", "expire", "clear", "create"])
def test_a_watched_key_that_another_writes_is_a_conflict(store: pmkv.Store, write: str) -> None:
    def other() -> None:
        keyspace = store.keyspace(0)
        {
            "put": lambda: keyspace.put(b"a", b"1"),  # the same value: still a write
            "delete": lambda: keyspace.delete(b"a"),
            "expire": lambda: keyspace.expire(b"a", 4_000_000_000_000),
            "clear": keyspace.clear,
            "create": lambda: keyspace.put(b"new", b"1"),
        }[write]()

    with pytest.raises(ConflictError, match="was written by another since this transaction watched it"):
        with store.transaction() as txn:
            txn.watch(b"new" if write == "create" else b"a")
            txn.put(b"mine", b"1")
            txn.table("items").delete([1])
            other()
    assert store.get(b"mine") is None and len(store.table("items")) == 2


@pytest.mark.parametrize("again", [False, True])
def test_a_table_dropped_meanwhile_is_a_conflict_before_anything_is_written(store: pmkv.Store, again: bool) -> None:
    with pytest.raises(ConflictError, match="table 'items' was dropped by another"), store.transaction() as txn:
        txn.put(b"mine", b"1")
        txn.table("items").put([1], [[5, 5]])
        store.drop_table("items")
        if again:
            store.create_table("items", ("f4", 2))
    assert store.get(b"mine") is None


def test_what_was_not_watched_is_no_conflict(store: pmkv.Store) -> None:
    with store.transaction() as txn:
        txn.watch(b"a")
        txn.watch(b"a", keyspace=2)
        txn.put(b"b", b"mine")
        store.put(b"b", b"other")
        store.keyspace(1).put(b"a", b"other")
    assert store.get(b"b") == b"mine"


def test_a_read_only_transaction_conflicts_too(store: pmkv.Store) -> None:
    with pytest.raises(ConflictError), store.transaction() as txn:
        txn.watch(b"a")
        store.put(b"a", b"other")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda txn: txn.put("text", b""), "a key must be bytes"),
        (lambda txn: txn.put(b"k" * (1 << 17), b""), "is too long"),
        (lambda txn: txn.put(b"k", b"v", ttl=-1), "seconds above 0"),
        (lambda txn: txn.table("items").put([1], [[1, 2, 3]]), "do not fit table 'items'"),
        (lambda txn: txn.table("items").put([1.5], [[1, 2]]), "must be integers"),
        (lambda txn: txn.table("rich").add([1], np.zeros(1, [("a", "f4")])), "only numbers can be added"),
        (lambda txn: txn.keyspace(16), "there is no keyspace 16"),
        (lambda txn: txn.keyspace(-1), "there is no keyspace -1"),
        (lambda txn: txn.watch(b"a", keyspace=99), "there is no keyspace 99"),
        (lambda txn: txn.put(b"k", bytes(17 << 20)), "too long to be atomic"),
    ],
)
def test_what_cannot_be_written_is_refused_and_nothing_written(store: pmkv.Store, write, message: str) -> None:
    store.create_table("rich", [("a", "f4")])
    before = store.version
    with pytest.raises(InvalidError, match=message), store.transaction() as txn:
        txn.put(b"first", b"1")
        write(txn)
    assert store.version == before and store.get(b"first") is None


def test_a_table_must_be_there(store: pmkv.Store) -> None:
    with store.transaction() as txn, pytest.raises(UnknownNameError, match="no table 'nothing'"):
        txn.table("nothing")


def test_readonly(tmp_path) -> None:
    pmkv.open(tmp_path, capacity=4 << 20).close()
    with pmkv.open(tmp_path, readonly=True) as store, pytest.raises(ReadOnlyError), store.transaction():
        raise AssertionError("not reached")


def test_a_full_pool_takes_none_of_it() -> None:
    with pmkv.open(pool=":memory:", capacity=4 << 20) as store:
        with pytest.raises(FullError), store.transaction() as txn:
            txn.put(b"early", b"1")
            for number in range(40):
                txn.put(b"%d" % number, bytes(100_000))
        assert len(store.keyspace(0)) == 0
        store.put(b"small", b"1")
        store.check()


@pytest.mark.parametrize("granularity", Granularity)
def test_after_a_crash_it_is_there_whole_or_not_at_all(granularity: Granularity) -> None:
    engine = Engine.on_medium(SimulatedMedium(4096 + 14 * 4096, granularity), 4096)
    engine.keyspaces[0].put_many({b"a": b"old", b"gone": b"old"})
    engine.create_table("t", ("f4", 4)).put([1, 2], np.zeros((2, 4), "f4"))
    transaction = Transaction(engine)
    transaction.put_many({b"a": b"new", b"large": bytes(900)})
    transaction.delete(b"gone")
    transaction.keyspace(7).put(b"k", b"v" * 2000)
    transaction.table("t").put([2, 3], np.ones((2, 4), "f4"))
    transaction.table("t").delete([1])
    before = state(engine)
    with engine.log.deferred() as durability_wait:
        transaction.commit()
        assert durability_wait.lsn > engine.log.durable
        after = state(engine)
    seen = [state(Engine(Pool.load(image))) for image in images(engine)]
    assert len(seen) > 100
    assert before in seen and after in seen, "both are among what may be left"
    assert all(found in (before, after) for found in seen)


def images(engine: Engine) -> Iterator[SimulatedMedium]:
    return engine.pool.medium.crash_images(200, np.random.default_rng(5))


def state(engine: Engine) -> object:
    with engine.log.deferred():
        return (
            [dict(keyspace.scan()) for keyspace in engine.keyspaces],
            {
                (int(one), row.tobytes())
                for table in engine.tables.values()
                for ids, rows in table.scan()
                for one, row in zip(ids, rows)
            },
        )


def test_a_row_deleted_inside_reads_as_absent_whatever_id_minus_one_holds(store: pmkv.Store) -> None:
    store.table("items").put([-1], [[9, 9]])
    with store.transaction() as txn:
        txn.table("items").delete([1])
        assert txn.table("items").get([1, -1], default=5).tolist() == [[5, 5], [9, 9]]


def test_deletes_find_room_in_a_full_pool_and_additions_do_not() -> None:
    engine = small_engine(segments=6)
    engine.create_table("t", "i8").put([1], [1])
    engine.keyspaces[0].put(b"k", b"v")
    engine.versions.snapshot("s")
    with pytest.raises(FullError):
        while True:
            engine.keyspaces[0].put(b"filler", bytes(4000))
    with pytest.raises(FullError):
        while True:
            engine.keyspaces[0].put(b"filler", b"")
    for add in (
        lambda: engine.versions.snapshot("more"),
        lambda: engine.versions.branch("b"),
        lambda: engine.create_table("u", "i8"),
    ):
        with pytest.raises(FullError):
            add()
    transaction = Transaction(engine)
    transaction.delete(b"k")
    transaction.table("t").delete([1])
    transaction.commit()
    assert engine.keyspaces[0].get(b"k") is None and not engine.tables["t"].contains([1])[0]
    engine.versions.rollback("s", ["t"])
    engine.versions.undo()
    engine.versions.delete_view("s")
    engine.check()


def test_ids_of_any_shape_in_a_transaction() -> None:
    engine = small_engine()
    table = engine.create_table("t", ("f4", 2))
    table.put([1], [[1, 1]])
    writes = Transaction(engine).table("t")
    writes.put([[2], [3]], np.full((2, 1, 2), 5))
    out = np.empty((2, 2, 2), "f4")
    assert writes.get([[1, 2], [3, 4]], out=out) is out and out[:, :, 0].tolist() == [[1, 5], [5, 0]]
    assert writes.contains([[1, 2], [3, 4]]).tolist() == [[True, True], [True, False]]
    assert writes.delete([[1, 3]]) == 2 and writes.get(2, as_="arrow").to_pylist() == [5, 5]
    assert (writes.ids_of(["a"]) == table.ids_of(["a"])).all()
