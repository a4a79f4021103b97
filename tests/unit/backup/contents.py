"""Stores with odd contents, and a comparison of two views by everything that they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import pmkv
from pmkv.view import View

CAPACITY = "64MiB"
ODD_DTYPES = {
    "vectors": ("f4", 8),
    "big-endian": np.dtype(">i2"),
    "structure": np.dtype([("a", "<i2"), ("b", "S3", (2,)), ("c", [("x", "f2"), ("y", "M8[s]")])]),
    "flags": np.dtype("?"),
    "text": np.dtype("U3"),
    "matrix": ("c8", (2, 3)),
}


def fill(store: View, seed: int = 0) -> None:
    """Write some of everything."""
    random = np.random.default_rng(seed)
    for name, dtype in ODD_DTYPES.items():
        table = store.create_table(name, dtype, rows=500 if name == "flags" else None)
        ids = random.permutation(500)[:200] if name == "flags" else random.integers(-(1 << 63), (1 << 63) - 1, 200)
        table.put(ids, random.integers(0, 2, ids.size * table.width, np.uint8).tobytes())
        table.delete(ids[:20])
    quantised = store.create_table("quantised", ("f4", 5), codec="int4")
    quantised.put(random.permutation(100), random.normal(size=(100, 5)))
    store.put_many({b"key:%d\0\xff" % i: random.bytes(int(random.integers(0, 50))) for i in range(500)})
    store.put(b"expires", b"late", expire_at=4_000_000_000_000)
    store.put(b"parts", random.bytes(5 << 20))
    store.put(b"", b"")
    store.keyspace(15).put(b"long" * 15_000, b"another keyspace")
    store.delete(b"key:7\0\xff")


def contents(view: View) -> dict[str, object]:
    """Return all that a view holds: dtypes and stored rows by id, values and expiries by key."""
    found: dict[str, object] = {}
    for name, table in view.tables().items():
        rows = {int(one): row.tobytes() for ids, rows in table.scan(encoded=True) for one, row in zip(ids, rows)}
        found[name] = table.row_dtype, table.codec, table.rows, rows
    for number in range(16):
        keyspace = view.keyspace(number)
        found[f"keyspace {number}"] = {key: keyspace.entry(key) for key, _ in keyspace.scan()}
    return found


def contents_of(path: Path) -> dict[str, dict[str, object]]:
    """Return the contents of every view of a directory, checked."""
    with pmkv.open(path) as store:
        store.check()
        return {name: contents(store.view(name)) for name in store.views()}
