"""Serve, in one *tick*, all connections that have sent something.

A tick scans all short inboxes together, then each long one alone. It serves the commands found in rounds: the leading
commands of all connections that are for waves are carried out together (`waves`), then the leading ones for rows of
one table (`gathered_rows`); then each connection's other commands run one by one, up to its next one for a wave.
Connections are concurrent, so any order between them is legal; the order within one connection is kept. One flush,
requested at the end, makes durable what the commands of one scan wrote. Replies that depend on it wait in their
connection, in order (`held_replies`).

A command that takes long runs in a worker thread (`workers`); its connection is not served further before the reply.
Connections that send commands for waves only and wait for the replies take the fast path (`fast_path`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from pmkv.errors import FullError
from pmkv.runtime.scheduling import GilYielder
from pmkv_server.commands import COMMANDS, admit
from pmkv_server.commands.execution import HEAVY_ARGUMENTS, is_heavy, run, uses_store
from pmkv_server.commands.registry import Command
from pmkv_server.dispatch import fast_path
from pmkv_server.dispatch.gathered_rows import GatheredRows
from pmkv_server.dispatch.held_replies import HeldReplies
from pmkv_server.dispatch.retries import IN_PIECES, Retries
from pmkv_server.dispatch.wave_serving import WaveServing
from pmkv_server.dispatch.workers import Workers
from pmkv_server.net.inbox import WINDOW_BYTES
from pmkv_server.resp.scan import OTHER, Scan, Scanner, ScanSlice, slices

if TYPE_CHECKING:
    from pmkv_server.net.connection import Connection
    from pmkv_server.server import Server

log = logging.getLogger("pmkv.server")

SHARED_SCAN_BYTES = 256 << 10  # a longer inbox is scanned alone, rather than copied together with others
LONGEST_LOOP_JOIN_BYTES = 2 << 20  # the chunks of a longer command are joined by a worker
TICK_S = 0.01  # after which a tick lets the loop look at its sockets, and others have their turn
COMMANDS_PER_LOOK = 16  # commands run one by one between two looks at the clock
YIELD_INTERVAL_S = 0.0005  # between two yields of the GIL to a waiting flush thread: a busy loop retakes it at once

clock = time.monotonic


class Dispatcher:
    """Owns the ready list and the scanner. All methods run on the loop's thread."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, executor: Executor) -> None:
        self._server = server
        self._store: Any = server.store
        self.call_soon = loop.call_soon
        self.wave_serving = WaveServing(server, self)
        self.gathered_rows = GatheredRows(server, self)
        self._scanner = Scanner(self.wave_serving.waves.name_table())
        self._gil_yielder = GilYielder(turn=YIELD_INTERVAL_S)
        self._ready: list[Connection] = []
        self.is_tick_due = False
        self.wrote = False  # a command of the current scan wrote something
        self.durability_wait: Any = None  # of the current scan
        self._deadline = 0.0  # of what is being served, by the monotonic clock
        self.workers = Workers(self, self._store, loop, executor)
        self.fast_path = fast_path.FastPath(server, self) if fast_path.is_enabled() else None
        self.held_replies = HeldReplies(server, loop, self.fast_path)
        self.retries = Retries(self, server.space_wait)

    def add(self, connection: Connection) -> None:
        """Put a connection, whose inbox has work, on the ready list."""
        if not self.is_tick_due:
            self.request_tick()
        self._ready.append(connection)

    def request_tick(self) -> None:
        """Let a tick follow soon; none is due yet."""
        self.is_tick_due = True
        self.call_soon(self.tick)

    def tick(self) -> None:
        """Serve the connections on the ready list and those on the fast path."""
        fast = self.fast_path
        if self.held_replies.connections or self._server.waiters or (fast is not None and fast.held):
            self._gil_yielder.give()
        self.is_tick_due = False
        ready, self._ready = self._ready, []
        self._server.stats.ticks += 1
        if fast is not None and fast.connections:
            self._serve(fast.connections, fast.serve)
        if ready and (left := self._serve_ready(ready)):
            self._ready[:0] = left
            if not self.is_tick_due:
                self.request_tick()

    @property
    def is_time_over(self) -> bool:
        """Say whether what is being served has had its time, and the rest is left to the next tick."""
        return clock() > self._deadline

    def _serve_ready(self, ready: list[Connection]) -> list[Connection]:
        """Serve connections, those with short inboxes first, for a while; return those whose turn is the next tick."""
        short, long = [], []
        for connection in ready:
            (short if connection.inbox.size <= SHARED_SCAN_BYTES else long).append(connection)
        end = clock() + TICK_S
        while short:
            group = _first(short, WINDOW_BYTES)
            self._serve(group, self._serve_inboxes, group)
            if short and clock() > end:
                return short + long
        for i, connection in enumerate(long):
            self._serve([connection], self._serve_inboxes, [connection])
            if clock() > end:
                return long[i + 1 :]
        return []

    def _serve(self, group: list[Connection], serve: Callable[..., list[Connection]], *arguments: Any) -> None:
        """Serve some connections and deliver their replies, before others, which may take long, are served.

        After an unexpected error (no memory) the connections are closed: part of their input is lost, and their clients
        would wait for ever.
        """
        self.wrote, self._deadline = False, clock() + TICK_S
        try:
            with self._store.deferred() as self.durability_wait:
                served = serve(*arguments)
        except Exception:
            log.exception("serving failed: %d connections are closed", len(group))
            served = []
            for connection in group:
                connection.abort()
        if self.wrote:
            self._store.flush_soon()
        if self.fast_path is not None and self.fast_path.held:
            self.fast_path.reveal()
        if served:
            self.held_replies.deliver(served)

    def _serve_inboxes(self, ready: list[Connection]) -> list[Connection]:
        """Serve what connections have sent, as far as one look goes; return those that were served.

        A long command in many chunks is first joined in a worker.
        """
        connections = []
        for connection in ready:
            if connection.begin_tick():
                inbox = connection.inbox
                if inbox.window > max(LONGEST_LOOP_JOIN_BYTES, len(inbox.chunks[0])):
                    self.workers.join_inbox(connection)
                else:
                    connections.append(connection)
        if not connections:
            return []
        parts = [connection.inbox.take(connection.inbox.window) for connection in connections]
        sizes = [sum(map(len, chunks)) for chunks in parts]
        sizes = [size if c.session.authenticated else -size for c, size in zip(connections, sizes)]
        found = self.scan([chunk for chunks in parts for chunk in chunks], sizes)
        scan_slices = list(slices(connections, sizes, found))
        for connection, first, _, _, state in scan_slices:
            connection.begin_scan(first, state[0])
        self.serve_slices(scan_slices, found)
        return connections

    def scan(self, chunks: list[bytes], sizes: list[int]) -> Scan:
        """Scan the input of several connections; sizes: bytes of each, negative if it is not authenticated."""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._server.stats.input_bytes += len(data)
        return self._scanner.scan(data, sizes)

    def serve_slices(self, scan_slices: list[ScanSlice], found: Scan) -> None:
        """Serve the commands of several connections, which have begun with the scan; returns once the replies are in
        their outboxes."""
        self._rounds([scan_slice[0] for scan_slice in scan_slices], found)
        for connection, _, start, end, state in scan_slices:
            connection.end_scan(found, start, end, state)

    # ---- rounds ----

    def _rounds(self, connections: list[Connection], found: Scan) -> None:
        active = [connection for connection in connections if connection.has_rows()]
        while active:
            self.wave_serving.serve(active, found)
            self.gathered_rows.serve(active, found)
            for connection in active:
                self._others(connection, found)
            active = [connection for connection in active if connection.has_rows()]
            if active and self.is_time_over:
                return

    def _others(self, connection: Connection, found: Scan) -> None:
        """Run a connection's commands one by one, up to the next that belongs in a wave."""
        session, count = connection.session, 0
        while connection.has_rows():
            row = connection.row
            if found.number(row) > OTHER and session.plain and not self._store.failed:
                return  # else it is in MULTI, or before AUTH
            connection.row += 1
            count += 1
            first, size = found.rows[row, 1:3].tolist()
            if size <= HEAVY_ARGUMENTS or not self._execute_long(connection, found, first, size):
                self.execute(connection, found.arguments(first, size))
            if count % COMMANDS_PER_LOOK == 0 and self.is_time_over:
                return

    def _execute_long(self, connection: Connection, found: Scan, first: int, count: int) -> bool:
        """Run a command of very many arguments in a worker, which lists them; return False if that cannot be."""
        entry = COMMANDS.get(found.word(first).lower())
        if entry is None or entry.subcommands or entry.waits is not None or "loop" in entry.flags:
            return False
        self.workers.run_admitted(connection, found.later_arguments(first, count), entry.writes)
        return True

    def execute(self, connection: Connection, arguments: list[bytes]) -> None:
        """Run one command here or in a worker, or begin to wait for the event that it is about."""
        session, outbox = connection.session, connection.outbox
        self.durability_wait.lsn, self.durability_wait.min_lsn = 0, outbox.newest_lsn
        if arguments[0].upper() in (b"POST", b"HOST:"):
            log.warning("%s speaks HTTP to the RESP port: connection closed", session.address)
            connection.abort()
            return
        entry = admit(session, arguments)
        if not isinstance(entry, Command):
            outbox.add(entry, 1, 0)
        elif entry.waits is not None:
            self.workers.begin_wait(connection, entry, arguments)
        elif (self.workers.exclusive and uses_store(entry)) or is_heavy(session, entry, arguments):
            self.workers.run_command(connection, entry, arguments)
        else:
            self.wrote |= entry.writes
            words = entry.owned(arguments) if memoryview in map(type, arguments) else arguments
            try:
                outbox.add(run(session, entry, words, may_wait=True), 1, self.durability_wait.lsn)
            except FullError:
                again = self.workers.run_command if entry.name in IN_PIECES else self.retries.add
                again(connection, entry, words)
            self.note_pending()

    def execute_again(self, connection: Connection, entry: Command, words: list[bytes], is_last: bool) -> bool:
        """Run a command again that has found the pool full; return whether its connection goes on: not if it was full
        again, and this was not the last attempt."""
        done = False

        def run_again() -> list[Connection]:
            nonlocal done
            self.durability_wait.lsn, self.durability_wait.min_lsn = 0, connection.outbox.newest_lsn
            self.wrote |= entry.writes
            with contextlib.suppress(FullError):
                reply = run(connection.session, entry, words, may_wait=not is_last)
                connection.outbox.add(reply, 1, self.durability_wait.lsn)
                done = True
            return []

        self._serve([connection], run_again)
        if done:
            self.workers.finish([connection])
        return done

    def note_pending(self) -> None:
        """Let a flush follow if what was just served depends on one: a read also notes expired keys."""
        self.wrote |= self.durability_wait.lsn > self._store.durable_lsn

    # ---- connections that end, and the end ----

    def forget(self, connection: Connection) -> None:
        """Drop a connection that was lost."""
        self.held_replies.connections.pop(connection, None)
        self.workers.end_wait(connection)
        if self.fast_path is not None:
            self.fast_path.forget(connection)

    @property
    def is_idle(self) -> bool:
        """Say whether no command is under way and no reply is held."""
        fast = self.fast_path
        waiting = self.is_tick_due or self.held_replies.connections or self.workers.running or self.retries.waiting
        return not (waiting or (fast is not None and fast.held))


def _first(connections: list[Connection], most: int) -> list[Connection]:
    """Remove and return the first connections: so many that their input is at most `most` bytes, or one."""
    count, total = 0, 0
    for connection in connections:
        total += connection.inbox.size
        if count and total > most:
            break
        count += 1
    first = connections[:count]
    del connections[:count]
    return first
