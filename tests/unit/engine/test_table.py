"""Tables against NumPy: what a user hands in, what comes back, and what is refused with which words."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.engine.engine import Engine
from pmkv.engine.row_schema import row_dtype
from pmkv.engine.table import Table
from pmkv.errors import CorruptionError, InvalidError, UnknownNameError
from pmkv.index.lookup_batch import IdBatch
from pmkv.kernels import location
from pmkv.media.memory import MemoryMedium

DTYPES = [
    "f4", ("f4", (8,)), ("f2", (3,)), "i1", ("u2", (2, 3)), "S5", "U3", "?", "M8[s]", ("c8", (2,)),
    [("price", "f4"), ("tags", "S4", (2,)), ("inner", [("a", "i8")])],
]  # fmt: skip


@pytest.fixture
def engine() -> Engine:
    return Engine.on_medium(MemoryMedium(1 << 22), segment_size=1 << 16)


def random_rows(table: Table, count: int, seed: int = 0) -> np.ndarray:
    raw = np.random.default_rng(seed).integers(1, 50, count * table.width, np.uint8)
    if table.dtype.kind in "U?":
        raw[:] = 0
        raw[:: table.dtype.itemsize] = 1
    return raw.view(table.dtype).reshape(count, *table.shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [None, 1000])
def test_rows_come_back_as_they_went_in(engine: Engine, dtype: object, rows: int | None) -> None:
    table = engine.create_table("t", dtype, rows)
    ids = np.random.default_rng(1).permutation(1000)[:300]
    values = random_rows(table, 300)
    table.put(ids, values)
    got, found = table.get(ids[::-1], return_found=True)
    assert got.dtype == table.dtype and got.shape == (300, *table.shape)
    assert got.tobytes() == values[::-1].tobytes() and found.all()
    assert len(table) == 300
    table.check()


def test_absent_rows_take_the_default(engine: Engine) -> None:
    table = engine.create_table("t", ("f4", 2))
    table.put([1], [[1.0, 2.0]])
    rows, found = table.get([0, 1, -5], default=7, return_found=True)
    assert rows.tolist() == [[7, 7], [1, 2], [7, 7]] and found.tolist() == [False, True, False]
    assert table.get([9], default=[3, 4]).tolist() == [[3, 4]]
    assert table.get([9]).tolist() == [[0, 0]]
    with pytest.raises(InvalidError, match="default="):
        table.get([9], default=[1, 2, 3])


def test_zero_is_the_default_of_any_dtype(engine: Engine) -> None:
    for name, dtype in (("s", "S5"), ("m", "M8[s]"), ("r", [("a", "S3"), ("b", "f4")])):
        table = engine.create_table(name, dtype)
        assert table.get([1]).tobytes() == bytes(table.width)


def test_the_last_of_equal_ids_wins(engine: Engine) -> None:
    table = engine.create_table("t", "i4")
    table.put([5, 6, 5], [1, 2, 3])
    assert table.get([5, 6]).tolist() == [3, 2] and len(table) == 2


def test_any_int64_is_an_id(engine: Engine) -> None:
    table = engine.create_table("t", "i8")
    ids = np.array([-(2**63), -1, 0, 2**63 - 1])
    table.put(ids, ids)
    assert (table.get(ids) == ids).all()


def test_a_dense_table_bounds_its_ids(engine: Engine) -> None:
    table = engine.create_table("t", "f4", rows=10)
    with pytest.raises(InvalidError, match=r"id 10 is outside table 't'.*0 to 9"):
        table.put([3, 10], [1.0, 2.0])
    assert len(table) == 0
    table.put([9], [4.0])
    assert table.contains([9, 10, -1]).tolist() == [True, False, False]
    assert table.get([9, 100]).tolist() == [4.0, 0.0]


def test_add_accumulates_equal_ids_as_numpy_does(engine: Engine) -> None:
    table = engine.create_table("t", ("f8", 3))
    model = np.zeros((50, 3))
    rng = np.random.default_rng(2)
    for _ in range(5):
        ids, change = rng.integers(0, 50, 40), rng.random((40, 3))
        table.add(ids, change)
        np.add.at(model, ids, change)
    np.testing.assert_allclose(table.get(np.arange(50)), model)


def test_delete_counts_what_was_there(engine: Engine) -> None:
    table = engine.create_table("t", "i4")
    table.put(np.arange(10), np.arange(10))
    assert table.delete([1, 1, 3, 99]) == 2
    assert len(table) == 8 and table.contains([1, 2, 3]).tolist() == [False, True, False]
    assert table.delete([1]) == 0
    table.put([1], [5])
    assert table.get([1]).tolist() == [5] and len(table) == 9


def plain_pool(
    rows: np.ndarray, found: np.ndarray, offsets: list[int], mode: str, weights: np.ndarray | None
) -> np.ndarray:
    bags = []
    for a, b in zip(offsets, [*offsets[1:], len(rows)], strict=True):
        taken = rows[a:b].astype(np.float64)
        if weights is not None:
            taken = taken * weights[a:b, None]
        taken = taken[found[a:b]]
        empty = np.zeros(rows.shape[1])
        bags.append(empty if not len(taken) else {"sum": taken.sum, "mean": taken.mean, "max": taken.max}[mode](0))
    return np.array(bags)


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i1", "i8"])
@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_pool_is_an_embedding_bag(engine: Engine, dtype: str, mode: str) -> None:
    rng = np.random.default_rng(3)
    table = engine.create_table("t", (dtype, 5))
    table.put(np.arange(40), (rng.random((40, 5)) * 100 - 50).astype(dtype))
    ids, offsets = rng.integers(-5, 45, 60), [0, 0, 7, 30, 60]
    rows, found = table.get(ids, return_found=True)
    pooled = table.pool(ids, offsets, mode=mode)
    assert pooled.dtype == (np.float64 if dtype in ("f8", "i1", "i8") else np.float32)
    np.testing.assert_allclose(pooled, plain_pool(rows, found, offsets, mode, None), rtol=1e-4, atol=1e-3)


def test_pool_with_weights(engine: Engine) -> None:
    table = engine.create_table("t", ("f4", 2))
    table.put([1, 2], [[1, 2], [10, 20]])
    pooled = table.pool([1, 2, 3], [0, 2], weights=np.array([0.5, 2, 9], "f4"))
    assert pooled.tolist() == [[20.5, 41.0], [0, 0]]
    with pytest.raises(InvalidError, match="weights go with mode='sum'"):
        table.pool([1], [0], weights=[1.0], mode="max")


@pytest.mark.parametrize(
    ("offsets", "words"),
    [
        ([1], "begin with 0"),
        ([0, 2, 1], "never fall"),
        ([0, 9], "within the 3 ids"),
        ([], "must belong to a bag"),
        ([0.5], "integers"),
    ],
)
def test_wrong_offsets_are_refused(engine: Engine, offsets: list, words: str) -> None:
    table = engine.create_table("t", ("f4", 2))
    with pytest.raises(InvalidError, match=words):
        table.pool([1, 2, 3], offsets)


@pytest.mark.parametrize(
    ("ids", "rows", "words"),
    [
        ([1, 2], [[1.0, 2.0]], r"shape \(1, 2\).*2 ids need shape \(2, 2\)"),
        ([1], [[1j, 2]], "complex128.*float32"),
        ([1.5], [[1.0, 2.0]], "integers.*float64"),
        ([[1]], [[1.0, 2.0]], r"1 ids need shape \(1, 1, 2\)"),
        ([2**63], [[1.0, 2.0]], "at most 9223372036854775807"),
        ([1], b"abc", "3 bytes are not 1 rows.*of 8 bytes each"),
        (["a"], [[1.0, 2.0]], "integers"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_on_both_sides(engine: Engine, ids: list, rows: object, words: str) -> None:
    table = engine.create_table("t", ("f4", 2))
    with pytest.raises(InvalidError, match=words):
        table.put(ids, rows)
    assert len(table) == 0


def test_fields_select_and_pack(engine: Engine) -> None:
    table = engine.create_table("t", [("a", "f4"), ("b", "S3"), ("c", "i8")])
    table.put([1], np.array([(1.5, b"xyz", 7)], table.dtype))
    rows = table.get([1, 2], fields=["c", "a"])
    assert rows.dtype.names == ("c", "a") and rows.dtype.itemsize == 12 and rows[0].tolist() == (7, 1.5)
    with pytest.raises(InvalidError, match="no field 'z'; it has a, b, c"):
        table.get([1], fields=["z"])


def test_a_scan_meets_every_row_once_while_nothing_changes(engine: Engine) -> None:
    for name, rows in (("hash", None), ("dense", 5000)):
        table = engine.create_table(name, "i8", rows)
        ids = np.random.default_rng(4).permutation(5000)[:3000]
        table.put(ids, ids * 3)
        table.delete(ids[:100])
        seen = [(a, b) for a, b in table.scan(batch=700)]
        got = np.concatenate([a for a, _ in seen])
        assert sorted(got.tolist()) == sorted(ids[100:].tolist())
        assert (np.concatenate([b for _, b in seen]) == got * 3).all()


def test_a_damaged_row_is_reported_and_never_served(engine: Engine) -> None:
    table = engine.create_table("t", ("f4", 4))
    table.put([1, 2], np.ones((2, 4)))
    found, _, data = table._look_up(IdBatch(np.array([2])))
    data[int(found[0] & location.OFFSET_MASK) + 5] ^= 1
    assert table.get([1]).tolist() == [[1, 1, 1, 1]]
    with pytest.raises(CorruptionError, match=r"row 2 of table 't', at offset [\d,]+ of the pool, is damaged"):
        table.get([1, 2])


def test_a_long_put_crosses_frames_and_segments(engine: Engine) -> None:
    table = engine.create_table("t", ("u1", 100))
    ids = np.arange(5000)
    rows = np.random.default_rng(5).integers(0, 256, (5000, 100), np.uint8)
    table.put(ids, rows)
    assert (table.get(ids) == rows).all()
    assert len(engine.pool.taken) > 5


def test_a_dropped_table_is_gone(engine: Engine) -> None:
    table = engine.create_table("t", "f4")
    table.put([1], [1.0])
    engine.drop_table("t")
    for call in (lambda: table.get([1]), lambda: table.put([1], [2.0]), lambda: len(table)):
        with pytest.raises(UnknownNameError, match="'t' was dropped"):
            call()
    again = engine.create_table("t", "i8")
    assert len(again) == 0 and again.id != table.id


STRUCT = [("price", "<f4"), ("n", "<i2")]


@pytest.mark.parametrize(
    "dtype", [(STRUCT, (3,)), (STRUCT, (1, 2)), np.dtype(STRUCT, align=True), ([("a", "i1")], (2,))]
)
def test_arrays_of_structures_keep_their_fields(engine: Engine, dtype: object) -> None:
    table = engine.create_table("t", dtype)
    assert table.row_dtype == row_dtype(dtype)
    rows = np.zeros((2, *table.shape), table.dtype)
    rows[table.dtype.names[0]] = 7
    table.put([1, 2], rows)
    assert (table.get([1, 2])[table.dtype.names[0]] == 7).all()


@pytest.mark.parametrize(
    "given", [[("n", "i2"), ("price", "f4")], [("price", "f4"), ("count", "i2")], [("price", "f4")]]
)
def test_rows_with_other_fields_are_refused_not_taken_by_position(engine: Engine, given: list) -> None:
    table = engine.create_table("t", STRUCT)
    with pytest.raises(InvalidError, match="convert them first"):
        table.put([1], np.zeros(1, given))
    table.put([1], np.zeros(1, [("price", ">f8"), ("n", ">i4")]))


@pytest.mark.parametrize("default", [10**20, -1, 256, "x"])
def test_a_default_that_does_not_fit_is_refused(engine: Engine, default: object) -> None:
    table = engine.create_table("t", "u1")
    with pytest.raises(InvalidError, match="does not fit a row of table 't'"):
        table.get([1], default=default)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_bags_without_any_id(engine: Engine, shape: tuple) -> None:
    table = engine.create_table("t", ("f4", shape) if shape else "f4")
    assert table.pool([], []).shape == (0, *shape)
    assert table.pool([], [0, 0]).tolist() == np.zeros((2, *shape)).tolist()


@pytest.mark.parametrize("rows", [None, 500])
def test_scans_of_any_batch_size_end_and_meet_all(engine: Engine, rows: int | None) -> None:
    table = engine.create_table("t", "i8", rows)
    ids = np.arange(0, 500, 3)
    table.put(ids, ids * 10)
    table.delete(ids[::4])
    there = np.delete(ids, np.s_[::4])
    for batch in (0, 1, 13, 10_000):
        parts = list(table.scan(batch))
        seen = np.concatenate([part for part, _ in parts])
        assert np.sort(seen).tolist() == there.tolist()
        assert (np.concatenate([part for _, part in parts]) == seen * 10).all()
    for cursor in (-1, 1 << 64):
        with pytest.raises(InvalidError, match="is no cursor"):
            table.scan_from(cursor)


def test_ids_of_any_shape(engine: Engine) -> None:
    table = engine.create_table("t", ("f4", 2))
    ids = np.array([[1, 2, 3], [4, 5, 6]], np.int16)
    table.put(ids, np.arange(12.0).reshape(2, 3, 2))
    assert table.get(ids.T)[2, 1].tolist() == [10, 11] and table.get(ids[:, :0]).shape == (2, 0, 2)
    table.add(ids[:1], np.ones((1, 3, 2)))
    rows, found = table.get([[1], [9]], return_found=True)
    assert rows.tolist() == [[[1, 2]], [[0, 0]]] and found.tolist() == table.contains([[1], [9]]).tolist() == [[1], [0]]
    assert table.get(6).tolist() == [10, 11] and table.delete(ids) == 6
    with pytest.raises(InvalidError, match="ids of bags have one dimension"):
        table.pool(ids, [0])


def test_a_get_fills_the_memory_it_is_given(engine: Engine) -> None:
    table = engine.create_table("t", [("a", "i4"), ("b", "f4", (2,))])
    table.put([3], {"a": [7], "b": [[1, 2]]})
    whole, part = np.empty((2,), table.dtype), np.empty((2,), [("b", "f4", (2,))])
    assert table.get([3, 4], out=whole) is whole and whole["a"].tolist() == [7, 0]
    assert table.get([3, 4], fields=["b"], out=part) is part and part["b"].tolist() == [[1, 2], [0, 0]]
    with pytest.raises(InvalidError, match="out= of table 't' has dtype"):
        table.get([3, 4], fields=["a"], out=part)
    assert table.get(3).shape == () and table.get(3)["a"] == 7
    assert table.get([3], as_="arrow").to_pylist() == [{"a": 7, "b": [1.0, 2.0]}]


def changes(table: Table, since: str, batch: int = 3) -> tuple[dict[int, float], set[int]]:
    found = list(table.changes(since, batch))
    rows = {int(id): float(row) for ids, rows, _ in found for id, row in zip(ids, rows, strict=True)}
    assert sum(ids.size for ids, _, _ in found) == len(rows)
    return rows, {int(id) for _, _, deleted in found for id in deleted}


def test_changes_are_those_of_the_layers_above(engine: Engine) -> None:
    table = engine.create_table("t", "f4")
    table.put(np.arange(1000), np.arange(1000))
    engine.versions.snapshot("v1")
    assert changes(table, "v1") == ({}, set())
    table.put([5, 6, 2000], [50, 60, 70])
    table.delete([6, 7])
    engine.versions.snapshot("v2")
    table.put([5], [51])
    assert changes(table, "v1") == ({5: 51, 2000: 70}, {6, 7})
    assert changes(engine.table("t", "v2"), "v1", 1) == ({5: 50, 2000: 70}, {6, 7})
    assert changes(engine.table("t", "v1"), "v2") == ({5: 5, 6: 6, 7: 7}, {2000})  # the way back
    engine.versions.rollback("v1")
    assert changes(table, "v2") == ({5: 5, 6: 6, 7: 7}, {2000}) and changes(table, "v1") == ({}, set())


def test_changes_of_another_table_of_the_same_name_are_refused(engine: Engine) -> None:
    engine.create_table("t", "f4")
    engine.versions.snapshot("v1")
    engine.drop_table("t")
    table = engine.create_table("t", "f4")
    with pytest.raises(UnknownNameError, match="'v1' has not the same table"):
        next(table.changes("v1"))
    with pytest.raises(UnknownNameError, match="no view 'v2'"):
        next(table.changes("v2"))
