"""Every argument of the embedded faces and of the client, of every wrong type: it works, or is refused with words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

import pmkv
import pmkv_client
from tests.served import served

Errors = type[Exception] | tuple[type[Exception], ...]
ROWS = np.ones((1, 4))
WRONG: list[Any] = [
    "z", b"z", "", 1, -1, 0, 2**70, 10**400, 1.5, float("nan"), None, True, [], ["z", b"z"], [b"z", None], [1, "z"],
    [1, 2], (), {}, {"t": 1}, {"t": [1, 2]}, {"t": ("z", [0])}, {b"z": 1}, {"t": None}, set(), ["t"], [None],
    [[1], [2, 3]], "z" * 100_000, object(), type, len, np.array([1]), np.array(["z"]), np.array([b"z"]),
    np.array([None]), memoryview(np.array([1, 2])),
]  # fmt: skip
VIEWS: dict[str, tuple[Any, ...]] = {
    "view": ("main",), "view_info": ("main",), "branch": ("b",), "promote": ("none",), "delete_view": ("none",),
    "undo": (), "snapshot": ("v",), "rollback": ("none",), "create_table": ("t2", ("f4", 4)), "table": ("t",),
    "drop_table": ("none",), "gather": ({"t": [1]},), "pool": ({"t": ([1], [0])},),
}  # fmt: skip
ITEMS: dict[str, tuple[Any, ...]] = {
    "get": (b"a",), "get_many": ([b"a"],), "put": (b"q", b"b"), "put_many": ({b"q": b"b"},), "delete": (b"none",),
}  # fmt: skip
TABLE: dict[str, tuple[Any, ...]] = {
    "get": ([1],), "put": ([1], ROWS), "add": ([1], ROWS), "delete": ([99],), "contains": ([1],), "pool": ([1, 2], [0]),
    "scan": (), "changes": ("v",), "set_dram": (None,), "ids_of": (["x"],),
}  # fmt: skip
STORE = {**VIEWS, **ITEMS, "keyspace": (0,), "scan": (), "grow": ("64MiB",)}
KEYSPACE = {
    **ITEMS, "delete_many": ([b"none"],), "expire": (b"none", 0), "keys": (), "entry": (b"a",), "expiry": (b"a",),
    "sizes": ([b"a"],), "contains_many": ([b"a"],), "get_spans": ([b"a"],),
}  # fmt: skip
TRANSACTION = {**ITEMS, "watch": (b"a",), "keyspace": (0,), "table": ("t",)}
CLIENT = {**VIEWS, "describe": (["t"],)}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[pmkv.Store]:
    with pmkv.open(tmp_path / "store", capacity="64MiB") as store:
        filled(store).put(b"a", b"b")
        yield store
        store.check()


def filled(store: Any) -> Any:
    """Fill a store, or a server through its client, as the arguments that are right expect it."""
    store.create_table("t", ("f4", 4)).put(np.arange(10), np.ones((10, 4)))
    store.snapshot("v")
    return store


def refused_badly(holder: Any, methods: dict[str, tuple[Any, ...]], allowed: Errors) -> list[str]:
    """Call every method with every argument of every wrong type; return what was raised but `allowed` errors."""
    bad = []
    for name, right in methods.items():
        method = getattr(holder, name)
        for place, parameter in enumerate(inspect.signature(method).parameters.values()):
            for wrong in WRONG:
                given, named = list(right), {}
                if place < len(right):
                    given[place] = wrong
                else:
                    named = {parameter.name: wrong}
                if (error := error_of(method, given, named, allowed)) is not None:
                    bad.append(f"{name}({parameter.name}={wrong!r:.40}): {error!r:.200}")
    return bad


def error_of(method: Callable[..., Any], given: list[Any], named: dict[str, Any], allowed: Errors) -> Any:
    try:
        result = method(*given, **named)
        if isinstance(result, Iterator):
            list(result)
    except allowed as error:
        assert str(error).strip(), "an error says something"
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("face", ["store", "branch", "keyspace", "table"])
def test_wrong_types_are_refused_with_words(store: pmkv.Store, face: str) -> None:
    branch_methods = {**ITEMS, "table": ("t",), "create_table": ("t3", "f4"), "scan": (), "keyspace": (0,)}
    holder, methods = {
        "store": (store, STORE),
        "branch": (store.branch("w"), branch_methods),
        "keyspace": (store.keyspace(3), KEYSPACE),
        "table": (store.table("t"), TABLE),
    }[face]
    assert refused_badly(holder, methods, pmkv.PmkvError) == []


def test_transactions_refuse_wrong_types_with_words(store: pmkv.Store) -> None:
    with store.transaction() as transaction:
        methods = {name: right for name, right in TRANSACTION.items() if name != "get_many"}
        assert refused_badly(transaction, methods, pmkv.PmkvError) == []
        assert refused_badly(transaction.keyspace(1), ITEMS, pmkv.PmkvError) == []
        rows = {name: TABLE[name] for name in ("get", "put", "delete")}
        assert refused_badly(transaction.table("t"), rows, pmkv.PmkvError) == []


def test_backups_refuse_places_that_are_none(store: pmkv.Store, tmp_path: Path) -> None:
    for wrong in (1, None, True, [], b"a", "", "\0", "\ud800"):
        with pytest.raises(pmkv.errors.InvalidError):
            store.backup(wrong)
        with pytest.raises(pmkv.errors.InvalidError):
            pmkv.restore(wrong, tmp_path / "new")
        if wrong is not None:
            with pytest.raises(pmkv.errors.InvalidError):
                store.backup(tmp_path / "backup", since=wrong)
    assert not (tmp_path / "backup").exists() and not (tmp_path / "new").exists()


def test_text_where_bytes_are_needed_gets_advice(store: pmkv.Store) -> None:
    for call in (store.get, store.delete, lambda key: store.put(key, b"b"), lambda key: store.get_many([b"a", key])):
        with pytest.raises(pmkv.errors.InvalidError, match="a key must be bytes, not str: encode text"):
            call("a")
    with pytest.raises(pmkv.errors.InvalidError, match="a value must be bytes, not str: encode text"):
        store.put(b"a", "b")
    assert store.get(b"a") == b"b"


def test_a_key_is_as_long_as_its_bytes(store: pmkv.Store) -> None:
    """A view of wider items has fewer items than bytes: another key would be looked up."""
    store.put(b"\1", b"other")
    with pytest.raises(pmkv.errors.InvalidError, match="a key must be bytes, not memoryview"):
        store.get(memoryview(np.array([1], np.int64)))
    assert store.get(memoryview(b"\1")) == b"other"


def test_the_client_refuses_wrong_types_with_words() -> None:
    words = (ValueError, redis.RedisError)
    with served("--pool", ":memory:", "--capacity", "64MiB") as server:
        with pmkv_client.connect(f"pmkv://127.0.0.1:{server.port}") as client:
            assert refused_badly(filled(client), CLIENT, words) == []
            assert refused_badly(client.table("t"), TABLE, words) == []
            assert client.ping()
