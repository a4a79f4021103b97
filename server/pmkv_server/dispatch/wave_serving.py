"""Serve the commands of connections by waves: on the loop, or in a worker where the disk or a lock may take long."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from pmkv.errors import PmkvError
from pmkv_server.commands import admit
from pmkv_server.commands.execution import run
from pmkv_server.commands.registry import Command
from pmkv_server.dispatch.waves import Outcome, Plan, Share, Waves
from pmkv_server.net.connection import BLOCKED, CLOSED
from pmkv_server.resp.scan import OTHER, Reply, Scan

if TYPE_CHECKING:
    from pmkv_server.dispatch.tick import Dispatcher
    from pmkv_server.net.connection import Connection
    from pmkv_server.server import Server

log = logging.getLogger("pmkv.server")

Answer = tuple[Reply, int]  # and the number of commands that it answers


class WaveServing:
    """Lets connections take part in waves, with the rows of a scan that they have not been served yet. Runs on the
    loop's thread."""

    def __init__(self, server: Server, dispatcher: Dispatcher) -> None:
        self._server, self._dispatcher, self._store = server, dispatcher, server.store
        self.waves = Waves(server)

    def is_cold(self, keyspace: Any) -> bool:
        """Say whether a lookup may have to wait for the disk."""
        return self._store.is_cold and keyspace.is_cold

    def serve(self, active: list[Connection], found: Scan) -> None:
        """Carry out a wave of each keyspace for the connections whose next command belongs in one.

        After a failed flush there is none: the functions of commands say what is wrong."""
        owners: dict[Any, list[Connection]] = {}
        for connection in active:
            is_for_wave = found.number(connection.row) > OTHER and connection.session.plain
            if is_for_wave and connection.state != BLOCKED and not self._store.failed:
                owners.setdefault(connection.session.keyspace, []).append(connection)
        for keyspace, some in owners.items():
            if self._dispatcher.workers.exclusive:
                self._serve_in_worker(keyspace, some, found)
            elif self.is_cold(keyspace):
                counts = self._serve_here(keyspace, some, found, only_blind=True)
                self._serve_in_worker(keyspace, [c for c, count in zip(some, counts) if not count], found)
            else:
                self._serve_here(keyspace, some, found)

    def _serve_here(self, keyspace: Any, owners: list[Connection], found: Scan, only_blind: bool = False) -> list[int]:
        """Carry out a wave on the loop; return how many commands of each connection were to be in it."""
        ranges = np.array([connection.next_rows() for connection in owners], np.int64)
        plan = self.waves.plan(found, ranges, only_blind)
        if not len(plan.commands):
            return plan.counts
        newest = max(connection.outbox.newest_lsn for connection in owners)
        pause = self._server.limits.pause_bytes
        outcome = self.carry_out(keyspace, owners, plan, [pause - c.outbox.size for c in owners], newest)
        if outcome is None:
            leave_out(found, ranges, plan)
            return plan.counts
        for connection, share in zip(owners, outcome.shares()):
            connection.take_replies(share, outcome.replies, found)
        return plan.counts

    def carry_out_all(self, keyspace: Any, connections: list[Connection], found: Scan) -> tuple[Outcome | None, bool]:
        """Carry out all commands of a scan as one wave; return what became of it, and whether none is left."""
        ranges = np.zeros((len(connections), 2), np.int64)
        ranges[:, 1] = found.row_ends
        ranges[1:, 0] = ranges[:-1, 1]
        plan = self.waves.plan(found, ranges)
        outcome = self.carry_out(keyspace, connections, plan, self._server.limits.pause_bytes)
        if outcome is None:
            leave_out(found, ranges, plan)
            return None, False
        return outcome, outcome.commands == ranges[-1, 1]

    def carry_out(
        self, keyspace: Any, owners: list[Connection], plan: Plan, rooms: int | list[int], newest_lsn: int = 0
    ) -> Outcome | None:
        """Carry out a wave here. Return None if something was raised: nothing has happened.

        newest_lsn: the highest LSN that one of the connections has a reply of"""
        durability_wait = self._dispatcher.durability_wait
        durability_wait.lsn, durability_wait.min_lsn = 0, newest_lsn
        try:
            outcome = self.waves.carry_out(plan, keyspace, [c.session.protocol for c in owners], rooms)
        except Exception as problem:
            note_failure(plan, problem)
            return None
        finally:
            self._dispatcher.note_pending()
        self._dispatcher.wrote |= outcome.wrote
        return outcome

    def _serve_in_worker(self, keyspace: Any, owners: list[Connection], found: Scan) -> None:
        """Carry out a wave in a worker, and block its connections. What it has not done goes back to their inboxes."""
        ranges = np.array([c.next_rows() for c in owners], np.int64).reshape(-1, 2)
        plan = self.waves.plan(found, ranges).kept()
        ends, data, blocked = [], found.data, []
        for connection, (row, _), count in zip(owners, ranges.tolist(), plan.counts):
            if count:
                ends.append(found.rows[row : row + count, 0].tolist())
                connection.row += count
                connection.block()
                blocked.append(connection)
        if not blocked:
            return
        plan = plan._replace(counts=[count for count in plan.counts if count])
        newest = max(connection.outbox.newest_lsn for connection in blocked)

        def done(answers: list[list[Answer]], lsn: int) -> None:
            for connection, some, stops in zip(blocked, answers, ends):
                served = 0
                for reply, count in some:
                    connection.outbox.add(reply, count, lsn)
                    served += count
                if connection.state != CLOSED and not connection.session.closing:
                    connection.inbox.put_back(data, stops[served - 1], stops[-1])
            self._dispatcher.workers.finish(blocked)

        self._dispatcher.workers.run(blocked, lambda: self._work(keyspace, blocked, plan), done, newest, plan.may_write)

    def _work(self, keyspace: Any, owners: list[Connection], plan: Plan) -> list[list[Answer]]:
        """Carry out a kept plan, and what has left it by its function; return the replies to the first commands of each
        connection, one at least. Runs in a worker."""
        pause, protocols = self._server.limits.pause_bytes, [connection.session.protocol for connection in owners]
        replies, shares = np.empty(0, np.uint8), [REFUSED] * len(owners)
        try:
            outcome = self.waves.carry_out_in_worker(plan, keyspace, protocols, pause)
            replies, shares = outcome.replies, outcome.shares()
        except Exception as problem:
            note_failure(plan, problem)
        answers, first = [], 0
        for connection, share, count in zip(owners, shares, plan.counts):
            some: list[Answer] = []
            if share.done:
                some.append((replies[share.start : share.stop].tobytes(), share.done))
            if share.has_left or not share.done:
                some.append((self._run(connection, plan.words(first + share.done)), 1))
            answers.append(some)
            first += count
        return answers

    def _run(self, connection: Connection, words: list[bytes]) -> Reply:
        """Run one command by its function."""
        entry = admit(connection.session, words)
        return run(connection.session, entry, words) if isinstance(entry, Command) else entry


REFUSED = Share(0, 0, 0, 0, True, "")


def leave_out(found: Scan, ranges: np.ndarray, plan: Plan) -> None:
    """Let the commands of a plan be run by their functions."""
    for (row, _), count in zip(ranges.tolist(), plan.counts):
        found.rows[row : row + count, 3] = OTHER


def note_failure(plan: Plan, problem: Exception) -> None:
    """Log why a wave was not carried out, if its commands will not say that themselves: a mistake in the code."""
    if not isinstance(problem, PmkvError | OSError | MemoryError):
        log.error("a wave of %d commands failed; they are run one by one", len(plan.commands), exc_info=problem)
