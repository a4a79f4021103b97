"""A state machine: an engine under any sequence of operations, with restarts, is a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pmkv.engine.engine import Engine
from pmkv.engine.transaction import Transaction
from pmkv.errors import ConflictError, FullError
from pmkv.media.memory import MemoryMedium

KEYS = st.sampled_from([b"", b"a", b"ab", b"b\0", b"long" * 30, b"\xff"])
VALUES = st.one_of(st.binary(max_size=20), st.integers(0, 12_000).map(bytes))  # beyond 4 KiB: in parts
IDS = st.lists(st.integers(0, 30), min_size=1, max_size=12)
WIDTH = 3


class StoreIsADict(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.now = 1_000
        self.medium = MemoryMedium(4096 + 60 * (1 << 14))
        self.engine = self.recover()
        self.keys: list[dict[bytes, tuple[bytes, int]]] = [{} for _ in range(16)]
        self.tables: dict[str, dict[int, list[int]]] = {}

    def recover(self) -> Engine:
        return Engine.on_medium(self.medium, segment_size=1 << 14, now=lambda: self.now)

    def live(self, number: int) -> dict[bytes, bytes]:
        return {key: value for key, (value, expiry) in self.keys[number].items() if expiry == 0 or expiry > self.now}

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check()
            self.restart()
            self.engine.check()

    # keyspaces

    @rule(number=st.integers(0, 2), key=KEYS, value=VALUES, lasts=st.sampled_from([0, 0, -5, 5, 500]))
    def put(self, number: int, key: bytes, value: bytes, lasts: int) -> None:
        expiry = self.now + lasts if lasts else 0
        try:
            self.engine.keyspaces[number].put(key, value, expire_at=expiry or None)
        except FullError:
            return
        self.keys[number][key] = value, expiry

    @rule(number=st.integers(0, 2), pairs=st.lists(st.tuples(KEYS, st.binary(max_size=900)), max_size=30))
    def put_many(self, number: int, pairs: list[tuple[bytes, bytes]]) -> None:
        try:
            self.engine.keyspaces[number].put_many(pairs)
        except FullError:
            return
        self.keys[number] |= {key: (value, 0) for key, value in pairs}

    @rule(number=st.integers(0, 2), keys=st.lists(KEYS, min_size=1, max_size=4))
    def delete(self, number: int, keys: list[bytes]) -> None:
        there = set(keys) & self.live(number).keys()
        assert self.engine.keyspaces[number].delete_many(keys) == len(there)
        for key in there:
            del self.keys[number][key]

    @rule(number=st.integers(0, 2), key=KEYS, lasts=st.sampled_from([0, -5, 5, 500]))
    def expire(self, number: int, key: bytes, lasts: int) -> None:
        there = key in self.live(number)
        try:
            assert self.engine.keyspaces[number].expire(key, self.now + lasts if lasts else 0) == there
        except FullError:
            return
        if there:
            self.keys[number][key] = self.keys[number][key][0], self.now + lasts if lasts else 0

    @rule(number=st.integers(0, 2))
    def clear(self, number: int) -> None:
        self.engine.keyspaces[number].clear()
        self.keys[number] = {}

    @rule()
    def clear_all(self) -> None:
        self.engine.clear_all()
        self.keys = [{} for _ in range(16)]

    @rule(passes=st.sampled_from([1, 5, 600, -3]))
    def time(self, passes: int) -> None:
        self.now += passes

    # tables

    @rule(name=st.sampled_from("tu"), dense=st.booleans())
    def create(self, name: str, dense: bool) -> None:
        if name not in self.tables:
            self.engine.create_table(name, ("i4", WIDTH), 31 if dense else None)
            self.tables[name] = {}

    @rule(name=st.sampled_from("tu"))
    def drop(self, name: str) -> None:
        if self.tables.pop(name, None) is not None:
            self.engine.drop_table(name)

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), ids=IDS, add=st.booleans())
    def put_rows(self, data: st.DataObject, ids: list[int], add: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.tables)))
        rows = np.array(data.draw(st.lists(st.integers(-9, 9), min_size=len(ids), max_size=len(ids))))[
            :, None
        ] + np.arange(WIDTH)
        table, model = self.engine.table(name), self.tables[name]
        try:
            (table.add if add else table.put)(ids, rows.astype("i4"))
        except FullError:
            return
        for one, row in zip(ids, rows.tolist(), strict=True):
            model[one] = [a + b for a, b in zip(row, model.get(one, [0] * WIDTH), strict=True)] if add else row

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), ids=IDS)
    def delete_rows(self, data: st.DataObject, ids: list[int]) -> None:
        name = data.draw(st.sampled_from(sorted(self.tables)))
        there = set(ids) & self.tables[name].keys()
        assert self.engine.table(name).delete(ids) == len(there)
        for one in there:
            del self.tables[name][one]

    # together

    @rule(
        pairs=st.lists(st.tuples(KEYS, st.one_of(st.none(), st.binary(max_size=50))), max_size=5),
        ids=IDS,
        ends=st.booleans(),
        other=KEYS,
    )
    def transaction(self, pairs: list[tuple[bytes, bytes | None]], ids: list[int], ends: bool, other: bytes) -> None:
        transaction, model = Transaction(self.engine), dict(self.keys[1])
        space = transaction.keyspace(1)
        transaction.watch(other, 1)
        for key, value in pairs:
            if value is None:
                space.delete(key)
                model.pop(key, None)
            else:
                space.put(key, value)
                model[key] = value, 0
            assert space.get(key) == value
        if "t" in self.tables:
            transaction.table("t").put(ids, np.full((len(ids), WIDTH), 5, "i4"))
            assert (transaction.table("t").get(ids) == 5).all()
        if ends:
            try:
                transaction.commit()
            except FullError:
                return
            self.keys[1] = model
            if "t" in self.tables:
                self.tables["t"] |= {one: [5] * WIDTH for one in ids}
        else:
            self.engine.keyspaces[1].put(other, b"by another")
            self.keys[1][other] = b"by another", 0
            try:
                transaction.commit()
            except ConflictError:
                return
            raise AssertionError("a watched key was written, and the transaction went through")

    @rule()
    def restart(self) -> None:
        """As after kill -9: the log is all there is."""
        self.engine = self.recover()
        self.compare()

    # what must hold

    @invariant()
    def some_of_it_is_right(self) -> None:
        if hasattr(self, "engine"):
            assert [len(space) for space in self.engine.keyspaces] == [len(self.live(number)) for number in range(16)]
            assert {name: len(table) for name, table in self.engine.tables.items()} == {
                name: len(rows) for name, rows in self.tables.items()
            }

    @rule()
    def compare(self) -> None:
        for number in range(3):
            live = self.live(number)
            assert dict(self.engine.keyspaces[number].scan()) == live
            assert sorted(self.engine.keyspaces[number].keys(0, 1000)[1]) == sorted(live)
        for name, model in self.tables.items():
            rows = {
                int(one): row.tolist()
                for ids, rows in self.engine.table(name).scan(7)
                for one, row in zip(ids, rows, strict=True)
            }
            assert rows == model


TestStoreIsADict = StoreIsADict.TestCase
TestStoreIsADict.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
