"""Generated histories with a clock that moves both ways: who was told that a key has expired is never shown it again.

The model: a record is shown if nobody was told that it has expired and its expiry lies ahead. Records are shared by the
views that have them. At any moment the process dies, and the power with it; the next one starts with another clock.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest

from pmkv.engine.engine import Engine
from pmkv.engine.keyspace import Keyspace
from pmkv.engine.seen_expired import SeenExpired
from pmkv.engine.transaction import Transaction
from pmkv.log.segments import Pool
from pmkv.media.simulated import SimulatedMedium
from pmkv.versions.expired_records import ExpiredRecords
from tests.crash.files import Files
from tests.crash.witness import durable_image
from tests.engines import SEGMENT, Clock, small_medium

SEEDS, STEPS = range(60), 50
KEYS = [b"key:%d" % i for i in range(6)]


@dataclass
class Record:
    """One put. is_gone: somebody was told that it has expired."""

    value: bytes
    expiry: int
    is_gone: bool = False


class History:
    """One history, of a store and its model."""

    def __init__(self, seed: int) -> None:
        self.dice, self.clock = random.Random(seed), Clock()
        self.medium = SimulatedMedium(small_medium(64).data.size)
        pool = Pool.create(self.medium, SEGMENT)
        self.files = Files(pool.pool_id)
        self.engine = self.opened(pool)
        self.views: dict[str, dict[bytes, Record]] = {"main": {}}

    def opened(self, pool: Pool) -> Engine:
        return Engine(pool, now=self.clock, files=(self.files.catalog, self.files.shelf))

    def space(self, view: str) -> Keyspace:
        return self.engine.view(view).keyspace(0)

    def told(self, view: str, key: bytes) -> Record | None:
        """The record of a key, if whoever asks for it is shown one."""
        record = self.views[view].get(key)
        if record is not None and 0 < record.expiry <= self.clock.now:
            record.is_gone = True
        return record if record is not None and not record.is_gone else None

    def play(self) -> None:
        steps = [self.put] * 6 + [self.ask] * 8 + [self.move_clock] * 5
        steps += [self.delete, self.expire, self.cut, self.roll_back, self.checkpoint, self.die]
        for _ in range(STEPS):
            self.dice.choice(steps)()
            self.compare()

    def compare(self) -> None:
        """Counts and scans show what lives, and tell nobody of a single key."""
        for name, contents in self.views.items():
            living = {key: record.value for key, record in sorted(contents.items()) if self.lives(record)}
            assert dict(self.space(name).scan()) == living, name
            assert len(self.space(name)) == len(living), name
            assert set(self.space(name).keys(0, 100)[1]) == set(living), name

    def lives(self, record: Record) -> bool:
        return not record.is_gone and (record.expiry == 0 or record.expiry > self.clock.now)

    def head(self) -> str:
        return self.dice.choice([name for name in self.views if not name.startswith("snapshot")])

    # steps

    def put(self) -> None:
        head, key, value = self.head(), self.dice.choice(KEYS), self.dice.randbytes(8)
        expiry = self.clock.now + self.dice.randrange(1, 40) * 1000 if self.dice.random() < 0.8 else 0
        self.space(head).put(key, value, expire_at=expiry or None)
        self.views[head][key] = Record(value, expiry)

    def ask(self) -> None:
        view, key = self.dice.choice([*self.views]), self.dice.choice(KEYS)
        space, kind = self.space(view), self.dice.randrange(5)
        if kind == 0:
            asked = self.dice.sample(KEYS, 3)
            records = [self.told(view, one) for one in asked]
            assert space.get_many(asked) == [record and record.value for record in records]
            return
        expected = self.told(view, key)
        value = expected.value if expected is not None else None
        if kind == 1:
            assert (key in space) == (expected is not None)
        elif kind == 2:
            assert space.entry(key) == (expected and (value, expected.expiry))
        elif kind == 3:
            assert Transaction(self.engine, self.engine.view(view)).get(key) == value
        else:
            assert space.get(key) == value

    def delete(self) -> None:
        head, key = self.head(), self.dice.choice(KEYS)
        expected = self.told(head, key)
        assert self.space(head).delete(key) == (expected is not None)
        if expected is not None:
            del self.views[head][key]

    def expire(self) -> None:
        head, key = self.head(), self.dice.choice(KEYS)
        expected, at = self.told(head, key), self.clock.now + self.dice.randrange(-5, 40) * 1000
        assert self.space(head).expire(key, at) == (expected is not None)
        if expected is not None:
            self.views[head][key] = Record(expected.value, at)

    def move_clock(self) -> None:
        self.clock.now += self.dice.randrange(-30, 36) * 1000

    def cut(self) -> None:
        if len(self.views) < 5:
            kind = self.dice.choice(["snapshot", "branch"])
            name = f"{kind}-{len(self.views)}"
            getattr(self.engine.versions, kind)(name)
            self.views[name] = dict(self.views["main"])

    def roll_back(self) -> None:
        for name in self.views:
            if name.startswith("snapshot"):
                self.engine.versions.rollback(name)
                self.views["main"] = dict(self.views[name])
                return

    def checkpoint(self) -> None:
        assert self.engine.maintenance is not None
        for _ in self.engine.maintenance.checkpoint():
            pass

    def die(self) -> None:
        """Lose the power; what was acknowledged is there, whatever the clock is now."""
        self.move_clock()
        self.medium = durable_image(self.medium)
        self.engine = self.opened(Pool.load(self.medium))


def test_what_was_seen_expired_stays_expired() -> None:
    for seed in SEEDS:
        History(seed).play()


def forgetful_restore(self: ExpiredRecords, records: Any, lsn: int = 0, add: Any = ExpiredRecords.add) -> None:
    if lsn:
        add(self, records, lsn)


MUTANTS = {
    "nothing is noted": (SeenExpired, "note", lambda self, *how: 0),
    "what was noted hides nothing": (SeenExpired, "hide", lambda self, *how: 0),
    "what was noted is counted": (SeenExpired, "count", lambda self: 0),
    "the catalog forgets what was noted": (ExpiredRecords, "add", forgetful_restore),
    "who was told does not wait": (Engine, "_expire", lambda self, *how, note=Engine._expire: note(self, *how) and 0),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_noticed(name: str) -> None:
    with patch.object(*MUTANTS[name]), pytest.raises(AssertionError):
        for seed in SEEDS:
            History(seed).play()
