"""Carry out the queue of a transaction by waves of its own, and by functions where commands are not for waves.

The caller holds the batch that makes it one write, so that waves here are parts of that batch."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pmkv_server.commands.execution import run
from pmkv_server.dispatch.waves import Waves
from pmkv_server.net.session import Queued, Session
from pmkv_server.resp.scan import Reply, Scanner, bulks

if TYPE_CHECKING:
    from pmkv_server.server import Server

QUEUED_TOGETHER = 512  # commands of one scan
NO_LIMIT_BYTES = 1 << 62  # of replies: whoever gathers them looks at their length
SHORT_BYTES = 64 << 10  # of a command's words; the function of a longer one runs, as its words need not be copied


class TransactionWaves:
    """Has waves for each thread that runs transactions."""

    def __init__(self, server: Server) -> None:
        self._server, self._threads = server, threading.local()

    def replies(self, session: Session, queue: Sequence[Queued]) -> Iterator[tuple[Reply, int]]:
        """Run the queued commands; yield replies, each to one command or, joined, to so many."""
        for is_for_waves, some in itertools.groupby(queue, _is_for_waves):
            commands = list(some)
            if len(commands) == 1 or not is_for_waves or self._server.store.failed:
                yield from ((run(session, *queued), 1) for queued in commands)
                continue
            for first in range(0, len(commands), QUEUED_TOGETHER):
                yield from self._by_waves(session, commands[first : first + QUEUED_TOGETHER])

    def _by_waves(self, session: Session, commands: Sequence[Queued]) -> Iterator[tuple[Reply, int]]:
        waves, scanner = self._of_thread()
        data = b"".join(bulks(words) for _, words in commands)
        found, row = scanner.scan(data, [len(data)]), 0
        while row < len(commands):
            plan = waves.plan(found, np.array([[row, len(commands)]]))
            try:
                outcome = (
                    waves.carry_out(plan, session.keyspace, [session.protocol], 1 << 62) if plan.counts[0] else None
                )
            except Exception:
                outcome = None
            if outcome is not None and outcome.commands:
                yield outcome.replies.tobytes(), outcome.commands
                row += outcome.commands
            if outcome is None or outcome.shares()[0].has_left:
                yield run(session, *commands[row]), 1
                row += 1

    def _of_thread(self) -> tuple[Waves, Scanner]:
        """Return waves and a scanner that no other thread uses."""
        if not hasattr(self._threads, "own"):
            waves = Waves(self._server)
            self._threads.own = waves, Scanner(waves.name_table())
        return self._threads.own


def _is_for_waves(queued: Queued) -> bool:
    entry, words = queued
    return entry.action is not None and sum(map(len, words)) <= SHORT_BYTES
