"""Rows of ids that have none: by value, or drawn by id, and the same by every face."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest

from pmkv.engine.engine import Engine
from pmkv.engine.initializer import Initializer, normalized
from pmkv.engine.table import Table
from pmkv.engine.transaction import Transaction
from pmkv.errors import ClosedError, ExistsError, FullError, InvalidError
from pmkv.log.log import Log
from tests.engines import small_engine

F4 = np.dtype("f4")
UNIFORM, NORMAL = {"uniform": (-0.5, 0.5), "seed": 7}, {"normal": (1, 2), "seed": 7}


@pytest.fixture
def engine() -> Engine:
    return small_engine(segments=32)


@pytest.mark.parametrize(
    ("default", "form"),
    [
        (None, None), ("zeros", None), (0, None), (0.0, None), ([0, 0], None), (0.5, {"value": 0.5}),
        ({"value": 0.5}, {"value": 0.5}), ([1, 2], {"row": "AACAPwAAAEA="}), ({"row": "AACAPwAAAEA="},) * 2,
        (float("nan"), {"row": "AADAfwAAwH8="}), (UNIFORM, {"uniform": [-0.5, 0.5], "seed": 7}),
        ({"normal": [0, 1], "create": True}, {"normal": [0.0, 1.0], "seed": 0, "create": True}),
        ({"value": 0, "create": True}, {"value": 0, "create": True}), ({"value": 1, "create": False}, {"value": 1}),
        ({"value": [0, 1], "create": True}, {"row": "AAAAAAAAgD8=", "create": True}),
    ],
)  # fmt: skip
def test_what_a_decision_carries(default: object, form: object) -> None:
    assert normalized(default, F4, (2,)) == form


@pytest.mark.parametrize(
    ("default", "dtype", "words"),
    [
        ("ones", "f4", "does not fit"), ({"uniform": (0,)}, "f4", "two finite"), (1e300, "f4", "does not fit"),
        ({"normal": (0, 1), "sed": 1}, "f4", "'normal' takes"), ({"normal": (0, 1)}, "i4", "cannot be drawn so"),
        ({"uniform": (1, 0)}, "f4", "lower"), ({"uniform": (0, 1), "seed": -1}, "f4", "'seed'"),
        ({"uniform": (0, 1e300)}, "f4", "does not fit"), ({"what": 1}, "f4", "known are"),
        ({"row": "AAAA"}, "f4", "no row"),
        ({"normal": (0, float("inf"))}, "f4", "finite"), ([1, 2, 3], "f4", "does not fit"),
    ],
)  # fmt: skip
def test_what_is_refused(default: object, dtype: str, words: str) -> None:
    with pytest.raises(InvalidError, match=words):
        normalized(default, np.dtype(dtype), (2,))


def test_numbers_depend_on_seed_and_id_alone() -> None:
    """The values are part of the format: a store that was opened by a later version shows the same."""
    drawn = Initializer(normalized(UNIFORM, F4, (2,)), F4, (2,))
    ids = np.array([3, -1, 2**62, 3])
    rows = drawn.rows(ids)
    assert rows.dtype == F4 and rows.tobytes() == b"".join(drawn.rows(ids[i : i + 1]).tobytes() for i in range(4))
    np.testing.assert_allclose(
        rows, [[0.085581, -0.184669], [0.008442, -0.305327], [0.069626, -0.347504], [0.085581, -0.184669]], atol=1e-5
    )
    other = Initializer(normalized({**UNIFORM, "seed": 8}, F4, (2,)), F4, (2,))
    assert not (other.rows(ids) == rows).any()
    normal = Initializer(normalized(NORMAL, F4, (2,)), F4, (2,))
    np.testing.assert_allclose(
        normal.rows(ids), [[1.09455, 1.4222], [0.42858, 0.26795], [1.14485, -0.10917], [1.09455, 1.4222]], atol=1e-4
    )


def test_the_distributions_are_those_asked_for() -> None:
    ids = np.arange(20_000)
    uniform = Initializer(normalized({"uniform": (2, 6)}, F4, (4,)), F4, (4,)).rows(ids)
    assert uniform.min() >= 2 and uniform.max() <= 6 and abs(uniform.mean() - 4) < 0.02
    assert np.abs(np.histogram(uniform, 8, (2, 6))[0] / 10_000 - 1).max() < 0.05
    normal = Initializer(normalized(NORMAL, F4, (4,)), F4, (4,)).rows(ids)
    assert abs(normal.mean() - 1) < 0.03 and abs(normal.std() - 2) < 0.03
    assert abs(np.corrcoef(normal.T) - np.eye(4)).max() < 0.03
    whole = Initializer(normalized({"uniform": (0, 10)}, np.dtype("u1"), ()), np.dtype("u1"), ()).rows(ids)
    assert np.bincount(whole).size == 10 and np.bincount(whole).min() > 1800


@pytest.mark.parametrize("default", [3, [1, 2], UNIFORM, NORMAL], ids=str)
def test_every_read_of_a_table_shows_them(engine: Engine, default: object) -> None:
    table = engine.create_table("t", ("f4", 2), default=default)
    table.put([1], [[10, 20]])
    ids = np.array([1, 5, -9])
    absent = Initializer(normalized(default, F4, (2,)), F4, (2,)).rows(ids)
    wanted = np.concatenate([[[10, 20]], absent[1:]]).astype("f4")
    rows, found = table.get(ids, return_found=True)
    assert np.array_equal(rows, wanted) and found.tolist() == [True, False, False] and len(table) == 1
    assert np.array_equal(engine.main.gather({"t": ids})["t"], wanted)
    np.testing.assert_allclose(table.pool(ids, [0, 2], mode="sum"), [wanted[:2].sum(0), wanted[2]], rtol=1e-6)
    assert table.get([5], default=0).tolist() == [[0, 0]] and table.get([5], default=4).tolist() == [[4, 4]]
    table.add([5], [[1, 1]])
    assert np.array_equal(table.get([5]), wanted[1:2] + 1)
    engine.versions.snapshot("v")
    assert np.array_equal(engine.table("t", "v").get([-9]), wanted[2:])


def test_the_first_read_may_write_them(engine: Engine) -> None:
    table = engine.create_table("t", ("f4", 2), rows=10, default={**UNIFORM, "create": True})
    rows = table.get([3, 4, 3, 99])
    assert len(table) == 2 and table.contains([3, 4, 99]).tolist() == [True, True, False]
    assert np.array_equal(table.get([3, 4, 3, 99], default=0)[:3], rows[:3])
    table.pool([5], [0])
    engine.versions.snapshot("v")
    assert engine.table("t", "v").get([6]).any() and len(table) == 3
    table.get([6], default=1)
    assert len(table) == 3
    with engine.log.locks.publish:  # as a gather has it that met part of a long put
        assert np.array_equal(table.get([7]), table.absent_rows(np.array([7]), None)) and len(table) == 3


def test_a_full_or_failed_store_shows_them_and_writes_none(engine: Engine) -> None:
    table = engine.create_table("t", ("f4", 2), default={"value": 2, "create": True})
    with patch.object(Log, "reserve", side_effect=FullError("the pool is full")):
        assert table.get([1]).tolist() == [[2, 2]] and table.pool([1], [0]).tolist() == [[2, 2]] and len(table) == 0
    engine.log.group_commit.failed = ClosedError("a flush failed")
    assert table.get([1]).tolist() == [[2, 2]]
    engine.log.group_commit.failed = None
    assert len(table) == 0 and table.get([1]).tolist() == [[2, 2]] and len(table) == 1


def test_what_was_written_meanwhile_is_not_overwritten(engine: Engine) -> None:
    table, create = engine.create_table("t", ("f4", 2), default={"value": 2, "create": True}), Table._create

    def put_before(self: Table, ids: np.ndarray) -> None:
        self.put([1], [[5, 5]])
        create(self, ids)

    with patch.object(Table, "_create", put_before):
        table.get([1, 3])
    assert table.get([1, 3], default=0).tolist() == [[5, 5], [2, 2]]


def test_a_transaction_that_is_given_up_has_created_nothing(engine: Engine) -> None:
    table = engine.create_table("t", ("f4", 2), default={"value": 2, "create": True})
    transaction = Transaction(engine)
    writes = transaction.table("t")
    assert writes.get([1]).tolist() == [[2, 2]] and not writes.contains([3]).any() and writes.delete([4]) == 0
    writes.add([5], [[1, 1]])
    assert len(table) == 0
    transaction.commit()
    assert len(table) == 1 and table.get([5]).tolist() == [[3, 3]]


def test_a_table_remembers_its_default(engine: Engine) -> None:
    engine.create_table("t", ("f4", 2), default=UNIFORM)
    assert engine.create_table("t", ("f4", 2), exist_ok=True, default=dict(UNIFORM)).default["seed"] == 7
    with pytest.raises(ExistsError, match="and default=None"):
        engine.create_table("t", ("f4", 2), exist_ok=True)
    expected = engine.table("t").get([1, 2])
    medium = engine.pool.medium
    again = Engine.on_medium(medium)
    assert np.array_equal(again.table("t").get([1, 2]), expected)
