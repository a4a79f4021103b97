"""The engine as a whole: decisions, several things of one moment, recovery, and a flush that fails."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import numpy as np
import pytest

from pmkv.engine.engine import Engine
from pmkv.errors import ExistsError, FlushError, InvalidError, ReadOnlyError, UnknownNameError
from pmkv.log.format import epoch_of
from pmkv.media.base import Range
from pmkv.media.memory import MemoryMedium


class FailingMedium(MemoryMedium):
    """Memory whose flush fails on demand, as a disk's does, and then shows what was flushed before."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.durable = np.zeros(capacity, np.uint8)
        self.fails = False

    def prepare(self, start: int, stop: int, fill: bool = True) -> None:
        super().prepare(start, stop)
        self.durable[start:stop] = 0

    def flush(self, ranges: Sequence[Range], sync: bool = True) -> None:
        if self.fails:
            raise OSError(errno.EIO, "Input/output error")
        for start, stop in ranges:
            self.durable[start:stop] = self.data[start:stop]

    def revert(self) -> None:
        self.data[:] = self.durable


@pytest.fixture
def medium() -> FailingMedium:
    return FailingMedium(1 << 21)


@pytest.fixture
def engine(medium: FailingMedium) -> Engine:
    return Engine.on_medium(medium, segment_size=1 << 16)


def fill(engine: Engine) -> None:
    engine.keyspaces[0].put_many({b"a": b"1", b"b": b"2"})
    engine.keyspaces[5].put(b"gone", b"3")
    engine.create_table("dropped", "f4").put([1], [1.0])
    engine.create_table("t", ("f4", 2), rows=100).put([1, 2], [[1, 2], [3, 4]])
    engine.create_table("u", [("x", "i8")]).put([-9], np.array([(7,)], [("x", "i8")]))
    engine.drop_table("dropped")
    engine.clear_all()
    engine.keyspaces[0].put(b"c", b"4", expire_at=1 << 50)
    engine.table("t").delete([1])


def assert_filled(engine: Engine) -> None:
    assert [len(space) for space in engine.keyspaces] == [1] + [0] * 15
    assert engine.keyspaces[0].entry(b"c") == (b"4", 1 << 50)
    assert set(engine.tables) == {"t", "u"}
    assert engine.table("t").get([1, 2]).tolist() == [[0, 0], [3, 4]] and engine.table("t").rows == 100
    assert engine.table("u").get([-9])["x"].tolist() == [7]
    engine.check()


def test_recovery_brings_everything_back_again_and_again(medium: FailingMedium, engine: Engine) -> None:
    fill(engine)
    assert_filled(engine)
    for number in range(3):
        engine = Engine.on_medium(medium)
        assert_filled(engine)
        assert epoch_of(engine.log.lsn) == number + 2 and engine.recovery.frames >= 12
    assert engine.create_table("new", "f4").id == 4  # numbers of tables are never used again


def test_readonly_writes_nothing(medium: FailingMedium, engine: Engine) -> None:
    fill(engine)
    before = medium.data.copy()
    reader = Engine.on_medium(medium, readonly=True)
    assert_filled(reader)
    for write in (
        lambda: reader.keyspaces[0].put(b"a", b""),
        lambda: reader.keyspaces[0].delete(b"c"),
        lambda: reader.table("t").put([1], [[1, 2]]),
        lambda: reader.create_table("v", "f4"),
        lambda: reader.clear_all(),
    ):
        with pytest.raises(ReadOnlyError, match="opened readonly"):
            write()
    assert (medium.data == before).all()


@pytest.mark.parametrize("name", ["", ".a", "a b", "-a", "x" * 129, "ä", None])
def test_names_are_checked(engine: Engine, name: str) -> None:
    with pytest.raises(InvalidError, match="cannot name a table"):
        engine.create_table(name, "f4")


def test_names_are_taken_or_unknown(engine: Engine) -> None:
    engine.create_table("a", ("f4", 3))
    with pytest.raises(ExistsError, match=r"'a' already, with rows of .*f4.*3"):
        engine.create_table("a", "f4")
    for call in (lambda: engine.table("b"), lambda: engine.drop_table("b")):
        with pytest.raises(UnknownNameError, match="no table 'b'; there are: a"):
            call()
    with pytest.raises(InvalidError, match="rows=0"):
        engine.create_table("c", "f4", rows=0)


