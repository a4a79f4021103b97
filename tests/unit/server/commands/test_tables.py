"""TABLE.*: rows as blobs, options, and errors that name both sides."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from pmkv_server.commands.tables import describe
from tests.unit.server.stand import Client, shown


def blob(*values: float, dtype: str = "<i8") -> bytes:
    return np.array(values, dtype).tobytes()


def rows_of(reply: tuple, dtype: Any = "<f4") -> list:
    kind, data = reply
    assert kind == "$", reply
    return np.frombuffer(data, dtype).tolist()


@pytest.fixture
def items(client: Client) -> Client:
    """Table `items` of two f4 a row, with rows 1 and 2."""
    assert client.says("TABLE.CREATE items DTYPE f4 DIM 2") == "OK"
    assert shown(client("TABLE.PUT", "items", blob(1, 2), blob(1.0, 1.5, 2.0, 2.5, dtype="<f4"))) == "OK"
    return client


def test_create_list_info_drop(client: Client) -> None:
    client.follows("""
        TABLE.CREATE b DTYPE f4 => OK
        TABLE.CREATE a DTYPE <i2 DIM 3 ROWS 10 => OK
        TABLE.LIST => ["a", "b"]
        TABLE.LEN a => :0
        TABLE.DROP b => OK
        TABLE.LIST => ["a"]
    """)
    flat = client("TABLE.INFO", "a")[1]
    found = {key[1]: value for key, value in zip(flat[::2], flat[1::2])}
    assert found[b"dtype"] == ("$", b'"<i2"')
    assert found[b"shape"] == ("*", ((":", b"3"),))
    assert (found[b"width"], found[b"rows"], found[b"len"]) == ((":", b"6"), (":", b"10"), (":", b"0"))


def test_a_schema(client: Client) -> None:
    schema = b'[["price", "<f4"], ["tags", "<i2", [2]], ["geo", [["lat", "<f8"], ["lon", "<f8"]]]]'
    assert client("TABLE.CREATE", "s", "SCHEMA", schema) == ("+", b"OK")
    dtype = client.server.store.table("s").dtype
    assert dtype == np.dtype([("price", "<f4"), ("tags", "<i2", (2,)), ("geo", [("lat", "<f8"), ("lon", "<f8")])])
    assert orjson.loads(describe(dtype))[0] == ["price", "<f4"]
    row = np.zeros(1, dtype)
    row["price"], row["tags"] = 2.5, [[7, 8]]
    assert client("TABLE.PUT", "s", blob(4), row.tobytes()) == ("+", b"OK")
    reply = client("TABLE.GET", "s", blob(4), "FIELDS", 2, "tags", "price")
    assert rows_of(reply, [("tags", "<i2", (2,)), ("price", "<f4")])[0][1] == 2.5
    assert client("TABLE.GET", "s", blob(4), "FIELDS", 1, "nosuch")[0] == "-"


def test_dram_of_tables(client: Client) -> None:
    client.follows("""
        TABLE.CREATE t DTYPE f4 ROWS 5 DRAM all => OK
        TABLE.SET t DRAM 64KiB => OK
        TABLE.SET t dram 25% => OK
        TABLE.SET t DRAM none => OK
    """)
    for command, why in (
        ("TABLE.SET t DRAM much", "give 'all', bytes such as"), ("TABLE.SET t WHAT 1", "syntax error"),
        ("TABLE.SET t DRAM", "wrong number of arguments"), ("TABLE.SET u DRAM all", "no table 'u'"),
        ("TABLE.CREATE u DTYPE f4 DRAM 0", "give 'all', bytes such as"),
    ):  # fmt: skip
        assert why in client.says(command)
    client("TABLE.SET", "t", "DRAM", "0.5")
    assert (b"dram" in str(client("TABLE.INFO", "t")).encode()) and "0.5" in str(client("TABLE.INFO", "t"))


def test_put_newer(client: Client) -> None:
    client("TABLE.CREATE", "s", "SCHEMA", b'[["at", "<i8"], ["price", "<f4"]]')
    row = np.dtype([("at", "<i8"), ("price", "<f4")])

    def put(*rows: tuple[int, float], field: str = "at") -> Any:
        return client("TABLE.PUT", "s", blob(*range(len(rows))), np.array(list(rows), row).tobytes(), "newer", field)

    assert put((5, 1.0), (5, 1.0)) == (":", b"2")
    assert put((4, 2.0), (6, 2.0)) == (":", b"1")
    assert rows_of(client("TABLE.GET", "s", blob(0, 1)), row) == [(5, 1.0), (6, 2.0)]
    assert "no such field" in shown(put((7, 3.0), field="when"))
    assert "syntax error" in shown(client("TABLE.PUT", "s", blob(1), bytes(12), "OLDER", "at"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("TABLE.CREATE t DTYPE nonsense", "DTYPE 'nonsense' is not a NumPy dtype"),
        ("TABLE.CREATE t DTYPE f4 DIM 0", "DIM is not a positive integer"),
        ("TABLE.CREATE t DTYPE f4 ROWS 0", "ROWS is not a positive integer"),
        ("TABLE.CREATE t DIM 4 ROWS 4", "give DTYPE"),
        ("TABLE.CREATE t DTYPE f4 DIM", "syntax error"),
        ("TABLE.CREATE t FOO f4", "syntax error"),
        ("TABLE.CREATE t SCHEMA {", "SCHEMA is not a JSON list"),
        ("TABLE.CREATE t SCHEMA 5", "SCHEMA is not a JSON list"),
        ("TABLE.CREATE t SCHEMA [5]", "SCHEMA is not a JSON list"),
        ("TABLE.CREATE t SCHEMA [[\"a\",\"<f4\",[9999999999999]]]", "SCHEMA is not a JSON list"),
        ("TABLE.CREATE t DTYPE O", ""),
        ("TABLE.CREATE ../t DTYPE f4", "../t"),
        ("TABLE.CREATE items DTYPE f4", "items"),
        ("TABLE.LEN none", "none"),
        ("TABLE.DROP none", "none"),
        ("TABLE.GET none x", "none"),
    ],
)  # fmt: skip
def test_what_is_refused(line: str, said: str, items: Client) -> None:
    reply = items.says(line)
    assert reply.startswith("-ERR ") and said in reply, reply
    assert "internal error" not in reply, reply
    assert items.says("TABLE.LIST") == '["items"]'


def test_put_get_default_found(items: Client) -> None:
    assert rows_of(items("TABLE.GET", "items", blob(2, 9, 1))) == [2.0, 2.5, 0.0, 0.0, 1.0, 1.5]
    assert rows_of(items("TABLE.GET", "items", blob(9), "DEFAULT", "-1.5")) == [-1.5, -1.5]
    _, (rows, found) = items("TABLE.GET", "items", blob(1, 9), "found", "DEFAULT", "nan")
    assert np.isnan(rows_of(rows)[2:]).all()
    assert found == ("$", b"\x01\x00")
    assert items("TABLE.GET", "items", b"") == ("$", b"")


def test_the_last_of_equal_ids_wins_and_negative_ids_are_ids(items: Client) -> None:
    items("TABLE.PUT", "items", blob(-5, -5), blob(1, 1, 2, 2, dtype="<f4"))
    assert rows_of(items("TABLE.GET", "items", blob(-5))) == [2.0, 2.0]
    assert items.says("TABLE.LEN items") == ":3"


def test_add_delete_exists(items: Client) -> None:
    assert items("TABLE.ADD", "items", blob(1, 7), blob(1, 1, 5, 5, dtype="<f4")) == ("+", b"OK")
    assert rows_of(items("TABLE.GET", "items", blob(1, 7))) == [2.0, 2.5, 5.0, 5.0]
    assert items("TABLE.EXISTS", "items", blob(7, 8)) == ("$", b"\x01\x00")
    assert items("TABLE.DEL", "items", blob(7, 8, 7)) == (":", b"1")
    assert items.says("TABLE.LEN items") == ":2"


def test_blobs_of_the_wrong_length_name_both_sides(items: Client) -> None:
    reply = shown(items("TABLE.PUT", "items", blob(1, 2), b"x" * 15))
    assert reply == "-ERR rows: 15 bytes, but 2 ids of table 'items' take 2 x 8 bytes"
    for name in ("TABLE.GET", "TABLE.DEL", "TABLE.EXISTS"):
        reply = shown(items(name, "items", b"1234567"))
        assert reply == "-ERR ids: 7 bytes are not a whole number of little-endian int64"
    assert shown(items("TABLE.POOL", "items", blob(1), b"1234")).startswith("-ERR offsets: 4 bytes are not")
    assert shown(items("TABLE.POOL", "items", blob(1), blob(0), "WEIGHTS", b"123")).startswith("-ERR WEIGHTS: 3 bytes")


@pytest.mark.parametrize("tail", ["FOO", "DEFAULT", "DEFAULT x", "FIELDS", "FIELDS 2 a", "FIELDS x a", "FOUND FOO"])
def test_options_of_get_that_are_none(tail: str, items: Client) -> None:
    reply = shown(items("TABLE.GET", "items", blob(1), *tail.split()))
    assert reply.startswith("-ERR ") and "internal" not in reply


def test_ids_outside_a_dense_table(client: Client) -> None:
    client.says("TABLE.CREATE d DTYPE f4 ROWS 4")
    for wrong in (-1, 4):
        reply = shown(client("TABLE.PUT", "d", blob(0, wrong), blob(1, 1, dtype="<f4")))
        assert reply.startswith("-ERR ") and str(wrong) in reply, reply
    assert client.says("TABLE.LEN d") == ":0"


def test_pool(items: Client) -> None:
    def pooled(*options: str | bytes) -> list:
        return rows_of(items("TABLE.POOL", "items", blob(1, 2, 9), blob(0, 2), *options))

    assert pooled() == [3.0, 4.0, 0.0, 0.0]
    assert pooled("MODE", "mean") == [1.5, 2.0, 0.0, 0.0]
    assert pooled("MODE", "MAX") == [2.0, 2.5, 0.0, 0.0]
    assert pooled("WEIGHTS", blob(2, 1, 1, dtype="<f4")) == [4.0, 5.5, 0.0, 0.0]
    for options in (["MODE", "median"], ["MODE"], ["FOO", "1"]):
        assert shown(items("TABLE.POOL", "items", blob(1), blob(0), *options)).startswith("-ERR syntax error near")
    assert shown(items("TABLE.POOL", "items", blob(1), blob(5))).startswith("-ERR ")


def test_several_tables_at_once(items: Client) -> None:
    items.says("TABLE.CREATE other DTYPE i8")
    items("TABLE.PUT", "other", blob(1), blob(42))
    _, (first, second) = items("TABLE.MGET", 2, "items", blob(1), "other", blob(1, 2))
    assert (rows_of(first), rows_of(second, "<i8")) == ([1.0, 1.5], [42, 0])
    _, twice = items("TABLE.MGET", 2, "items", blob(1), "items", blob(2))
    assert [rows_of(reply) for reply in twice] == [[1.0, 1.5], [2.0, 2.5]]
    bags = ("items", blob(1, 2), blob(0), "other", blob(1, 1), blob(0))
    _, (first, second) = items("TABLE.MPOOL", 2, *bags)
    assert (rows_of(first), rows_of(second, "<f8")) == ([3.0, 4.0], [84.0])
    _, twice = items("TABLE.MPOOL", 2, *bags[:3], *bags[:3], "MODE", "max")
    assert [rows_of(reply) for reply in twice] == [[2.0, 2.5]] * 2


def test_counts_that_do_not_fit(items: Client) -> None:
    for words in ((2, "items", blob(1)), (0, "items", blob(1)), ("x", "items", blob(1)), (1 << 40, "items", blob(1))):
        assert shown(items("TABLE.MGET", *words)).startswith("-ERR ")
    assert shown(items("TABLE.MGET", 1, "items", blob(1), "FOO")) == "-ERR syntax error near 'FOO'"
    assert "none" in shown(items("TABLE.MGET", 1, "none", blob(1)))
    reply = shown(items("TABLE.MPOOL", 2, "items", blob(1), blob(0), "MODE", "max"))
    assert reply == "-ERR syntax error: 2 tables need 6 arguments, here are 5"


def test_scan(items: Client) -> None:
    found: dict[int, float] = {}
    wanted = {i: float(i) for i in range(100)}
    items("TABLE.PUT", "items", blob(*wanted), np.repeat(np.arange(100, dtype="<f4"), 2).tobytes())
    cursor = b"0"
    for _ in range(1000):
        _, ((_, cursor), ids, rows) = items("TABLE.SCAN", "items", cursor, "COUNT", 7)
        found.update(zip(rows_of(ids, "<i8"), rows_of(rows)[::2]))
        if cursor == b"0":
            break
    assert (cursor, found) == (b"0", wanted)
    for words in (["x"], [0, "COUNT", 0], [0, "COUNT"], [0, "FOO", 1], [-1]):
        assert shown(items("TABLE.SCAN", "items", *words)).startswith("-ERR ")


def test_long_replies_come_whole(client: Client) -> None:
    client.says("TABLE.CREATE wide DTYPE f4 DIM 1024")
    rows = np.arange(64 * 1024, dtype="<f4")
    client("TABLE.PUT", "wide", blob(*range(64)), rows.tobytes())
    assert client("TABLE.GET", "wide", blob(*range(64))) == ("$", rows.tobytes())


def test_flags_and_keys_do_not_mix(items: Client) -> None:
    """A table's name is no key."""
    items.follows("""
        EXISTS items => :0
        SET items 1 => OK
        TABLE.LEN items => :2
        TABLE.DROP items => OK
        GET items => "1"
    """)


