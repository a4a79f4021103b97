"""From bytes of many connections to replies: one *tick* serves every connection that has something to read.

A tick reads all short buffers in one look, then each long one, and goes in rounds: all leading GETs of all connections
are one `get_spans`, all leading SETs one `put_entries`, then each connection's other commands one by one until its next
GET or SET. Connections are concurrent, so any order between them is legal; within one it is kept. What one look wrote
becomes durable by one flush, asked for at its end; replies that depend on it wait in their connection, in order.

What takes long runs in a worker thread; its connection is served no further until it has its reply.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pmkv import BytesArray
from pmkv.runtime.scheduling import GilYielder
from pmkv_server.commands import admit
from pmkv_server.commands.execution import failure, is_heavy, not_durable, run, run_waiting
from pmkv_server.commands.registry import Command
from pmkv_server.net.transport import Sockets
from pmkv_server.resp import scan
from pmkv_server.resp.replies import Replies
from pmkv_server.resp.scan import GET, NULL_ARRAY, OK, SET, Scan, Scanner

if TYPE_CHECKING:
    from pmkv_server.net.connection import Connection
    from pmkv_server.server import Server

T = TypeVar("T")
log = logging.getLogger("pmkv.server")

Portion = tuple["Connection", int, int, int, list[int]]  # first row, its bytes from, to, and state of the scan
Answers = tuple[int, list["Connection"], Replies]  # the LSN they depend on, and a reply a connection
Runs = tuple[list[int], list["Connection"], list[int]]  # where the commands begin, whose they are, how many of each

NO_SINGLE = (0, 0, 0, scan.OTHER)
JOINED = 256 << 10  # a longer buffer is read on its own, not copied beside others
LONG_INBOX = 2 << 20  # pieces of more bytes are joined in a worker
TURN = 0.0005  # seconds between breaks, while the flush thread needs the interpreter: a busy loop takes it back at once


class Dispatcher:
    """Owns the ready list, the scanner and the replies that wait. All methods run on the loop's thread."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, executor: Executor) -> None:
        self._server = server
        self._store: Any = server.store
        self.keyspace = self._store.keyspace(0)  # of connections that take the short way
        self.call_soon = loop.call_soon
        self.sockets = Sockets()
        self._call_threadsafe, self._create_task = loop.call_soon_threadsafe, loop.create_task
        self._executor, self._scanner = executor, Scanner()
        self._breaks = GilYielder(turn=TURN)
        self._ready: list[Connection] = []
        self._waiting: dict[Connection, None] = {}  # connections with held replies, oldest first
        self._wake_sent = self._wrote = False
        self._deferral: Any = None
        self._taken: list[Connection] = []  # that sent something after having been at rest
        self._taken_sizes, self._taken_data = list[int](), list[bytes]()
        self._answers: list[Answers] = []  # to single commands, not revealed yet
        self.working = 0  # commands in workers
        self._blocked: dict[Connection, asyncio.Task[scan.Reply]] = {}  # whose command waits for something to happen
        self._store.on_durable(self._on_durable)

    def add(self, connection: Connection) -> None:
        """This connection has something in its inbox."""
        if not self._ready and not self._taken:
            self.call_soon(self.tick)
        self._ready.append(connection)

    def take(self, connection: Connection, data: bytes) -> None:
        """A connection at rest sent this: most likely one command, for whose reply the client waits."""
        if not self._taken and not self._ready:
            self.call_soon(self.tick)
        self._taken.append(connection)
        self._taken_sizes.append(len(data))
        self._taken_data.append(data)

    def receive(self) -> None:
        """Sockets that we watch have something."""
        connections, sizes, data = self.sockets.receive()
        plain = [connection for connection in connections if connection.at_rest and not connection.taken]
        if len(plain) == len(connections) and all(sizes) and not self._taken and not self._ready:
            self._take_all(connections, sizes, data)
            return
        end = 0
        for connection, size in zip(connections, sizes):
            start, end = end, end + size
            if size:
                connection.data_received(data[start:end])
            else:
                connection.return_to_transport()

    def _take_all(self, connections: list[Connection], sizes: list[int], data: bytes) -> None:
        """`take` for many, and their tick at once."""
        for connection in connections:
            connection.taken = True
        self._taken, self._taken_sizes, self._taken_data = connections, sizes, [data]
        self.tick()

    # ---- a tick ----

    def tick(self) -> None:
        if self._waiting or self._answers or self._server.waiters:
            self._breaks.give()
        ready, self._ready = self._ready, []
        taken, sizes, chunks = self._taken, self._taken_sizes, self._taken_data
        self._taken, self._taken_sizes, self._taken_data = [], [], []
        self._server.stats.ticks += 1
        if taken:
            self._serve(self._serve_taken, taken, sizes, chunks)
        for group in self._groups(ready) if ready else ():
            self._serve(self._serve_inboxes, group)

    def _serve(self, serve: Callable[..., list[Connection]], *group: Any) -> None:
        """Serve some, and let their replies leave: what is behind them may be long."""
        self._wrote = False
        with self._store.deferred() as self._deferral:
            served = serve(*group)
        if self._wrote:
            self._store.flush_soon()
        if self._answers:
            self._answer()
        if served:
            self._deliver(served)

    def _groups(self, ready: list[Connection]) -> list[list[Connection]]:
        """Connections to read together: those with long buffers alone, very long ones not before they are joined."""
        short: list[Connection] = []
        groups = []
        for connection in ready:
            if not connection.start():
                continue
            if connection.size <= JOINED:
                short.append(connection)
            elif connection.size <= LONG_INBOX or len(connection.inbox) == 1:
                groups.append([connection])
            else:
                connection.join()
        return [short, *groups] if short else groups

    def elsewhere(self, work: Callable[[], T], done: Callable[[T], None]) -> None:
        """`work` in a worker, then `done` here, with its result."""
        self.working += 1

        def end(result: T) -> None:
            self.working -= 1
            done(result)

        self._executor.submit(lambda: self._call_threadsafe(end, work()))

    def _serve_inboxes(self, connections: list[Connection]) -> list[Connection]:
        sizes = [connection.scan_size() for connection in connections]
        found = self._scan([chunk for connection in connections for chunk in connection.chunks()], sizes)
        self._serve_portions(list(_portions(connections, sizes, found)), found)
        return connections

    def _scan(self, chunks: list[bytes], sizes: list[int]) -> Scan:
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._server.stats.input_bytes += len(data)
        return self._scanner.scan(data, sizes)

    def _serve_portions(self, portions: list[Portion], found: Scan) -> None:
        """Serve connections, whatever they sent; returns once their replies are in them."""
        for connection, first, _, _, state in portions:
            connection.give_rows(first, state[0])
        self._rounds([portion[0] for portion in portions], found)
        for connection, _, start, end, state in portions:
            connection.took(found, start, end, state)

    # Most clients send one command and wait: these take a short way, without the accounts that pipelines need.

    def _serve_taken(self, connections: list[Connection], sizes: list[int], chunks: list[bytes]) -> list[Connection]:
        """Serve connections that were at rest; returns those that sent something else than one GET or SET."""
        found = self._scan(chunks, sizes)
        if found.gets == len(connections):
            self._get_singles(connections, found.spans(slice(1, None, 2)))
            return []
        if found.sets == len(connections):
            self._set_singles(connections, found.spans(slice(1, None, 3)), found.spans(slice(2, None, 3)))
            return []
        return self._sort_taken(_portions(connections, sizes, found), found)

    def _sort_taken(self, portions: Iterable[Portion], found: Scan) -> list[Connection]:
        getters: list[tuple[Connection, int]] = []
        setters: list[tuple[Connection, int]] = []
        others: list[Portion] = []
        for portion in portions:
            connection, row, _, _, (end, _, status, _) = portion
            _, first, count, kind = found.rows[row] if end - row == 1 else NO_SINGLE
            if status != scan.DONE or count != 1 or kind == scan.OTHER:
                connection.leave_short_way()
                others.append(portion)
            else:
                (getters if kind == GET else setters).append((connection, first))
        if getters:
            self._get_singles([connection for connection, _ in getters], found.spans([i + 1 for _, i in getters]))
        if setters:
            keys, values = (found.spans([i + n for _, i in setters]) for n in (1, 2))
            self._set_singles([connection for connection, _ in setters], keys, values)
        self._serve_portions(others, found)
        return [portion[0] for portion in others]

    def _get_singles(self, connections: list[Connection], keys: BytesArray) -> None:
        counts = [1] * len(connections)
        if self._store.is_cold and self.keyspace.is_cold:
            return self._in_worker(
                lambda: self._values(self.keyspace, keys, connections, counts),
                lambda replies, lsn: self._answer_late(lsn, connections, replies),
            )
        self._deferral.lsn = self._deferral.min_lsn = 0
        replies = self._values(self.keyspace, keys, connections, counts)
        self._answers.append((self._deferral.lsn, connections, replies))

    def _answer_late(self, *answers: Any) -> None:
        self._answers.append(answers)
        self._answer()

    def _set_singles(self, connections: list[Connection], keys: BytesArray, values: BytesArray) -> None:
        self._deferral.lsn = 0
        replies = self._put(self.keyspace, keys, values)
        self._answers.append((self._deferral.lsn, connections, replies))

    def _answer(self) -> None:
        """Write the replies to single commands that may be revealed, or that failed; keep the others."""
        durable, failed = self._store.durable_lsn, self._store.failed
        kept, stats = [], self._server.stats
        for lsn, connections, replies in self._answers:
            if lsn > durable and not failed:
                kept.append((lsn, connections, replies))
                continue
            if lsn > durable:
                replies = Replies.same(not_durable(failed), len(connections))
            stats.commands += len(connections)
            self._send(connections, replies)
        self._answers = kept
        if kept and (self._store.durable_lsn != durable or self._store.failed != failed):  # it came between
            self._answer()

    def _send(self, connections: list[Connection], replies: Replies) -> None:
        """To each its reply: straight to the socket as far as that takes it, the rest by the transport."""
        total = sum(sizes := replies.sizes.tolist())
        self._server.stats.output_bytes += total
        sent = [0] * len(sizes)
        if total <= JOINED:
            files = [c.outlet if c.outlet >= 0 else c.find_outlet() for c in connections]
            sent = self.sockets.send(files, replies.data, replies.sizes)
        if sent == sizes:
            for connection in connections:
                if connection.at_rest:
                    connection.taken = False
                else:
                    connection.answer(b"")
            return
        end = 0
        for connection, size, gone in zip(connections, sizes, sent):
            start, end = end, end + size
            connection.answer(replies.data[start + gone : end].tobytes())

    def _values(self, keyspace: Any, keys: BytesArray, connections: list[Connection], counts: list[int]) -> Replies:
        """Replies to GETs, so many of each connection; errors in the place of those that cannot be read."""
        try:
            values = keyspace.get_spans(keys)
        except Exception:
            values = None
        if values is not None and (not values.absent or all(c.session.protocol == 2 for c in connections)):
            return Replies.bulks(values)
        nulls = [null for connection, count in zip(connections, counts) for null in [connection.null] * count]
        try:
            found = keyspace.get_many(list(keys))
        except Exception:
            found = [_outcome(keyspace.get, key) for key in keys]
        return Replies.of([_get_reply(value, null) for value, null in zip(found, nulls)])

    def _put(self, keyspace: Any, keys: BytesArray, values: BytesArray) -> Replies:
        """Replies to SETs."""
        self._wrote = True
        try:
            keyspace.put_entries(keys, values, np.zeros(len(keys), np.int64))
        except Exception:
            outcomes = [_outcome(keyspace.put, *pair) for pair in zip(keys, values)]
            return Replies.of([OK if outcome is None else failure(outcome) for outcome in outcomes])
        return Replies.same(OK, len(keys))

    def _rounds(self, connections: list[Connection], found: Scan) -> None:
        active = [connection for connection in connections if connection.row < connection.row_end]
        while active:
            self._gets(active, found)
            self._sets(active, found)
            for connection in active:
                self._others(connection, found)
            active = [connection for connection in active if connection.has_rows()]

    def _gets(self, active: list[Connection], found: Scan) -> None:
        """One lookup a keyspace for every connection whose next row is a run of GETs."""
        for keyspace, (numbers, owners, counts) in self._next_runs(active, found, GET).items():
            keys = found.spans([number + 1 for number in numbers])
            if self._store.is_cold and keyspace.is_cold:
                self._get_cold(keyspace, keys, owners, counts)
                continue
            self._deferral.lsn, self._deferral.min_lsn = 0, max(connection.seen for connection in owners)
            replies = self._values(keyspace, keys, owners, counts)
            _reply_to_runs(owners, counts, replies, self._deferral.lsn)

    def _get_cold(self, keyspace: Any, keys: BytesArray, owners: list[Connection], counts: list[int]) -> None:
        """The disk may have to be read for this: in a worker."""
        for connection in owners:
            connection.busy = True

        def done(replies: Replies, lsn: int) -> None:
            _reply_to_runs(owners, counts, replies, lsn)
            self._end_work(owners)

        self._in_worker(lambda: self._values(keyspace, keys, owners, counts), done, max(c.seen for c in owners))

    def _sets(self, active: list[Connection], found: Scan) -> None:
        """One write a keyspace for every connection whose next row is a run of SETs."""
        for keyspace, (numbers, owners, counts) in self._next_runs(active, found, SET).items():
            self._deferral.lsn = 0
            keys, values = (found.spans([number + n for number in numbers]) for n in (1, 2))
            replies = self._put(keyspace, keys, values)
            _reply_to_runs(owners, counts, replies, self._deferral.lsn)

    def _next_runs(self, active: list[Connection], found: Scan, wanted: int) -> dict[Any, Runs]:
        """Begin what is next, where it is of this kind; by keyspace."""
        runs: dict[Any, Runs] = {}
        width = 2 if wanted == GET else 3
        for connection in active:
            if connection.row < connection.row_end and not connection.busy:
                _, first, count, kind = found.rows[connection.row]
                if kind == wanted and connection.session.plain:
                    numbers, owners, counts = runs.setdefault(connection.session.keyspace, ([], [], []))
                    numbers += range(first, first + width * count, width)
                    owners.append(connection)
                    counts.append(count)
                    connection.row += 1
        return runs

    def _others(self, connection: Connection, found: Scan) -> None:
        """A connection's commands one by one, up to its next run."""
        rows, session = found.rows, connection.session
        while connection.has_rows():
            _, first, count, kind = rows[connection.row]
            if kind == scan.OTHER:
                connection.row += 1
                self.execute(connection, found.arguments(first, count))
            elif session.plain:
                return
            else:
                self._single(connection, found, first, count, 2 if kind == GET else 3)

    def _single(self, connection: Connection, found: Scan, first: int, count: int, width: int) -> None:
        """A run that may not be served as one: within MULTI, or before AUTH."""
        connection.row += 1
        for i in range(first, first + count * width, width):
            self.execute(connection, found.arguments(i, width))

    # ---- one command ----

    def execute(self, connection: Connection, arguments: list[bytes]) -> None:
        session = connection.session
        self._deferral.lsn, self._deferral.min_lsn = 0, connection.seen
        if arguments[0].upper() in (b"POST", b"HOST:"):
            log.warning("%s speaks HTTP to the RESP port: connection closed", session.address)
            connection.abort()
            return
        entry = admit(session, arguments)
        if not isinstance(entry, Command):
            connection.reply(entry, 1, 0)
        elif entry.waits is not None:
            self._begin_wait(connection, entry, arguments)
        elif is_heavy(session, entry, arguments):
            self._send_to_worker(connection, entry, arguments)
        else:
            self._wrote |= entry.writes
            words = entry.owned(arguments) if memoryview in map(type, arguments) else arguments
            connection.reply(run(session, entry, words), 1, self._deferral.lsn)

    def _send_to_worker(self, connection: Connection, entry: Command, arguments: list[bytes]) -> None:
        connection.busy, session = True, connection.session

        def done(reply: scan.Reply, lsn: int) -> None:
            connection.reply(reply, 1, lsn)
            self._end_work([connection])

        self._in_worker(lambda: run(session, entry, entry.owned(arguments)), done, connection.seen, entry.writes)

    def _in_worker(
        self, work: Callable[[], T], done: Callable[[T, int], None], seen: int = 0, writes: bool = False
    ) -> None:
        """`work` in a worker, seen as in its deferral, then `done` here, with the result and the LSN it depends on."""
        self.working += 1

        def end(result: Any, lsn: int) -> None:
            self.working -= 1
            done(result, lsn)

        def begin() -> None:
            with self._store.deferred() as deferral:
                deferral.min_lsn = seen
                result = work()
            if writes:
                self._store.flush_soon()
            self._call_threadsafe(end, result, deferral.lsn)

        self._executor.submit(begin)

    def _begin_wait(self, connection: Connection, entry: Command, arguments: list[bytes]) -> None:
        """Its reply comes when something happens, or with the client's end; only its own connection waits."""
        connection.busy = True

        def done(task: asyncio.Task[scan.Reply]) -> None:
            del self._blocked[connection]
            reply = NULL_ARRAY[connection.session.protocol] if task.cancelled() else task.result()
            connection.reply(reply, 1, 0)
            self._end_work([connection])

        self._blocked[connection] = task = self._create_task(run_waiting(connection.session, entry, arguments))
        task.add_done_callback(done)

    def end_wait(self, connection: Connection) -> None:
        """Whoever waited there has gone, or will say nothing more."""
        if connection in self._blocked:
            self._blocked[connection].cancel()

    def _end_work(self, connections: list[Connection]) -> None:
        """They have what a worker did for them."""
        for connection in connections:
            connection.busy = False
        self._deliver(connections)
        for connection in connections:
            connection.go_on()

    # ---- replies ----

    def _deliver(self, connections: list[Connection]) -> None:
        """Write the replies that may be revealed; let the others wait."""
        durable = self._store.durable_lsn
        held = [connection for connection in connections if connection.deliver(durable)]
        if held:
            self._waiting.update(dict.fromkeys(held))
            if self._store.durable_lsn != durable or self._store.failed:  # it came between, when nobody waited
                self._release()

    def _on_durable(self) -> None:
        """From any thread: more became durable, or a flush failed."""
        if (self._waiting or self._answers or self._server.waiters) and not self._wake_sent:
            self._wake_sent = True
            self._call_threadsafe(self._release)

    def _release(self) -> None:
        self._wake_sent = False
        self._answer()
        failed, durable = self._store.failed, self._store.durable_lsn
        for connection in list(self._waiting):
            if not connection.release(durable, not_durable(failed) if failed else None):
                del self._waiting[connection]
        self._server.wake()

    def forget(self, connection: Connection) -> None:
        self._waiting.pop(connection, None)
        self.end_wait(connection)

    @property
    def is_idle(self) -> bool:
        return not (self._ready or self._taken or self._answers or self._waiting or self.working)


def _portions(connections: list[Connection], sizes: list[int], found: Scan) -> Iterator[Portion]:
    """Which rows and bytes of a scan are whose."""
    row = end = 0
    for connection, size, state in zip(connections, sizes, found.states):
        first, row = row, state[0]
        start, end = end, end + abs(size)
        yield connection, first, start, end, state


def _reply_to_runs(owners: list[Connection], counts: list[int], replies: Replies, lsn: int) -> None:
    for connection, count, out in zip(owners, counts, replies.cut(counts)):
        connection.reply(out, count, lsn)


def _get_reply(value: bytes | bytearray | None, null: bytes) -> bytes:
    if value is None:
        return null
    return failure(value) if isinstance(value, Exception) else b"$%d\r\n%b\r\n" % (len(value), value)


def _outcome(function: Callable, *arguments: bytes) -> Any:
    """A batch failed as a whole: each alone, so that only who is concerned gets the error."""
    try:
        return function(*arguments)
    except Exception as problem:
        return problem