def test_gather_and_pool_several_tables(engine: Engine) -> None:
    for name in ("a", "b"):
        engine.create_table(name, ("f4", 2)).put([1, 2], [[1, 2], [3, 4]])
    rows = engine.main.gather({"a": [2, 9], "b": [1]}, default=-1)
    assert rows["a"].tolist() == [[3, 4], [-1, -1]] and rows["b"].tolist() == [[1, 2]]
    pooled = engine.main.pool_many({"a": ([1, 2], [0]), "b": ([1, 1], [0, 1], None)}, mode="mean")
    assert pooled["a"].tolist() == [[2, 3]] and pooled["b"].tolist() == [[1, 2], [1, 2]]
    with pytest.raises(UnknownNameError):
        engine.main.gather({"a": [1], "nobody": [1]})


def test_a_batch_is_one_flush_and_one_unit(medium: FailingMedium, engine: Engine) -> None:
    table = engine.create_table("t", "i8")
    before = engine.log.flushes
    with engine.batch():
        engine.keyspaces[0].put(b"a", b"1")
        table.put([1], [1])
        assert engine.keyspaces[0].get(b"a") == b"1" and table.get([1]).tolist() == [1]
    assert engine.log.flushes == before + 1
    with pytest.raises(ZeroDivisionError), engine.batch():
        table.put([2], [2])
        raise ZeroDivisionError
    assert table.get([1, 2]).tolist() == [1, 0]
    assert Engine.on_medium(medium).table("t").get([1, 2]).tolist() == [1, 0]


def test_deferred_calls_do_not_wait_and_say_what_they_depend_on(engine: Engine) -> None:
    space = engine.keyspaces[0]
    space.put(b"old", b"durable")
    with engine.log.deferred() as seen:
        space.put(b"a", b"1")
        assert seen.lsn == engine.log.lsn > engine.log.durable
        seen.lsn = 0
        assert space.get(b"old") == b"durable" and seen.lsn == 0
        assert space.get(b"a") == b"1" and seen.lsn == engine.log.lsn
        seen.lsn = 0
        assert space.delete(b"old") and space.get(b"old") is None and seen.lsn == engine.log.lsn
        seen.lsn = 0
        assert len(space) == 1 and seen.lsn == engine.log.lsn
    assert space.get(b"a") == b"1"  # waits for it
    assert engine.log.durable == engine.log.lsn


def test_after_a_failed_flush_memory_is_what_is_durable(medium: FailingMedium, engine: Engine) -> None:
    space, table = engine.keyspaces[0], engine.create_table("t", "i8")
    space.put(b"a", b"durable")
    table.put([1], [10])
    medium.fails = True
    with engine.log.deferred():
        table.put([1], [20])
        doomed = engine.create_table("doomed", "f4")
        space.put(b"a", b"lost")
        space.put(b"b", b"lost")
    with pytest.raises(FlushError, match="Input/output error"):
        space.get(b"b")
    medium.fails = False  # and it stays so: a second flush would prove nothing
    with pytest.raises(ReadOnlyError, match="refused a flush"):
        space.put(b"c", b"")
    assert space.get_many([b"a", b"b"]) == [b"durable", None] and len(space) == 1
    assert table.get([1]).tolist() == [10] and engine.table("t") is table
    with pytest.raises(UnknownNameError):
        doomed.get([1])
    engine.check()
    again = Engine.on_medium(medium)
    assert again.keyspaces[0].get(b"a") == b"durable" and again.table("t").get([1]).tolist() == [10]


@pytest.mark.parametrize("rows", [None, 100])
def test_an_equal_table_may_exist(engine: Engine, rows: int | None) -> None:
    table = engine.create_table("a", [("x", "f4"), ("y", "i8", (3,))], rows)
    table.put([1], np.ones(1, table.dtype))
    lsn = engine.log.lsn
    assert engine.create_table("a", np.dtype([("x", ">f4"), ("y", "i8", 3)]), rows, exist_ok=True) is table
    assert engine.log.lsn == lsn and len(table) == 1
    assert engine.create_table("b", "f4", exist_ok=True) is engine.table("b")


@pytest.mark.parametrize(
    ("dtype", "rows"), [("f8", 100), (("f4", 3), 100), ("f4", None), ("f4", 101)], ids=["dtype", "shape", "no", "rows"]
)
def test_a_table_that_exists_but_differs_is_named_beside_the_one_asked_for(
    engine: Engine, dtype: object, rows: int | None
) -> None:
    engine.create_table("a", "f4", 100)
    with pytest.raises(ExistsError) as refused:
        engine.create_table("a", dtype, rows, exist_ok=True)
    for words in (
        "'a' already, with rows of float32 and rows=100",
        f"not with rows of {np.dtype(dtype)} and rows={rows}",
    ):
        assert words in str(refused.value)
