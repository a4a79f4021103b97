"""Table commands as bytes and back, without a server."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pmkv_client import requests as protocol
from pmkv_client.requests import StaleTableError, TableInfo

ITEMS = TableInfo("items", 7, np.dtype("<f4"), (2,), None)
WIDE = TableInfo("wide", 8, np.dtype("<f4"), (1 << 18,), None)  # a MiB a row
STRUCT = np.dtype([("price", "<f4"), ("emb", "<f4", (2,)), ("inner", [("a", "<i8"), ("b", "S3")])])
CITIES = TableInfo("cities", 9, STRUCT, (), 100)


def words(work: protocol.Request) -> tuple:
    """The only call, with its blobs as bytes."""
    (call,) = work.calls
    return tuple(bytes(word) if isinstance(word, memoryview) else word for word in call)


def ids_of(*ids: int) -> bytes:
    return np.array(ids, "<i8").tobytes()


@pytest.mark.parametrize(
    ("url", "redis"),
    [
        ("pmkv://localhost:7379/0", "redis://localhost:7379/0"),
        ("pmkv://localhost", "redis://localhost:7379"),
        ("pmkv://", "redis://localhost:7379"),
        ("pmkv://:p%40ss@h/3?socket_timeout=1", "redis://:p%40ss@h:7379/3?socket_timeout=1"),
        ("pmkv://user:p@[::1]/3", "redis://user:p@[::1]:7379/3"),
        ("pmkv://[::1]:1", "redis://[::1]:1"),
        ("rediss://h:1/2", "rediss://h:1/2"),
        ("unix:///run/pmkv", "unix:///run/pmkv"),
    ],
)
def test_redis_url(url: str, redis: str) -> None:
    assert protocol.redis_url(url) == redis


@given(arrays.arrays(st.one_of(arrays.integer_dtypes(), arrays.unsigned_integer_dtypes(sizes=(8, 16, 32))), (5,)))
def test_ids_of_any_integer_type(ids: np.ndarray) -> None:
    assert np.array_equal(np.frombuffer(protocol.blob(protocol.as_ids(ids)), "<i8"), ids.astype("i8"))
    assert np.array_equal(protocol.as_ids(ids[::-2]), ids[::-2])


def test_ids_of_lists() -> None:
    assert protocol.as_ids([]).dtype == np.int64 and protocol.blob(protocol.as_ids([])) == b""
    assert protocol.as_ids([2**63 - 1, -(2**63)]).tolist() == [2**63 - 1, -(2**63)]


@pytest.mark.parametrize("ids", [[1.0], ["1"], [True], [[1]], 1, [2**63], [None], np.array([2**63], "u8"), np.zeros(0)])
def test_what_is_no_id(ids: object) -> None:
    if isinstance(ids, np.ndarray) and not ids.size:
        assert len(protocol.as_ids(ids)) == 0
        return
    with pytest.raises(ValueError, match="ids"):
        protocol.as_ids(ids)


def test_a_layout_that_differs_is_named_beside_the_one_asked_for() -> None:
    protocol.check_layout(ITEMS, ("f4", 2), None)
    protocol.check_layout(CITIES, STRUCT, 100)
    protocol.check_layout(CITIES, np.dtype(STRUCT.descr, align=True), 100)  # packed when it is created, too
    for dtype, rows in ((("f4", 3), None), (("f8", 2), None), ("f4", None), (("f4", 2), 5)):
        with pytest.raises(
            redis.ResponseError, match=r"'items' exists with dtype=\"<f4\" shape=\(2,\) rows=None; asked"
        ):
            protocol.check_layout(ITEMS, dtype, rows)


def test_put_newer() -> None:
    work = protocol.put(CITIES, [1, 2], np.zeros(2, CITIES.dtype), newer="price")
    assert words(work)[:3] == ("TABLE.PUT", "cities", ids_of(1, 2)) and words(work)[4:] == ("NEWER", "price")
    assert work.join([2]) == 2 and not work.once
    with pytest.raises(ValueError, match="has no field"):
        protocol.put(CITIES, [1], np.zeros(1, CITIES.dtype), newer="when")


def test_create() -> None:
    assert words(protocol.create_table("t", "f4")) == ("TABLE.CREATE", "t", "DTYPE", "<f4")
    assert words(protocol.create_table("t", ("f4", 64), 10)) == (
        "TABLE.CREATE",
        "t",
        "DTYPE",
        "<f4",
        "DIM",
        64,
        "ROWS",
        10,
    )
    *_, schema, text = words(protocol.create_table("t", STRUCT))
    assert schema == "SCHEMA"
    assert json.loads(text) == [["price", "<f4"], ["emb", "<f4", [2]], ["inner", [["a", "<i8"], ["b", "|S3"]]]]
    for dtype in (("f4", (2, 2)), (STRUCT, 2)):
        with pytest.raises(ValueError, match="over the network"):
            protocol.create_table("t", dtype)


DESCR = st.recursive(
    st.one_of(arrays.integer_dtypes(), arrays.floating_dtypes(), arrays.byte_string_dtypes(min_len=1)),
    lambda kinds: st.lists(kinds, min_size=1, max_size=3).map(
        lambda fields: np.dtype([(f"f{i}", kind) for i, kind in enumerate(fields)])
    ),
    max_leaves=5,
)


@given(DESCR)
def test_descr_round_trip(dtype: np.dtype) -> None:
    assert protocol.descr_dtype(protocol.descr_json(dtype)) == dtype


def test_a_padded_structure_is_created_packed() -> None:
    padded = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    packed = np.dtype([("a", "i1"), ("b", "f8")])
    assert protocol.descr_dtype(protocol.descr_json(padded)) == packed
    info = TableInfo("t", 1, packed, (), None)
    rows = protocol.as_rows(info, protocol.as_ids([1]), np.array([(1, 2.0)], padded))
    assert rows.dtype == packed and rows.tolist() == [(1, 2.0)]


def info_reply() -> list:
    return [b"name", b"items", b"id", 7, b"dtype", b'"<f4"', b"shape", [2], b"width", 8, b"rows", 0, b"len", 3]


def test_info() -> None:
    flat = info_reply()
    assert protocol.parse_table_info(flat) == ITEMS
    assert protocol.parse_table_info(dict(zip(flat[::2], flat[1::2], strict=True))) == ITEMS
    assert ITEMS.width == 8 and ITEMS.row_dtype == np.dtype(("<f4", (2,)))


def test_put() -> None:
    work = protocol.put(ITEMS, [1, 2], [[1, 2], [3, 4]])
    assert words(work) == ("TABLE.PUT", "items", ids_of(1, 2), np.array([1, 2, 3, 4], "<f4").tobytes())
    assert work.join([b"OK"]) is None and not work.once
    assert protocol.add(ITEMS, [1], [[1.5, 2]]).once
    assert words(protocol.put(ITEMS, [], np.empty((0, 2)))) == ("TABLE.PUT", "items", b"", b"")


def test_put_copies_nothing_that_fits_as_it_is() -> None:
    rows, ids = np.ones((2, 2), "<f4"), np.array([1, 2])
    (call,) = protocol.put(ITEMS, ids, rows).calls
    assert np.shares_memory(np.frombuffer(call[3], "u1"), rows) and np.shares_memory(np.frombuffer(call[2], "u1"), ids)


@pytest.mark.parametrize(
    "rows",
    [
        [1, 2],
        [[1, 2, 3]],
        [[1, 2], [3, 4]],
        [["a", "b"]],
        np.ones((1, 2), "c8"),
        np.zeros((1, 2), [("a", "f4")]),
        [[1, 2], [3]],
    ],
)
def test_rows_that_do_not_fit(rows: object) -> None:
    with pytest.raises(ValueError):
        protocol.put(ITEMS, [1], rows)


def test_structured_rows() -> None:
    one = (1.5, [1, 2], (7, b"abc"))
    (call,) = protocol.put(CITIES, [1], [one]).calls
    assert np.frombuffer(call[3], STRUCT)["inner"]["a"] == [7]
    renamed = np.zeros(1, [("cost", "f4"), ("emb", "f4", 2), ("inner", STRUCT["inner"])])
    with pytest.raises(ValueError, match="cost"):
        protocol.put(CITIES, [1], renamed)


@given(st.integers(0, 100), st.integers(1, 50), st.integers(1, 200))
def test_pieces(count: int, width: int, limit: int) -> None:
    parts = protocol.slices(count, width, limit)
    assert parts[0].start == 0 and parts[-1].stop == count
    assert all(one.stop == two.start for one, two in itertools.pairwise(parts))
    assert all((part.stop - part.start) * width <= max(limit, width) for part in parts)


def test_a_long_put_and_get_are_cut() -> None:
    rows = np.zeros((20, 1 << 18), "<f4")
    work = protocol.put(WIDE, np.arange(20), rows)
    assert [len(call[3]) >> 20 for call in work.calls] == [8, 8, 4] and work.stream
    work = protocol.get(WIDE, np.arange(130), return_found=True)
    sizes = [len(call[2]) // 8 for call in work.calls]
    assert sizes == [64, 64, 2] and not work.stream
    small = TableInfo("s", 1, np.dtype("<i8"), (), None)
    many = np.arange(protocol.REPLY_BYTES // 8 + 3)
    work = protocol.get(small, many)
    assert np.array_equal(work.join([bytes(call[2]) for call in work.calls]), many)


def test_get() -> None:
    work = protocol.get(ITEMS, [1, 2])
    assert words(work) == ("TABLE.GET", "items", ids_of(1, 2))
    rows = work.join([np.arange(4, dtype="<f4").tobytes()])
    assert rows.tolist() == [[0, 1], [2, 3]] and rows.flags.writeable
    work = protocol.get(ITEMS, [1], default=-1.5, return_found=True)
    assert words(work)[3:] == ("DEFAULT", b"-1.5", "FOUND")
    rows, found = work.join([[b"\0" * 8, b"\1"]])
    assert rows.shape == (1, 2) and found.tolist() == [True] and found.dtype == bool
    work = protocol.get(CITIES, [1], fields=["emb", "price"])
    assert words(work)[3:] == ("FIELDS", 2, "emb", "price")
    assert work.join([b"\0" * 12]).dtype == np.dtype([("emb", "<f4", (2,)), ("price", "<f4")])
    assert words(protocol.get(ITEMS, [1], default=float("nan")))[4] == b"nan"
    assert words(protocol.get(ITEMS, [1], default=np.float32(0.5)))[4] == b"0.5"
    assert words(protocol.get(ITEMS, [1], default=-0.0))[4] == b"-0.0"
    assert words(protocol.get(ITEMS, [1], default=True))[4] == b"1.0"


def test_what_cannot_be_got() -> None:
    with pytest.raises(ValueError, match="no fields"):
        protocol.get(ITEMS, [1], fields=["a"])
    with pytest.raises(ValueError, match=r"\['nope'\]"):
        protocol.get(CITIES, [1], fields=["price", "nope"])
    for default in ("1", (1, 2)):
        with pytest.raises(ValueError, match="default"):
            protocol.get(ITEMS, [1], default=default)


def test_replies_of_another_table_than_described() -> None:
    with pytest.raises(StaleTableError, match="items"):
        protocol.get(ITEMS, [1, 2]).join([b"\0" * 12])
    with pytest.raises(ValueError, match="2 ids"):
        protocol.contains(ITEMS, [1, 2]).join([b"\0"])


def test_pool() -> None:
    work = protocol.pool(ITEMS, [1, 2, 3], [0, 2], weights=[1, 2, 3], mode="sum")
    assert words(work) == (
        "TABLE.POOL",
        "items",
        ids_of(1, 2, 3),
        ids_of(0, 2),
        "WEIGHTS",
        np.array([1, 2, 3], "<f4").tobytes(),
    )
    assert work.join([np.arange(4, dtype="<f4").tobytes()]).tolist() == [[0, 1], [2, 3]]
    assert words(protocol.pool(ITEMS, [1], [0], mode="max"))[-2:] == ("MODE", "max")
    for kind, pooled in [("f2", "f4"), ("f4", "f4"), ("i4", "f8"), ("f8", "f8"), ("i8", "f8"), ("u8", "f8")]:
        info = TableInfo("t", 1, np.dtype(kind), (), None)
        assert protocol.pooled_row(info) == np.dtype(pooled)
    with pytest.raises(ValueError, match="weights"):
        protocol.pool(ITEMS, [1, 2], [0], weights=[1])


def test_others() -> None:
    assert words(protocol.drop_table("t")) == ("TABLE.DROP", "t")
    assert protocol.table_names().join([[b"a", b"b"]]) == ["a", "b"]
    assert protocol.length("t").join([7]) == 7
    assert words(protocol.delete(ITEMS, [1])) == ("TABLE.DEL", "items", ids_of(1))
    assert protocol.contains(ITEMS, [1, 2]).join([b"\0\1"]).tolist() == [False, True]
    work = protocol.scan(ITEMS, 2**64 - 1, 10)
    assert words(work) == ("TABLE.SCAN", "items", 2**64 - 1, "COUNT", 10)
    cursor, ids, rows = work.join([[b"5", ids_of(9), b"\0" * 8]])
    assert (cursor, ids.tolist(), rows.tolist()) == (5, [9], [[0, 0]])


def test_several_tables() -> None:
    work = protocol.gather([ITEMS, CITIES], {"cities": [5], "items": [1, 2]})
    assert words(work) == ("TABLE.MGET", 2, "items", ids_of(1, 2), "cities", ids_of(5))
    found = work.join([[b"\0" * 16, b"\0" * STRUCT.itemsize]])
    assert found["items"].shape == (2, 2) and found["cities"].dtype == STRUCT
    work = protocol.pool_many([ITEMS], {"items": ([1, 2], [0])}, "mean")
    assert words(work) == ("TABLE.MPOOL", 1, "items", ids_of(1, 2), ids_of(0), "MODE", "mean")
    assert work.join([[b"\0" * 8]])["items"].tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("value", "given", "dtype"), [(2**40, "i8", "i4"), (300, "u2", "u1"), (1e300, "f8", "f4"), (2**63, "u8", "i8")]
)
def test_values_that_do_not_fit_are_refused_before_they_are_sent(value: float, given: str, dtype: str) -> None:
    info = TableInfo("t", 1, np.dtype(dtype), (), None)
    with pytest.raises(ValueError, match=f"which does not fit dtype {np.dtype(dtype)}"):
        protocol.as_rows(info, np.array([1]), np.array([value], given))
    both = np.dtype([("a", "i8"), ("b", given)])
    info = TableInfo("t", 1, np.dtype([("a", "i8"), ("b", dtype)]), (), None)
    with pytest.raises(ValueError, match="does not fit"):
        protocol.as_rows(info, np.array([1]), np.array([(1, value)], both))


def test_defaults_of_tables() -> None:
    assert words(protocol.create_table("t", "f4", default={"uniform": (0, 1), "seed": 1}))[4:] == (
        "DEFAULT", '{"uniform": [0, 1], "seed": 1}',
    )  # fmt: skip
    assert words(protocol.create_table("t", "f4", default=np.array([1.0, 2.0])))[-1] == "[1.0, 2.0]"
    with pytest.raises(ValueError, match="neither a number nor"):
        protocol.create_table("t", "f4", default={1, 2})
    assert words(protocol.get(ITEMS, [1])) == ("TABLE.GET", "items", ids_of(1))
    assert words(protocol.get(ITEMS, [1], default=0))[3:] == ("DEFAULT", b"0.0")
    info = protocol.parse_table_info([*info_reply(), b"default", b'{"value":2}'])
    assert info.default == {"value": 2} and protocol.parse_table_info(info_reply()).default is None


@pytest.mark.parametrize("dram, sent", [("all", "all"), (4096, "4096"), (0.25, "0.25"), (None, "none")])
def test_the_dram_of_a_table(dram: int | float | str | None, sent: str) -> None:
    assert protocol.set_dram("t", dram).calls == [("TABLE.SET", "t", "DRAM", sent)]
    made = protocol.create_table("t", "f4", dram=dram).calls[0]
    assert made[4:] == (("DRAM", sent) if dram is not None else ())