def test_ids_of_keys(items: Client, store: Any) -> None:
    assert rows_of(items("TABLE.IDS", "items", 2, "user:1", b"\xff"), "<i8")[0] == 1304368944307141588
    assert rows_of(items("TABLE.IDS", "items", 1, "ONLY", "ONLY")) and len(store.table("items.keys")) == 2
    store.table("items.keys").put(store.table("items").ids_of(["x"]), np.array([b"y"], "S64"))
    assert "keys b'y' and b'x' have the same id" in items.says("TABLE.IDS items 1 x")
    items.follows("""
        TABLE.IDS items 3 a b => -ERR syntax error: 3 keys are said to follow, here are 2
        TABLE.IDS items 1 a SOMETIMES x => -ERR syntax error near 'SOMETIMES'
    """)


def test_changes(items: Client) -> None:
    items.says("SNAPSHOT.CREATE v1")
    items("TABLE.PUT", "items", blob(2, 3), blob(5, 5, 6, 6, dtype="<f4"))
    items("TABLE.DEL", "items", blob(1))
    _, (cursor, ids, rows, deleted) = items("TABLE.CHANGES", "items", 0, "SINCE", "v1", "COUNT", 100)
    order = np.argsort(rows_of(ids, "<i8"))
    assert cursor[1] == b"0" and np.array(rows_of(ids, "<i8"))[order].tolist() == [2, 3]
    assert np.array(rows_of(rows)).reshape(2, 2)[order].tolist() == [[5, 5], [6, 6]]
    assert rows_of(deleted, "<i8") == [1]
    items.follows("""
        TABLE.CHANGES items 0 SINCE v1 AT v1 => ["0", "", "", ""]
        TABLE.CHANGES items 0 COUNT 1 => -ERR syntax error: SINCE and the name of a view are missing
        TABLE.CHANGES items 0 SINCE v2 => -NOVIEW there is no view 'v2'; there are: main, v1
    """)


