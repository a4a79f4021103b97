"""Schedules of the whole server, as many as `make test` has time for; and the gate: they catch every mutant here.

PMKV_TEST_SEED sets the first seed, PMKV_TEST_SCHEDULES their number.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any
from unittest.mock import patch

import pytest

from pmkv.engine import wave as wave_module
from pmkv.engine.table import Table
from pmkv.engine.watches import KeyWatches, Watch
from pmkv.engine.wave import run_wave
from pmkv.errors import PmkvError
from pmkv.log.durability import DurabilityGate
from pmkv.log.flusher import Flusher
from pmkv.log.group_commit import GroupCommit
from pmkv.log.publishing import BatchPublisher, PartialBatchSeen
from pmkv_server.commands import transactions
from pmkv_server.dispatch import waves as waves_module
from pmkv_server.dispatch.fast_path import FastPath
from pmkv_server.dispatch.held_replies import HeldReplies
from pmkv_server.dispatch.waves import Waves
from pmkv_server.net.connection import Connection
from pmkv_server.net.outbox import Outbox
from tests.crash.schedule import Counts, Schedule, explore

pytestmark = pytest.mark.crash

SCHEDULES, LONG = 400, 100_000
FIRST_SEED = int(os.environ.get("PMKV_TEST_SEED", 1))
NUMBER = int(os.environ.get("PMKV_TEST_SCHEDULES", 0))
FOR_MUTANTS = range(9_000, 9_400)
FOREVER = 1 << 62  # an LSN beyond all


def processes() -> ProcessPoolExecutor:
    """Two, each on a core of its own: where one thread runs at a time, another core is only farther away."""
    context = get_context("fork")
    cores = context.SimpleQueue()
    for core in [*sorted(os.sched_getaffinity(0)), *sorted(os.sched_getaffinity(0))][:2]:
        cores.put(core)

    def begin() -> None:
        os.sched_setaffinity(0, {cores.get()})
        # pytest keeps every record, which keeps its error, which keeps the frames that it went through, and their store
        logging.disable()

    return ProcessPoolExecutor(2, context, initializer=begin)


def run(number: int, first_seed: int, capsys: pytest.CaptureFixture[str]) -> Counts:
    start, total, failures = time.perf_counter(), Counts(), []
    number = NUMBER or number
    with processes() as pool:
        for outcome in pool.map(explore, range(first_seed, first_seed + number), chunksize=10):
            failures.append(outcome) if isinstance(outcome, str) else total.add(outcome)
    with capsys.disabled():
        seconds = time.perf_counter() - start
        print(f"\n  {number / seconds:,.0f} schedules a second for {seconds:,.0f} s: {total}", end=" ")
    assert not failures, failures[0]
    return total


def test_no_schedule_reveals_what_is_not_durable_or_loses_a_reply(capsys: pytest.CaptureFixture[str]) -> None:
    counts = run(SCHEDULES, FIRST_SEED, capsys)
    assert counts.held > counts.steps / 4, "replies have to wait, or nothing is tested"
    assert counts.errors > counts.failures > counts.schedules / 10 or NUMBER


@pytest.mark.long
def test_many_schedules(capsys: pytest.CaptureFixture[str]) -> None:
    run(LONG, 1_000_000 + FIRST_SEED, capsys)


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_tells_the_same_schedule_again(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    def told() -> str:
        Schedule(seed, told=True).run()
        return capsys.readouterr().out

    assert told() == told() != ""


# --- the gate

Patch = tuple[Any, str, Any]
MUTANTS: dict[str, Callable[[], list[Patch]]] = {}

deliver, release, reveal, carry_out = Connection.deliver, Connection.release, FastPath.reveal, Waves.carry_out
fail, add, append, flush_taken = GroupCommit.fail, Outbox.add, Table._append, GroupCommit._flush_group


def mutant(name: str) -> Callable[[Callable[[], list[Patch]]], None]:
    return lambda make: MUTANTS.update({name: make})


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for target, attribute, replacement in MUTANTS[name]():
            stack.enter_context(patch.object(target, attribute, replacement))
        yield


@mutant("replies are delivered without waiting for what is durable")
def _() -> list[Patch]:
    return [(Connection, "deliver", lambda self, durable: deliver(self, FOREVER))]


@mutant("a reply overtakes one of its connection that waits")
def _() -> list[Patch]:
    def overtaking(self: Connection, durable: int) -> bool:
        waiting, self.outbox.held = self.outbox.held, deque()
        deliver(self, durable)
        waiting.extend(self.outbox.held)
        self.outbox.held = waiting
        return bool(waiting)

    return [(Connection, "deliver", overtaking)]


@mutant("replies to single commands leave whatever they depend on")
def _() -> list[Patch]:
    def at_once(self: FastPath) -> None:
        self.held = [(0, *rest) for _, *rest in self.held]
        reveal(self)

    return [(FastPath, "reveal", at_once)]


@mutant("what a read shows is taken for durable")
def _() -> list[Patch]:
    return [(DurabilityGate, "durability_of", lambda self, waiting, layer: 0)]


@mutant("who reads what a wave writes does not wait for it")
def _() -> list[Patch]:
    def at_once(self: Waves, *arguments: Any) -> Any:
        outcome = carry_out(self, *arguments)
        return outcome._replace(written=outcome.read)

    return [(Waves, "carry_out", at_once)]


@mutant("a wave decides by what it has read before nobody else could write")
def _() -> list[Patch]:
    def unlocked(keyspace: Any, keys: Any, reads: Any, may_write: bool, decide: Callable[[Any], Any]) -> Any:
        found: list[Any] = []
        run_wave(keyspace, keys, reads, False, found.append)
        with patch.object(wave_module, "_find", lambda *_: found[0]):
            return run_wave(keyspace, keys, reads, may_write, decide)

    return [(waves_module, "run_wave", unlocked)]


@mutant("a GET in a pipeline does not say what it depends on")
def _() -> list[Patch]:
    def forget(self: Outbox, data: Any, count: int, lsn: int) -> None:
        add(self, data, count, 0 if isinstance(data, bytes) and data[:1] == b"$" else lsn)

    return [(Outbox, "add", forget)]


def flush_group(self: GroupCommit, last: Callable[[], int], unless_failed: bool = True, waits: bool = True) -> None:
    """What the engine does, but for what is declared durable at the end."""
    with self.locks.append if waits else contextlib.nullcontext(), self.locks.state:
        self.appender.finish_open_frame(0)
        self._in_flight, self._unflushed = self._in_flight + self._unflushed, []
    try:
        self.pool.medium.flush([(start, stop) for start, stop in self._in_flight])
    except OSError as error:
        self.fail(error)
    else:
        if not (unless_failed and self.failed):
            self.durable, self._in_flight, self._pending = last(), [], None
    if self.hooks.on_durable:
        self.hooks.on_durable()


@mutant("a flush makes durable what was written while it was under way")
def _() -> list[Patch]:
    return [(GroupCommit, "_flush_group", lambda self: flush_group(self, lambda: self.appender.lsn))]


@mutant("a flush declares durable what it wrote, although something else failed meanwhile")
def _() -> list[Patch]:
    def flush(self: GroupCommit) -> None:
        last = self.appender.lsn
        flush_group(self, lambda: last, unless_failed=False)

    return [(GroupCommit, "_flush_group", flush)]


@mutant("a group that was taken counts for what was written since")
def _() -> list[Patch]:
    def flush(self: GroupCommit) -> None:
        if self._in_flight:
            self._flushing_lsn = self.appender.lsn
        flush_taken(self)

    return [(GroupCommit, "_flush_group", flush)]


@mutant("a group is taken while a frame is filled")
def _() -> list[Patch]:
    def hasty(self: GroupCommit) -> None:
        last = self.appender.lsn
        flush_group(self, lambda: last, waits=False)

    return [(GroupCommit, "_flush_group", hasty)]


@mutant("a pipeline is shown what was there before it rolled back")
def _() -> list[Patch]:
    def forgetful(self: Outbox, *how: Any) -> None:
        add(self, *how)
        self.newest_lsn = 0

    return [(Outbox, "add", forgetful)]


@mutant("a put is seen frame by frame")
def _() -> list[Patch]:
    def at_once(self: Table, *frame: Any) -> Any:
        ids, locations, lsn = append(self, *frame)
        self._enter([(ids, locations, lsn)])
        return ids[:0], locations[:0], lsn

    return [(Table, "_append", at_once)]


@mutant("who reads beside a batch is shown what is entered of it")
def _() -> list[Patch]:
    return [(BatchPublisher, "check_overlap", lambda self, layer, found: None)]


@mutant("who met a batch reads again at once, and takes what there is")
def _() -> list[Patch]:
    def twice(self: BatchPublisher, read: Callable[[], Any]) -> Any:
        with self._locks.state:
            try:
                return read()
            except PartialBatchSeen:
                with patch.object(self, "_frames", []):
                    return read()

    return [(BatchPublisher, "read", twice)]


@mutant("who counts does not wait until a batch is entered")
def _() -> list[Patch]:
    return [(BatchPublisher, "entry", property(lambda self: self._locks.state))]


@mutant("only what is gathered is pending, not what is in flight")
def _() -> list[Patch]:
    pending = GroupCommit.pending

    def gathered(self: GroupCommit) -> Any:
        with patch.object(self, "_in_flight", []), patch.object(self, "_pending", None):
            return pending(self)

    return [(GroupCommit, "pending", gathered)]


@mutant("a failed flush counts as one that succeeded for whoever waits")
def _() -> list[Patch]:
    return [(Connection, "release", lambda self, durable, error: release(self, FOREVER if error else durable, error))]


@mutant("whoever waits for a flush that failed is not told")
def _() -> list[Patch]:
    return [(Connection, "release", lambda self, durable, error: release(self, durable, None))]


@mutant("after a failed flush memory stays as it was")
def _() -> list[Patch]:
    def keep(self: GroupCommit, error: OSError) -> None:
        with patch.object(self.hooks, "on_failure", None):
            fail(self, error)

    return [(GroupCommit, "fail", keep)]


@mutant("a kick during a flush is forgotten")
def _() -> list[Patch]:
    def run(self: Flusher) -> None:
        while (wish := self._next()) != "stop":
            with contextlib.suppress(PmkvError):
                if wish == "flush":
                    self._log.flush(self._log.lsn)
                    self._flush_requested = False
                elif wish == "tick":
                    self._tick()

    return [(Flusher, "run", run)]


@mutant("the loop is told once, and never again")
def _() -> list[Patch]:
    def once(self: HeldReplies) -> None:
        if (self.connections or self._fast_path.held) and not self._is_wake_sent:
            self._is_wake_sent = True
            self._call_threadsafe(self._fast_path.reveal)

    return [(HeldReplies, "_on_durable", once)]


@mutant("what became durable while replies were put aside is not noticed")
def _() -> list[Patch]:
    def once(self: HeldReplies, connections: list[Connection]) -> None:
        durable = self._store.durable_lsn
        self.connections.update(dict.fromkeys([one for one in connections if one.deliver(durable)]))

    return [(HeldReplies, "deliver", once)]


@mutant("EXEC does not ask whether a watched key was written")
def _() -> list[Patch]:
    return [(Watch, "changed_key", lambda self: None)]


@mutant("a write does not tell who watches its key")
def _() -> list[Patch]:
    return [(KeyWatches, "mark", lambda self, key64s: None)]


@mutant("a rollback does not tell who watches a key that it changes")
def _() -> list[Patch]:
    return [(KeyWatches, "mark_exchanged", lambda self: None)]


@mutant("a transaction is no batch")
def _() -> list[Patch]:
    return [(transactions, "_exclusive", lambda session: contextlib.nullcontext())]


def hunt(name: str) -> str | None:
    """What killed a mutant."""
    with mutated(name):
        outcomes = map(explore, FOR_MUTANTS)
        return next((outcome for outcome in outcomes if isinstance(outcome, str)), None)


@pytest.fixture(scope="module")
def killers() -> Iterator[dict[str, str | None]]:
    with processes() as pool:
        yield dict(zip(MUTANTS, pool.map(hunt, MUTANTS)))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(name: str, killers: dict[str, str | None], capsys: pytest.CaptureFixture[str]) -> None:
    killer = killers[name]
    with capsys.disabled():
        print(f"\n  mutant: {name}\n    {killer.splitlines()[0][:160] if killer else 'SURVIVED'}", end=" ")
    assert killer, f"no schedule notices when {name}"


def test_the_server_as_it_is_passes_over_the_seeds_that_kill(killers: dict[str, str | None]) -> None:
    seeds = sorted({int(killer.split()[1].strip(",")) for killer in killers.values() if killer})
    with processes() as pool:
        failures = [outcome for outcome in pool.map(explore, seeds) if isinstance(outcome, str)]
    assert not failures, failures[0]
