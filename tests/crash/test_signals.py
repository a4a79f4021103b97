"""Ctrl-C at any moment, as a signal brings it: in the middle of kernels' calls, of waits and of locks, beside the
background thread. `test_interrupt` raises at chosen steps of one thread; here nobody chooses.

After each interrupt the store holds the state before or after the operation. Now and then it is closed, which is
interrupted, too, and opened again."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pmkv

OPERATIONS = 240
MEAN_S = 0.0008  # from the begin of an operation to the signal
KEYS, ROWS = 200, 500
Change = dict[Any, Any]  # what an operation writes: key or id to value


class Interrupted:
    """A store whose user presses Ctrl-C all the time, and what is expected of it."""

    def __init__(self, path: Path, seed: int) -> None:
        self.rng, self.path = random.Random(seed), path
        self.store = pmkv.open(path, capacity="64MiB")
        self.table = self.store.create_table("t", ("f4", 8))
        self.keys: Change = {}
        self.rows: Change = {}
        self.interrupts: list[BaseException] = []  # kept, as a notebook keeps its last error
        self._is_armed, self.number = False, 0

    def run(self, count: int) -> None:
        """Run operations, each interrupted at some moment, if it takes so long."""
        operations: list[Callable[[int], tuple[Change, Change, Callable[[], object]]]] = [
            self.put, self.put_many, self.transaction, self.promote, self.put_rows, self.delete, self.look_on,
        ]  # fmt: skip
        for _ in range(count):
            self.number += 1
            keys, rows, call = self.rng.choice(operations)(self.number)
            try:
                with self.alarm():
                    call()
            except KeyboardInterrupt as error:
                self.interrupts.append(error)
                self.settle(keys, rows)
            self.keys |= keys
            self.rows |= rows
            if self.number % 50 == 49:
                self.verify()

    @contextlib.contextmanager
    def alarm(self, mean: float = MEAN_S) -> Iterator[None]:
        """Raise KeyboardInterrupt in the body after some time."""
        self._is_armed = True
        signal.setitimer(signal.ITIMER_REAL, self.rng.expovariate(1 / mean) + 1e-5)
        try:
            yield
        finally:
            self._is_armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def on_alarm(self, *_: object) -> None:
        if self._is_armed:
            raise KeyboardInterrupt

    # operations: what they write, and a function that does it

    def put(self, number: int) -> tuple[Change, Change, Callable[[], object]]:
        key, value = self.key(), b"%d" % number
        return {key: value}, {}, lambda: self.store.put(key, value)

    def put_many(self, number: int) -> tuple[Change, Change, Callable[[], object]]:
        items = {self.key(): b"many %d" % number for _ in range(30)}
        return items, {}, lambda: self.store.put_many(items)

    def delete(self, number: int) -> tuple[Change, Change, Callable[[], object]]:
        key = self.key()
        return {key: None}, {}, lambda: self.store.delete(key)

    def transaction(self, number: int) -> tuple[Change, Change, Callable[[], object]]:
        items = {self.key(): b"together %d" % number for _ in range(20)}
        ids = [self.rng.randrange(ROWS) for _ in range(20)]

        def commit() -> None:
            with self.store.transaction() as transaction:
                transaction.put_many(items)
                transaction.table("t").put(ids, np.full((20, 8), number))

        return items, dict.fromkeys(ids, number), commit

    def promote(self, number: int) -> tuple[Change, Change, Callable[[], object]]:
        items, name = {self.key(): b"branch %d" % number for _ in range(20)}, f"b{number}"

        def promote() -> None:
            self.store.branch(name).put_many(items)
            self.store.promote(name)

        return items, {}, promote

    def put_rows(self, number: int) -> tuple[Change, Change, Callable[[], object]]:
        ids = self.rng.sample(range(ROWS), 100)
        return {}, dict.fromkeys(ids, number), lambda: self.table.put(ids, np.full((100, 8), number))

    def look_on(self, number: int) -> tuple[Change, Change, Callable[[], object]]:
        store = self.store
        calls: list[Callable[[], object]] = [
            store.checkpoint, store.compact, lambda: list(store.scan()), lambda: store.snapshot(f"s{number}"),
            lambda: list(self.table.scan()), store.stats, self.drop_a_view,
        ]  # fmt: skip
        return {}, {}, self.rng.choice(calls)

    def drop_a_view(self) -> None:
        names = sorted(set(self.store.views()) - {"main", "undo"})
        if len(names) > 10:
            self.store.delete_view(names[0])

    def key(self) -> bytes:
        return b"key %d" % self.rng.randrange(KEYS)

    # what is expected

    def settle(self, keys: Change, rows: Change) -> None:
        """Find out whether an interrupted operation took place; it did so wholly, or not at all."""
        self.store.keyspace(7).put(b"later", b"write")  # what was decided and not flushed takes effect with it
        found = [(self.store.get(key), self.keys.get(key), value) for key, value in keys.items()]
        found += [(self.row(id), self.rows.get(id, 0), value) for id, value in rows.items()]
        assert all(is_now in (before, after) for is_now, before, after in found), found
        changed = [(is_now, after) for is_now, before, after in found if before != after]
        assert len({is_now == after for is_now, after in changed}) < 2, "half of it took place"
        if any(is_now != after for is_now, after in changed):
            keys.clear(), rows.clear()

    def row(self, id: int) -> int:
        return int(self.table.get([id])[0, 0])

    def verify(self) -> None:
        """Compare the store with what is expected, and see that other threads can write."""
        assert self.store.get_many(list(self.keys)) == list(self.keys.values())
        assert dict(self.store.scan()) == {key: value for key, value in self.keys.items() if value is not None}
        ids = sorted(self.rows)
        assert self.table.get(ids)[:, 3].astype(int).tolist() == [self.rows[id] for id in ids]
        other = threading.Thread(target=lambda: self.store.keyspace(7).put(b"other", b"thread"))
        other.start()
        other.join(20)
        assert not other.is_alive(), "a lock is held"

    def reopen(self) -> None:
        """Close the store, in spite of another Ctrl-C, and open it again."""
        try:
            with self.alarm(5 * MEAN_S):
                self.store.close()
        except KeyboardInterrupt as error:
            self.interrupts.append(error)
        self.store.close()  # ends what was interrupted: until then the directory is locked
        self.store = pmkv.open(self.path)
        self.table = self.store.table("t")
        self.store.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised where a weak reference ends
@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_lost_by_ctrl_c(tmp_path: Path, seed: int) -> None:
    user = Interrupted(tmp_path / "store", seed)
    before = signal.signal(signal.SIGALRM, user.on_alarm)
    try:
        for _ in range(6):
            user.run(OPERATIONS // 6)
            user.reopen()
            user.verify()
    finally:
        signal.signal(signal.SIGALRM, before)
        user.store.close()
    assert len(user.interrupts) > OPERATIONS // 20
