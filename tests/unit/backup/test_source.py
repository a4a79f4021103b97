"""Reading collections page by page: everything once, in the order of slot hashes, keys of many pages too."""

from __future__ import annotations

import numpy as np
import pytest

import pmkv
from pmkv.backup import source
from pmkv.backup.chain import SLOT_HASHES
from pmkv.backup.source import source_of


def test_a_table_is_read_once() -> None:
    with pmkv.open(pool=":memory:", capacity="16MiB") as store:
        table = store.create_table("items", "i8")
        ids = np.random.default_rng(1).integers(-(1 << 63), (1 << 63) - 1, 20_000)
        table.put(ids, np.arange(20_000))
        table.put(ids[:100], np.arange(100) + 5)
        table.delete(ids[100:200])
        reader = source_of(table, 0)
        pages = list(reader.pages())
        assert len(pages) > 1 and pages[-1][0] == SLOT_HASHES
        slots = np.concatenate([entries.slots for _, entries in pages])
        assert (np.diff(slots.astype(object)) > 0).all() and slots.size == len(table)
        filled = [reader.filled(entries) for _, entries in pages]
        ids = np.concatenate([part.ids(reader.seed) for part in filled])
        rows = dict(zip(ids.tolist(), np.concatenate([part.rows for part in filled]).view("i8")[:, 0].tolist()))
        assert rows == {int(one): int(row) for ids, rows in table.scan() for one, row in zip(ids, rows)}


def test_a_keyspace_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "NAMED_KEYS", 10)
    with pmkv.open(pool=":memory:", capacity="16MiB") as store:
        store.put_many({b"%d" % i: b"v" * (i % 7) for i in range(300)}, expire_at=4_000_000_000_000)
        store.delete(b"7")
        store.put(b"gone", b"", expire_at=978_307_200_001)
        reader = source_of(store.keyspace(0), 1_700_000_000_000)
        pages = list(reader.pages())
        filled = [reader.filled(entries) for _, entries in pages]
        assert all(len(part) <= 10 for part in filled) and pages[-1][0] == SLOT_HASHES
        found = {key: value for part in filled for key, value in zip(part.keys, part.values)}
        assert found == dict(store.scan()) and sum(map(len, filled)) == 299
        assert {expiry for part in filled for expiry in part.expiries.tolist()} == {4_000_000_000_000}
        stops = [stop for stop, _ in pages]
        assert stops == sorted(stops)
