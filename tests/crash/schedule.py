"""The server's tick, its groups, workers and the flush thread under a scheduler that draws every step from a seed.

All of it is the real code: a store on a simulated medium with its flush thread and its background queue, the server's
dispatcher and connections, commands in workers. Each thread is an actor (see `baton`); the sockets are not there, the
loop is a queue of callbacks. Steps: bytes arrive, whole or cut; the loop goes on to its next callback, or within one to
where it looks at what is durable; a worker begins or goes on; the flush thread takes a wish, takes a group, ends a
flush, tells of it; a flush fails; a client goes, or stops reading.

Whenever a reply reaches a transport the crash image is asked whether it is justified (see `witness`).
`python -m tests.crash.schedule SEED` tells one schedule step by step.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import itertools
import random
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from pmkv import store as store_module
from pmkv.engine import table as table_module
from pmkv.engine.engine import Engine
from pmkv.engine.table import Table
from pmkv.log import group_commit as group_commit_module
from pmkv.log.flusher import Flusher
from pmkv.runtime.background import Background
from pmkv_server.commands import execution as running
from pmkv_server.commands import tables as tables_module
from pmkv_server.commands import transactions as transactions_module
from pmkv_server.config import Config
from pmkv_server.dispatch import fast_path as fast_path_module
from pmkv_server.dispatch import tick as tick_module
from pmkv_server.dispatch import waves as waves_module
from pmkv_server.dispatch.tick import Dispatcher
from pmkv_server.net import connection as connection_module
from pmkv_server.net import inbox as inbox_module
from pmkv_server.net import output_limits
from pmkv_server.server import Server
from tests.crash.asked import Asked, Questions, Reply, is_error
from tests.crash.baton import Actor, Baton, BatonLock, BatonQueue, BatonRLock
from tests.crash.explore import NOW, Violation, reproducible
from tests.crash.stage import Client, Loop, PacedMedium, PacedStore
from tests.crash.witness import EMPTY, TABLE, Witness, state_of

SEGMENT, SEGMENTS = 4096, 60
STEPS = 160
CLIENTS = 4
WORKERS = 2
SMALL = [  # limits of server and engine that a schedule shall meet
    (running, "HEAVY_BYTES", 1000), (tick_module, "SHARED_SCAN_BYTES", 1000),
    (tick_module, "LONGEST_LOOP_JOIN_BYTES", 1600), (fast_path_module, "DIRECT_SEND_BYTES", 1000),
    (output_limits, "PAUSE_BYTES", 2000), (inbox_module, "WINDOW_BYTES", 700), (inbox_module, "LEAST_WINDOW_BYTES", 60),
    (inbox_module, "COPIED_BYTES", 500), (tick_module, "COMMANDS_PER_LOOK", 2),
    # a clock that is the same in every run: a tick has time for a few looks at it
    (tick_module, "TICK_S", 4), (tick_module, "clock", functools.partial(next, itertools.count())),
    (connection_module, "INBOX_LIMIT_BYTES", 1000),
    (connection_module, "JOINED_WRITE_BYTES", 62), (connection_module, "FAST_PATH_BYTES", 600),
    (connection_module, "LARGE_COMMAND_BYTES", 600),
    (connection_module, "REACH", 3), (connection_module, "LEAST_REACH", 1),
    (waves_module, "MOST_COMMANDS", 6), (waves_module, "SPACE_BYTES", 6000), (tables_module, "HEAVY_PUT", 8),
    (transactions_module, "HEAVY_COMMANDS", 1),
    (Table, "_per_frame", lambda self, width: 1),
    (group_commit_module, "FLUSH_PIECE_BYTES", 1), (table_module, "MAX_LOCKED_ROWS", 0),
]  # fmt: skip


@dataclass
class Counts:
    schedules: int = 0
    steps: int = 0
    replies: int = 0
    errors: int = 0  # of the replies
    held: int = 0  # steps at which replies waited
    moments: int = 0
    recoveries: int = 0
    failures: int = 0  # of the medium

    def add(self, other: Counts) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def __str__(self) -> str:
        return ", ".join(f"{value:,} {name}" for name, value in vars(self).items())


class Schedule:
    """Everything that one seed stands for."""

    def __init__(self, seed: int, told: bool = False) -> None:
        self.seed, self.told = seed, told
        self.rng = random.Random(seed)
        self.counts = Counts(schedules=1)
        self.baton = Baton()
        self.jobs: deque[Callable[[], None]] = deque()
        self.workers: list[Actor] = []
        self.clients: list[Client] = []
        self.former: list[Client] = []  # that send nothing more
        self._names = 0
        self._fails_at = self.rng.randrange(2 * STEPS)  # mostly beyond the end

    def run(self) -> Counts:
        with contextlib.ExitStack() as stack:
            stack.enter_context(reproducible(self.seed))
            for module, name, value in SMALL:
                stack.enter_context(patch.object(module, name, value))
            stack.enter_context(patch.object(table_module, "yield_cpu", self._pause_while_entering))
            stack.callback(self.baton.abandon)
            self._build()
            for _ in range(STEPS):
                self._step()
            self._drain()
            self._judge_end()
        self.counts.failures = int(self.log.failed is not None)
        self.counts.moments, self.counts.recoveries = len(self.witness.moments), self.witness.recoveries
        return self.counts

    # --- the world

    def _build(self) -> None:
        self.medium = PacedMedium(4096 + SEGMENTS * SEGMENT)
        self.medium.inline = self.rng.random() < 0.15
        engine = Engine.on_medium(self.medium, SEGMENT, now=lambda: NOW)
        self.log = engine.log
        self.log.group_commit._flushing = self.flushing = BatonLock(self.baton)
        self.log.locks.append, self.log.locks.publish = BatonRLock(self.baton), BatonRLock(self.baton)
        self.log.store = functools.partial(self._store_slowly, self.log.store)
        self.loop = Loop(self.baton)
        with self._actors():
            self.store = PacedStore(SimpleNamespace(path=None, close=lambda: None), engine, 0)
        self.store.create_table(TABLE, "<i8")
        self.store.snapshot(EMPTY.decode())
        self.witness = Witness(self.medium)
        self.medium.on_point = self._on_point
        self._is_new = False  # more may be durable than the witness has seen
        self.server = Server(Config(), self.store)
        self.server.loop, self.server._stopping = self.loop, asyncio.Event()
        self.dispatcher = self.server.dispatcher = Dispatcher(self.server, self.loop, SimpleNamespace(submit=self._job))
        tell = self.log.on_durable
        self.log.on_durable = lambda: (self._pause_in_flush(), tell())
        self.medium.pause, self.store.pause = self._pause_in_flush, self._pause_loop
        self.questions = Questions(self.rng)
        self.clients = [self._client() for _ in range(CLIENTS)]

    @contextlib.contextmanager
    def _actors(self) -> Iterator[None]:
        """A store made inside has actors for its threads."""
        baton = self.baton

        class PacedFlusher(Flusher):
            def start(self) -> None:
                self._requests = BatonQueue(baton)
                baton.spawn("flush thread", self.run)

        class PacedBackground(Background):
            def start(self) -> None:
                self._work = BatonQueue(baton)
                baton.spawn("background", self.run)

        with patch.object(store_module, "Flusher", PacedFlusher):
            with patch.object(store_module, "Background", PacedBackground):
                yield

    def _client(self) -> Client:
        self._names += 1
        return Client(self, f"client {self._names}")

    def _job(self, work: Callable[[], None]) -> None:
        self.jobs.append(work)

    def _pause_in_flush(self) -> None:
        """Only a thread that flushes a group holds nothing that others need."""
        if self.flushing.is_mine() and not self.log.locks.state.is_held:
            if self.baton.actor is self.loop.actor and not self.medium.inline:
                raise Violation("the loop waits for a flush")
            self.baton.pause()

    def _store_slowly(self, store: Callable[[int, Any], None], at: int, raw: Any) -> None:
        """Others look while a frame is filled, where they may: half of its bytes are there then."""
        half = raw.size // 2
        store(at, raw[:half])
        if not self.log.locks.state.is_held and self.rng.random() < 0.5:
            self.baton.pause()
        store(at + half, raw[half:])

    def _pause_while_entering(self) -> None:
        """Others look while some frames of a batch are entered, and others are not."""
        if self.log.locks.publish.is_mine() and not self.log.locks.state.is_held:
            while self.rng.random() < 0.9:  # long enough for somebody to ask, and to be answered
                self.baton.pause()

    def _pause_loop(self) -> None:
        if self.baton.actor is self.loop.actor and self.rng.random() < 0.3:
            self.baton.pause()

    def _on_point(self, stage: str) -> None:
        self._is_new = True

    def _tell(self, what: object) -> None:
        if self.told:
            print(f"  {self.counts.steps:4} durable {self.log.durable & 0xFFFF} of {self.log.lsn & 0xFFFF}: {what}")

    # --- replies

    def replied(self, client: Client, replies: list[Reply]) -> None:
        """These reached the transport of a client."""
        if self.baton.actor is not None and self.baton.actor is not self.loop.actor:
            raise Violation(f"{self.baton.actor.name} writes to {client.name}")
        self._look()
        for reply in replies:
            if not client.asked:
                raise Violation(f"{client.name} gets {reply} and has asked nothing")
            self._judge(client, client.asked.popleft(), reply)

    def _look(self) -> None:
        if self._is_new:
            self._is_new = False
            self.witness.look()
            if self.rng.random() < 0.1:
                self.witness.recover()
        if self.log.failed:
            self.witness.fail(self.log.durable)

    def _judge(self, client: Client, asked: Asked, reply: Reply) -> None:
        self.counts.replies += 1
        self._tell(f"{client.name}: {asked} -> {str(reply)[:80]}")
        if is_error(reply):
            self.counts.errors += 1
            if not self.log.failed:
                raise Violation(f"{client.name}: {asked} gave {reply}")
            return
        justifies = asked.justifies(reply)
        since = self.witness.end if asked.after_failure else max(asked.since, client.since)
        found = self.witness.justify(justifies, since) if justifies else None
        if found is None:
            raise Violation(
                f"{client.name}: {asked} gave {str(reply)[:200]}, which no durable moment from {since} to "
                f"{self.witness.end} justifies: {[str(m.state)[:300] for m in self.witness.moments[since:]]}"
            )
        client.since = found

    # --- steps

    def _step(self) -> None:
        """One step, of those that can be taken."""
        actions = [(1.2, self._ask, None)]
        actions += [(2.0, self._arrive, client) for client in self.clients + self.former if client.can_arrive()]
        actions += [(0.03, self._trouble, client) for client in self.clients]
        actions += [(1.0, self._read_on, client) for client in self.clients if client.is_stalled]
        actions += [(4.0 if actor is self.loop.actor else 2.0, self._go, actor) for actor in self._ready()]
        actions += [(0.1, self._time_out, actor) for actor in self.baton.actors if actor.may_time_out]
        actions += [(2.0, self._begin_job, None)] if self.jobs and self._has_worker() else []
        actions += [(1.0, self._fail, None)] if self._may_fail() else []
        _, action, subject = self.rng.choices(actions, [weight for weight, _, _ in actions])[0]
        self._take(action, subject)

    def _take(self, action: Callable, subject: Any) -> None:
        self.counts.steps += 1
        self.counts.held += bool(self.dispatcher.held_replies.connections or self.dispatcher.fast_path.held)
        self._tell(f"{action.__name__[1:]} {getattr(subject, 'name', '')}")
        action(subject)

    def _ready(self) -> list[Actor]:
        return [actor for actor in self.baton.actors if actor.can_go()]

    def _has_worker(self) -> bool:
        self.workers = [worker for worker in self.workers if not worker.is_done]
        return len(self.workers) < WORKERS

    def _ask(self, _: None) -> None:
        client = self.rng.choice(self.clients)
        asked = self.questions.some()
        for one in asked:
            one.since, one.after_failure = self.witness.shown, self.log.failed is not None
            self.witness.pairs += [one.pair] if one.pair else []
            self.witness.unfinished |= {one.unfinished} if one.unfinished else set()
        client.send(asked)

    def _arrive(self, client: Client) -> None:
        size = len(client.wire) if self.rng.random() < 0.6 else self.rng.randrange(1, len(client.wire) + 1)
        client.arriving += 1
        self.loop.call_soon(client.arrive, size)

    def _trouble(self, client: Client) -> None:
        """It goes, says that it will send no more, or stops reading for a while."""
        match self.rng.randrange(4):
            case 0:
                client.is_gone = True
                client.asked.clear()
                self.loop.call_soon(client.close)
            case 1:
                client.end()
            case _:
                client.is_stalled = True
                return
        self.clients[self.clients.index(client)] = self._client()
        self.former.append(client)

    def _read_on(self, client: Client) -> None:
        self.loop.call_soon(client.read_on)

    def _go(self, actor: Actor) -> None:
        self.baton.step(actor)

    def _time_out(self, actor: Actor) -> None:
        self.baton.step(actor, timed_out=True)

    def _begin_job(self, _: None) -> None:
        self.workers.append(self.baton.spawn("worker", self.jobs.popleft()))

    def _may_fail(self) -> bool:
        return self.counts.steps > self._fails_at and not self.medium.inline  # such a medium does not refuse flushes

    def _fail(self, _: None) -> None:
        self._fails_at = STEPS
        self.medium.evicted = self.rng.random() < 0.5
        if self.rng.random() < 0.5:
            self.medium.refuses_to_prepare = True
            return
        reached = self.rng.choice(("none", "all", "prefix", "some"))
        self.medium.fail_flush(1, reached, self.rng.randrange(1 << 30))

    # --- the end

    def _drain(self) -> None:
        """Let everything happen that will, in some order; then, with patience, what an idle store does."""
        patience = 4
        while patience:
            self._let_clients_finish()
            actions = [(self._go, actor) for actor in self._ready()]
            actions += [(self._begin_job, None)] if self.jobs and self._has_worker() else []
            if not actions:
                patience -= 1
                actions = [(self._time_out, actor) for actor in self.baton.actors if actor.may_time_out]
            if actions:
                self._take(*self.rng.choice(actions))
            if self.counts.steps > 100 * STEPS:
                raise Violation("it does not come to rest")

    def _let_clients_finish(self) -> None:
        if self.loop.callbacks:
            return
        for client in self.clients + self.former:
            if client.is_stalled:
                self.loop.call_soon(client.read_on)
            if client.can_arrive():
                self._arrive(client)

    def _judge_end(self) -> None:
        self._look()
        for client in self.clients + self.former:
            if client.asked:
                raise Violation(f"{client.name} has no reply to {client.asked[0]}")
            if client.is_ended and not client.is_closed:
                raise Violation(f"{client.name} has all its replies, and is not let go")
        if not self.dispatcher.is_idle:
            raise Violation("the dispatcher still waits for something")
        if not self.log.failed and not self.log.is_idle:
            raise Violation(f"LSN {self.log.durable} is durable, {self.log.lsn} was written, and nothing more happens")
        if (found := state_of(self.store._engine)) != (last := self.witness.moments[self.witness.end].state):
            raise Violation(f"memory holds {found}\nand what is durable is {last}")
        self.witness.recover()


# Stores are garbage in cycles, of few objects, and each has reserved a quarter of a terabyte of address space: in time
# there is none left, and the collector has seen no reason to look.
COLLECTED = 100
_explored = count()  # of this process: of a range of seeds it may have those alone that no round number divides


def explore(seed: int) -> Counts | str:
    """Counts, or what went wrong in words, with the seed."""
    if next(_explored) % COLLECTED == 0:
        gc.collect()
    schedule = Schedule(seed)
    try:
        return schedule.run()
    except Exception as error:
        text = "".join(traceback.format_exception(error)[-12:])
        place = f"seed {seed}, step {schedule.counts.steps}"
        return f"{place}: {error}\nagain: python -m tests.crash.schedule {seed}\n{text}"


if __name__ == "__main__":
    for seed in map(int, sys.argv[1:]):
        print(Schedule(seed, told=True).run())
