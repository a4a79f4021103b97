"""The faces by which something can be read: what a store shows by each, and what a model says it has to show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pmkv.engine.keyspace import Keyspace
from tests.crash.model import OpenView, Rows

KEY_FACES = ("get", "get_many", "entry", "expiry", "size", "contains", "contains_many", "len", "scan", "keys")
TABLE_FACES = ("get", "contains", "len", "scan", "gather")


def shown(store: Any, operation: Any, face: str, beside: Sequence[str] = ()) -> Any:
    """What a store shows of the key, or the rows, that an operation writes. beside: tables gathered with it."""
    if hasattr(operation, "operation"):  # on a branch
        store, operation = store.view(operation.view), operation.operation
    if hasattr(operation, "space"):
        return _of_key(store.keyspace(operation.space), operation.key, face)
    return _of_rows(store, operation.name, np.array(operation.ids, np.int64), face, beside)


def _of_key(keyspace: Keyspace, key: bytes, face: str) -> Any:
    match face:
        case "get":
            return keyspace.get(key)
        case "get_many":
            return keyspace.get_many([b"other", key])[1]
        case "entry":
            return keyspace.entry(key)
        case "expiry":
            return keyspace.expiry(key)
        case "size":
            return keyspace.size(key)
        case "contains":
            return key in keyspace
        case "contains_many":
            return keyspace.contains_many([key])[0]
        case "len":
            return len(keyspace)
        case "scan":
            return dict(keyspace.scan())
        case "keys":
            return set(keyspace.keys(count=1000)[1])
    raise AssertionError(face)


def _of_rows(store: Any, name: str, ids: np.ndarray, face: str, beside: Sequence[str]) -> Any:
    table = store.table(name)
    match face:
        case "get":
            rows, found = table.get(ids, default=0, return_found=True)  # a look must not create any
            return [row.tobytes() if there else None for row, there in zip(rows, found)]
        case "contains":
            return table.contains(ids).tolist()
        case "len":
            return len(table)
        case "scan":
            return {int(one): row.tobytes() for some, rows in table.scan() for one, row in zip(some, rows)}
        case "gather":
            names = (name, *beside)
            if any("create" in (store.table(one).default or {}) for one in names):  # a look must not create any
                return {one: store.table(one).contains(ids).tolist() for one in names}
            gathered = store.gather(dict.fromkeys(names, ids))
            return {one: [row.tobytes() for row in rows] for one, rows in gathered.items()}
    raise AssertionError(face)


def expected(model: Any, operation: Any, face: str, beside: Sequence[str] = ()) -> Any:
    """What it has to show in this state. KeyError: a view or table is not there."""
    if hasattr(operation, "operation"):
        model, operation = model.views[operation.view], operation.operation
    if hasattr(operation, "space"):
        return _key_of(model, operation, face)
    return _rows_of(model, operation, face, beside)


def _key_of(model: OpenView, operation: Any, face: str) -> Any:
    keys = model.spaces.get(operation.space, {})
    entry = keys.get(operation.key)
    match face:
        case "get" | "get_many":
            return entry and entry[0]
        case "entry":
            return entry
        case "expiry":
            return entry and entry[1]
        case "size":
            return entry and len(entry[0])
        case "contains" | "contains_many":
            return entry is not None
        case "len":
            return len(keys)
        case "scan":
            return {key: value for key, (value, _) in keys.items()}
    return set(keys)


def _rows_of(model: OpenView, operation: Any, face: str, beside: Sequence[str]) -> Any:
    table = model.tables[operation.name]
    rows = [table.rows.get(one) for one in operation.ids]
    match face:
        case "get":
            return rows
        case "contains":
            return [row is not None for row in rows]
        case "len":
            return len(table.rows)
        case "scan":
            return table.rows
    tables = {name: model.tables[name] for name in (operation.name, *beside)}
    if any(table.is_created_by_reads for table in tables.values()):
        return {name: [one in table.rows for one in operation.ids] for name, table in tables.items()}
    return {name: _filled(table, operation.ids) for name, table in tables.items()}


def _filled(table: Rows, ids: Sequence[int]) -> list[bytes]:
    return [table.rows.get(one, table.absent) for one in ids]
