"""Power loss on a plain file: a second file gets what `flush` was asked to make durable, and nothing else.

kill -9 leaves the page cache whole, so an engine that never syncs passes every such test. Here the process goes on, the
second file is taken at any moment, and a store recovered from it must hold every write acknowledged before.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import pmkv
from pmkv import data_directory
from pmkv.log import appender as log_appender
from pmkv.media.base import Range
from pmkv.media.file import FileMedium
from pmkv.store import Store
from tests.ledger import Ledger

pytestmark = pytest.mark.power

CAPACITY = 24 << 20
UNITS = 7
WIDE = 128  # numbers a row: twenty rows are more than two pages
WRITERS = 4


class Shadowed(FileMedium):
    """A plain file, and beside it what of it would survive."""

    def __init__(self, path: Path, capacity: int = 0, readonly: bool = False) -> None:
        super().__init__(path, capacity, readonly)
        self._moment = threading.Lock()
        self._unsynced: list[Range] = []
        self.shadow = self.data.copy()  # what was found has survived

    def prepare(self, start: int, stop: int, fill: bool = True) -> None:
        super().prepare(start, stop, fill)
        with self._moment:
            self.shadow[start:stop] = 0

    def flush(self, ranges: Sequence[Range], sync: bool = True) -> None:
        super().flush(ranges, sync)
        with self._moment:
            self._unsynced += ranges
            if sync:
                for start, stop in self._unsynced:
                    self.shadow[start:stop] = np.frombuffer(os.pread(self._fd, stop - start, start), np.uint8)
                self._unsynced = []

    def survivors(self) -> bytes:
        with self._moment:
            return self.shadow.tobytes()


@pytest.fixture
def shadowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], Store]:
    monkeypatch.setattr(data_directory, "FileMedium", Shadowed)
    monkeypatch.setattr(log_appender, "LARGE_BODY_BYTES", 4096)  # rows go straight to the page cache, as long ones do
    return lambda: pmkv.open(tmp_path / "live", capacity=CAPACITY)


def recover(store: Store, folder: Path) -> Store:
    """What the next process finds after a power cut at this moment."""
    folder.mkdir()
    medium = store._engine.pool.medium
    assert isinstance(medium, Shadowed)
    (folder / "pool").write_bytes(medium.survivors())
    (folder / data_directory.IDENTITY).write_bytes((store.path / data_directory.IDENTITY).read_bytes())
    return pmkv.open(folder, capacity=CAPACITY)


class Writer(threading.Thread):
    """Writes numbers to units of its own, in every way that an embedded store has, until told to stop."""

    def __init__(self, store: Store, number: int) -> None:
        super().__init__()
        self.store, self.ledger, self.rng = store, Ledger(f"writer {number}"), random.Random(number)
        self.number, self.stopped, self.error = number, False, None
        self.table = store.create_table(f"table{number}", ("f4", WIDE))

    def run(self) -> None:
        try:
            while not self.stopped:
                self.step()
        except BaseException as error:
            self.error = error

    def key(self, unit: int, part: int = 0) -> bytes:
        return b"%d:%d:%d" % (self.number, unit, part)

    def step(self) -> None:
        unit = self.rng.randrange(UNITS)
        alive = unit != 3 or self.rng.random() < 0.5
        number = self.ledger.begin(str(unit), alive)
        try:
            self.write(unit, number, alive)
        except pmkv.FullError:
            self.ledger.operations.pop()
            self.stopped = True
        else:
            self.ledger.acked = number

    def write(self, unit: int, number: int, alive: bool) -> None:
        value = b"%d" % number
        match unit:
            case 0:
                self.store.put_many({self.key(unit, part): value for part in range(4)})
            case 1:
                with self.store.transaction() as transaction:
                    for part in range(4):
                        transaction.put(self.key(unit, part), value)
            case 2:
                with self.store.batch():
                    for part in range(4):
                        self.store.put(self.key(unit, part), value)
            case 3 if not alive:
                self.store.delete(self.key(unit))
            case 4:
                self.table.put(np.arange(20), np.full((20, WIDE), number, "f4"))
            case 5:
                self.store.put(self.key(unit), value.ljust(self.rng.randrange(4_000)))
            case _:
                self.store.put(self.key(unit), value)


def found_by(store: Store, number: int) -> dict[str, int]:
    """What is there of a writer: unit to number. Parts of a unit agree."""
    found: dict[str, int] = {}
    for unit in range(UNITS):
        parts = [store.get(b"%d:%d:%d" % (number, unit, part)) for part in range(4 if unit < 3 else 1)]
        assert len(set(parts)) == 1, f"half of a batch: {parts}"
        if parts[0] is not None:
            found[str(unit)] = int(parts[0])
    rows, there = store.table(f"table{number}").get(np.arange(20), return_found=True)
    assert there.all() or not there.any(), "half of a batch of rows"
    assert len(np.unique(rows)) == 1, f"rows of different batches: {np.unique(rows)}"
    return found | ({"4": int(rows[0, 0])} if there.all() else {})


def test_every_acknowledged_write_survives_at_any_moment(shadowed: Callable[[], Store], tmp_path: Path) -> None:
    store = shadowed()
    writers = [Writer(store, number) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for cut in range(8):
        time.sleep(0.1)
        acked = [writer.ledger.acked for writer in writers]
        with recover(store, tmp_path / str(cut)) as after:
            for writer, count in zip(writers, acked):
                ledger = writer.ledger.copy()
                ledger.acked = count
                ledger.check(found_by(after, writer.number))
    for writer in writers:
        writer.stopped = True
    for writer in writers:
        writer.join()
        assert writer.error is None, writer.error
        assert writer.ledger.acked > 10
    store.close()


def test_each_write_survives_as_soon_as_it_returns(shadowed: Callable[[], Store], tmp_path: Path) -> None:
    with shadowed() as store:
        writer = Writer(store, 0)
        for step in range(60):
            writer.step()
            with recover(store, tmp_path / str(step)) as after:
                assert writer.ledger.check(found_by(after, 0)) == writer.ledger.acked


def test_what_was_found_after_one_power_cut_survives_the_next(shadowed: Callable[[], Store], tmp_path: Path) -> None:
    with shadowed() as store:
        writer = Writer(store, 0)
        for _ in range(20):
            writer.step()
        with store.deferred():
            store.put(b"pending", b"may be lost")
        with recover(store, tmp_path / "first") as first:
            found = first.get(b"pending")
            with recover(first, tmp_path / "second") as second:
                assert second.get(b"pending") == found
                writer.ledger.check(found_by(second, 0))


def test_a_closed_store_is_whole_in_every_durability(shadowed: Callable[[], Store], tmp_path: Path) -> None:
    for durability in ("commit", "interval", "none"):
        store = pmkv.open(tmp_path / durability, capacity=CAPACITY, durability=durability)
        for i in range(100):
            store.put(b"%d" % i, os.urandom(100))
        expected, medium = dict(store.scan()), store._engine.pool.medium
        store.close()
        folder = tmp_path / f"{durability} after"
        folder.mkdir()
        (folder / "pool").write_bytes(medium.survivors())
        (folder / data_directory.IDENTITY).write_bytes((tmp_path / durability / data_directory.IDENTITY).read_bytes())
        with pmkv.open(folder, capacity=CAPACITY) as after:
            assert dict(after.scan()) == expected