def test_reads_that_create_rows(client: Client) -> None:
    for name in ("t", "u"):
        assert client("TABLE.CREATE", name, "DTYPE", "f4", "DEFAULT", '{"value": 2, "create": true}')[1] == b"OK"
    assert rows_of(client("TABLE.GET", "t", blob(1), "DEFAULT", "0")) == [0] and client("TABLE.LEN", "t")[1] == b"0"
    assert client("TABLE.EXISTS", "t", blob(1))[1] == b"\0" and client("SNAPSHOT.CREATE", "s")[1] == b"OK"
    assert rows_of(client("TABLE.GET", "t", blob(1, 2), "AT", "s")) == [2, 2] and client("TABLE.LEN", "t")[1] == b"0"
    assert rows_of(client("TABLE.GET", "t", blob(1, 2))) == [2, 2] and client("TABLE.LEN", "t")[1] == b"2"
    client("TABLE.POOL", "t", blob(3, 1), blob(0))
    client("TABLE.MGET", "2", "t", blob(4), "u", blob(5))
    client("TABLE.MPOOL", "2", "t", blob(6), blob(0), "u", blob(6), blob(0))
    assert [client("TABLE.LEN", name)[1] for name in ("t", "u")] == [b"5", b"2"]


def test_defaults_of_tables(client: Client, store: Any) -> None:
    assert client("TABLE.CREATE", "t", "DTYPE", "f4", "DIM", 2, "DEFAULT", '{"uniform": [0, 1], "seed": 3}')[1] == b"OK"
    wanted = store.table("t").get([5])
    assert rows_of(client("TABLE.GET", "t", blob(5))) == wanted[0].tolist() and wanted.all()
    assert rows_of(client("TABLE.GET", "t", blob(5), "DEFAULT", "0")) == [0, 0]
    assert rows_of(client("TABLE.MGET", 1, "t", blob(5))[1][0]) == wanted[0].tolist()
    assert rows_of(client("TABLE.POOL", "t", blob(5), blob(0))) == wanted[0].tolist()
    assert b'{"uniform":[0.0,1.0],"seed":3}' in [value for _, value in client("TABLE.INFO", "t")[1]]
    client.follows("""
        TABLE.CREATE u DTYPE f4 DEFAULT {} => -ERR default={}: known are "zeros", a value (or {'value': value}), and {'uniform': (low, high)} or {'normal': (mean, deviation)} with a 'seed'
        TABLE.CREATE u DTYPE f4 DEFAULT { => -ERR DEFAULT '{' is not JSON
    """)  # noqa: E501


