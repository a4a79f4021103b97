"""Versions beside threads: nobody ever sees two of them mixed, and nothing that others write is lost on the way."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import pmkv
from tests.engines import at_the_same_time
from tests.property.publisher import CAPACITY, A, B, filled

SECONDS, PATIENCE = 2.0, 20.0
ROUNDS = 4
KEYS = [b"%d" % number for number in range(20)]
TABLES = ("a", "c")
PAIR = -1, b"pair"  # an id and a key that are written together, by transactions


def again_and_again(least: int, *works: Callable[[], object], met: Callable[[], bool] = lambda: True) -> None:
    """At the same time: for some seconds, and until all of them came far enough to have met each other, however slow
    the machine is. met: have they, by what they saw?"""
    counts, end, failed = [0] * len(works), time.monotonic() + SECONDS, threading.Event()

    def is_enough() -> bool:
        return min(counts) >= least and met()

    def goes_on() -> bool:
        now = time.monotonic()
        return not failed.is_set() and (now < end or (not is_enough() and now < end + PATIENCE))

    def repeat(which: int) -> None:
        try:
            while goes_on():
                works[which]()
                counts[which] += 1
        except BaseException:
            failed.set()
            raise

    with at_the_same_time(*[partial(repeat, which) for which in range(len(works))]):
        pass
    assert is_enough(), f"somebody hardly came to it, or saw too little: {counts}"


def write_version(view: pmkv.Store | pmkv.View, number: int) -> None:
    """In pieces: only a promotion makes it one."""
    for name in TABLES:
        for part in np.array_split(A, 3):
            view.table(name).put(part, filled(number, part.size))
    for key in KEYS:
        view.keyspace(1).put(key, b"%d" % number)


class Publisher:
    """Makes versions, promotes them, goes back and undoes that, as fast as it can."""

    def __init__(self, store: pmkv.Store) -> None:
        self.store, self.rng, self.number = store, random.Random(1), 1
        for name in (*TABLES, "b"):
            store.create_table(name, ("f4", 4))
        write_version(store, 0)
        store.snapshot("first")

    def step(self) -> None:
        store, kind = self.store, self.rng.choice(("promote", "promote", "rollback", "undo"))
        if kind == "promote":
            branch = store.branch("next")
            write_version(branch, self.number)
            store.promote("next", force=True)
            store.delete_view("next")
            self.number += 1
        elif kind == "rollback":
            store.rollback("first")
        elif "undo" in store.views():
            store.undo(force=True)


def one(numbers: set[int], what: str) -> int:
    assert len(numbers) == 1, f"{what} of several versions: {sorted(numbers)}"
    return numbers.pop()


def test_nobody_sees_two_versions_mixed() -> None:
    with pmkv.open(pool=":memory:", capacity="256MiB") as store:
        publisher, seen = Publisher(store), set()

        def gather() -> None:
            rows = store.gather(dict.fromkeys(TABLES, A))
            seen.add(one({int(n) for part in rows.values() for n in np.unique(part)}, "a gather"))

        def get_many() -> None:
            one(set(map(int, store.keyspace(1).get_many(KEYS))), "a get_many")

        def table_get() -> None:
            one(set(map(int, np.unique(store.table("a").get(A)))), "a get")

        def pool() -> None:
            sums = store.pool({name: (A, [0]) for name in TABLES})
            one({int(part[0, 0]) for part in sums.values()}, "a pool")

        def scan() -> None:
            batches = [rows for _, rows in store.table("c").scan(batch=len(A))]
            one(set(map(int, np.unique(batches[0]))), "a batch of a scan")

        works = publisher.step, gather, get_many, table_get, pool, scan
        again_and_again(12, *works, met=lambda: len(seen) > 3)
        store.check()


def test_a_transaction_is_in_one_version_as_a_whole() -> None:
    """Whatever is promoted, rolled back and undone, what it wrote is there together or not at all."""
    with pmkv.open(pool=":memory:", capacity="256MiB") as store:
        publisher, numbers = Publisher(store), iter(range(1, 1 << 40))
        id_, key = PAIR

        def transact() -> None:
            number = next(numbers)
            with store.transaction() as transaction:
                for name in TABLES:
                    transaction.table(name).put([id_], filled(number, 1))
                transaction.keyspace(1).put(key, b"%d" % number)

        def look() -> None:
            rows = store.gather({name: [id_] for name in TABLES})
            one({int(part[0, 0]) for part in rows.values()}, "a transaction")

        def look_in_a_batch() -> None:
            with store.batch():
                numbers = {int(store.table(name).get([id_])[0, 0]) for name in TABLES}
                one({*numbers, int(store.keyspace(1).get(key) or 0)}, "a transaction")
                versions = {int(n) for name in TABLES for n in np.unique(store.table(name).get(A))}
                one({*versions, *map(int, store.keyspace(1).get_many(KEYS))}, "a batch")

        again_and_again(50, publisher.step, transact, look, look_in_a_batch)
        store.check()


def test_what_others_write_meanwhile_stays(tmp_path: Path) -> None:
    """Table `a` is loaded on a branch, promoted, rolled back and undone by its name; all else goes on."""
    with pmkv.open(tmp_path, capacity=CAPACITY, durability="none") as store:
        for name in "ab":
            store.create_table(name, ("f4", 4))
        store.table("a").put(A, filled(0))
        done, stop = {"b": 0, "k": 0}, threading.Event()

        def publish() -> None:
            number = int(store.table("a").get([0])[0, 0]) + 1
            store.snapshot("before")
            store.branch("next").table("a").put(A, filled(number))
            store.promote("next")
            store.rollback("before", tables=["a"])
            assert (store.table("a").get(A) == number - 1).all()
            store.undo()
            store.delete_view("before")
            store.delete_view("next")
            assert (store.table("a").get(A) == number).all()

        def write() -> None:
            store.table("b").put(np.arange(B) + done["b"] * B, filled(done["b"], B))
            done["b"] += 1
            store.put(b"%d" % done["k"], b"%d" % done["k"])
            done["k"] += 1

        def maintenance() -> None:
            while not stop.wait(0.05):
                store.checkpoint()

        with at_the_same_time(maintenance):
            again_and_again(10, publish, write)
            stop.set()
        nothing_is_missing(store, done)
        store.check()
    with pmkv.open(tmp_path, capacity=CAPACITY) as store:
        nothing_is_missing(store, done)


def nothing_is_missing(store: pmkv.Store, done: dict[str, int]) -> None:
    """Everything acknowledged is there, and batches are whole."""
    rows = store.table("b").get(np.arange(done["b"] * B), default=-1)
    assert (rows == np.repeat(np.arange(done["b"]), B)[:, None]).all()
    assert len(store.table("b")) % B == 0
    keys = [b"%d" % number for number in range(done["k"])]
    assert store.get_many(keys) == keys


def test_what_others_write_meanwhile_survives_kill_9(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    acked = {"a": 0, "b": 0, "k": 0}
    for _ in range(ROUNDS):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.property.publisher", str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith("opened")
        timer = threading.Timer(random.uniform(0.3, 0.8), process.kill)
        timer.start()
        for line in process.stdout:
            kind, _, number = line.strip().partition(" ")
            acked[kind] = max(acked[kind], int(number) + (kind != "a"))
        assert process.wait() == -9
        with pmkv.open(tmp_path, capacity=CAPACITY) as store:
            version = one(set(map(int, np.unique(store.table("a").get(A)))), "table a")
            assert acked["a"] <= version <= acked["a"] + 1
            nothing_is_missing(store, acked)
            acked["a"] = version
    with capsys.disabled():
        print(
            f"\n  killed {ROUNDS} times: {acked['a']:,} promotions, {acked['b']:,} batches, {acked['k']:,} keys",
            end=" ",
        )
    assert acked["a"] > ROUNDS