def test_a_table_with_a_codec(client: Client) -> None:
    assert client.says("TABLE.CREATE q DTYPE f4 DIM 4 CODEC int8 ROWS 9") == "OK"
    flat = client("TABLE.INFO", "q", "LAYOUT")[1]
    found = {key[1]: value for key, value in zip(flat[::2], flat[1::2])}
    assert (found[b"codec"], found[b"stored"], found[b"width"]) == (("$", b"int8"), (":", b"12"), (":", b"16"))
    assert client("TABLE.PUT", "q", blob(1), blob(0, 1, 2, 255, dtype="<f4")) == ("+", b"OK")
    assert rows_of(client("TABLE.GET", "q", blob(1))) == [0, 1, 2, 255]
    fused = bytes([0, 1, 2, 255]) + blob(1, 0, dtype="<f4")
    assert client("TABLE.GET", "q", blob(1), "ENCODED") == ("$", fused)
    assert client("TABLE.PUT", "q", blob(2), fused, "ENCODED") == ("+", b"OK")
    assert rows_of(client("TABLE.POOL", "q", blob(1, 2), blob(0))) == [0, 2, 4, 510]
    assert client("TABLE.SCAN", "q", 0, "COUNT", 9, "ENCODED")[1][2] == ("$", 2 * fused)
    assert client("SNAPSHOT.CREATE", "s") == ("+", b"OK")
    client("TABLE.PUT", "q", blob(3), fused, "ENCODED")
    assert client("TABLE.CHANGES", "q", 0, "SINCE", "s", "ENCODED")[1][2] == ("$", fused)
    assert "choose one of f2, bfloat16" in client.says("TABLE.CREATE u DTYPE f4 CODEC int5")
    assert "codec='int8' stores rows of f4, not of int32" in client.says("TABLE.CREATE u DTYPE i4 CODEC int8")
    assert b"of 12 bytes each" in client("TABLE.PUT", "q", blob(3), b"short", "ENCODED")[1]
