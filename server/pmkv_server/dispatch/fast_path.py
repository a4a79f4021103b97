"""Serve clients that send one GET or SET and wait for its reply, with less work a command than a tick's rounds take.

Compiled loops receive from all ready sockets in one call and send all replies in another (`net.transport`). Commands
need no per-connection accounts: a connection on the fast path has one command under way and nothing else.

The server works the same without this: `PMKV_FAST_PATH=off` leaves it out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from pmkv import BytesArray
from pmkv_server.commands.execution import not_durable
from pmkv_server.dispatch.batches import ScanSlice, get_replies, set_replies, slices
from pmkv_server.net.connection import CLOSED, FAST, IDLE, SERVED
from pmkv_server.net.direct_transport import DirectTransport
from pmkv_server.net.transport import Sockets
from pmkv_server.resp import scan
from pmkv_server.resp.replies import Replies
from pmkv_server.resp.scan import GET, Scan

if TYPE_CHECKING:
    import asyncio

    from pmkv_server.dispatch.tick import Dispatcher
    from pmkv_server.net.connection import Connection
    from pmkv_server.server import Server

FastReplies = tuple[int, list["Connection"], Replies]  # the LSN they depend on; a reply for each connection

NOT_SINGLE = (0, 0, 0, scan.OTHER)
DIRECT_SEND_BYTES = 256 << 10  # if all replies of a batch are more, the transports send them


def is_enabled() -> bool:
    """Say whether the environment leaves the fast path on."""
    return os.environ.get("PMKV_FAST_PATH", "on") != "off"


class FastPath:
    """Owns the watched sockets, and the commands and replies on the fast path. Runs on the loop's thread."""

    def __init__(self, server: Server, dispatcher: Dispatcher) -> None:
        self._stats = server.stats
        self._store: Any = server.store
        self._dispatcher = dispatcher
        self.keyspace = self._store.keyspace(0)  # the only one whose commands take the fast path
        self.sockets = Sockets()
        self.connections: list[Connection] = []  # whose one command the next tick serves
        self._sizes, self._chunks = list[int](), list[bytes]()  # of their input
        self.held: list[FastReplies] = []  # not revealed yet

    # ---- input ----

    def attach(self, connection: Connection, transport: asyncio.Transport) -> DirectTransport:
        """Return the stand-in for a new connection's transport; it is watched as soon as the transport reads."""
        direct = DirectTransport(transport, self.sockets, connection)
        if connection.session.fd >= 0:
            self._dispatcher.call_soon(direct.watch)
        return direct

    def forget(self, connection: Connection) -> None:
        """Stop watching the socket of a connection that was lost."""
        if isinstance(connection.transport, DirectTransport):
            connection.transport.unwatch()

    def begin(self, connection: Connection, data: bytes) -> None:
        """Take the input of an idle connection: most likely one command, for whose reply the client waits."""
        connection.state = FAST
        if not self._dispatcher.is_tick_due:
            self._dispatcher.request_tick()
        self.connections.append(connection)
        self._sizes.append(len(data))
        self._chunks.append(data)

    def receive(self) -> None:
        """Receive from the watched sockets that are ready, and serve a tick at once if all are idle connections."""
        connections, sizes, data = self.sockets.receive()
        idle = [connection for connection in connections if connection.state == IDLE]
        if len(idle) == len(connections) and all(sizes) and not self._dispatcher.is_tick_due:
            for connection in connections:
                connection.state = FAST
            self.connections, self._sizes, self._chunks = connections, sizes, [data]
            self._dispatcher.tick()
            return
        end = 0
        for connection, size in zip(connections, sizes):
            start, end = end, end + size
            if size:
                connection.data_received(data[start:end])
            else:  # an end or an error
                connection.transport.unwatch()

    # ---- commands ----

    def serve(self) -> list[Connection]:
        """Serve the input taken since the last tick; return the connections that sent more than one GET or SET."""
        connections, sizes, chunks = self.connections, self._sizes, self._chunks
        self.connections, self._sizes, self._chunks = [], [], []
        found = self._dispatcher.scan(chunks, sizes)
        if self._dispatcher.workers.exclusive:
            return self._leave(slices(connections, sizes, found), found)
        if found.gets == len(connections):
            self._get(connections, found.spans(slice(1, None, 2)))
            return []
        if found.sets == len(connections):
            self._set(connections, found.spans(slice(1, None, 3)), found.spans(slice(2, None, 3)))
            return []
        return self._serve_mixed(slices(connections, sizes, found), found)

    def _serve_mixed(self, scan_slices: Iterable[ScanSlice], found: Scan) -> list[Connection]:
        """Serve GETs and SETs together, and what is neither by the rounds of a tick."""
        getters: list[tuple[Connection, int]] = []
        setters: list[tuple[Connection, int]] = []
        others: list[ScanSlice] = []
        for scan_slice in scan_slices:
            connection, row, _, _, (end, _, status, _) = scan_slice
            _, first, count, kind = found.rows[row] if end - row == 1 else NOT_SINGLE
            if status != scan.DONE or count != 1 or kind == scan.OTHER:
                if connection.state != CLOSED:
                    connection.state = SERVED
                others.append(scan_slice)
            else:
                (getters if kind == GET else setters).append((connection, first))
        if getters:
            self._get([connection for connection, _ in getters], found.spans([i + 1 for _, i in getters]))
        if setters:
            keys, values = (found.spans([i + n for _, i in setters]) for n in (1, 2))
            self._set([connection for connection, _ in setters], keys, values)
        self._dispatcher.serve_slices(others, found)
        return [scan_slice[0] for scan_slice in others]

    def _leave(self, scan_slices: Iterable[ScanSlice], found: Scan) -> list[Connection]:
        """Let all commands go the way of a tick, where they need not wait on the loop for the store's locks."""
        others = list(scan_slices)
        for connection, *_ in others:
            if connection.state != CLOSED:
                connection.state = SERVED
        self._dispatcher.serve_slices(others, found)
        return [scan_slice[0] for scan_slice in others]

    def _get(self, connections: list[Connection], keys: BytesArray) -> None:
        counts, deferral = [1] * len(connections), self._dispatcher.deferral
        if self._store.is_cold and self.keyspace.is_cold:  # the disk may have to be read
            self._dispatcher.workers.run(
                connections,
                lambda: get_replies(self.keyspace, keys, connections, counts),
                lambda replies, lsn: self._reveal_late(lsn, connections, replies, keys),
            )
            return
        deferral.lsn = deferral.min_lsn = 0
        began = perf_counter_ns()
        replies = get_replies(self.keyspace, keys, connections, counts)
        self._stats.count("get", len(connections), perf_counter_ns() - began)
        if replies is None:
            self._dispatcher.get_in_worker(self.keyspace, keys, connections, counts)
            return
        self._dispatcher.note_pending()
        self.held.append((deferral.lsn, connections, replies))

    def _reveal_late(self, lsn: int, connections: list[Connection], replies: Replies | None, keys: BytesArray) -> None:
        """Send what a worker has looked up; values too long for that leave the fast path."""
        if replies is None:
            self._dispatcher.get_in_worker(self.keyspace, keys, connections, [1] * len(connections))
            return
        self.held.append((lsn, connections, replies))
        self.reveal()

    def _set(self, connections: list[Connection], keys: BytesArray, values: BytesArray) -> None:
        deferral = self._dispatcher.deferral
        deferral.lsn = 0
        self._dispatcher.wrote, began = True, perf_counter_ns()
        replies = set_replies(self.keyspace, keys, values)
        self._stats.count("set", len(connections), perf_counter_ns() - began)
        self.held.append((deferral.lsn, connections, replies))

    # ---- replies ----

    def reveal(self) -> None:
        """Send the replies that are durable, or errors after a failed flush; hold the others."""
        durable, failed = self._store.durable_lsn, self._store.failed
        held = []
        for lsn, connections, replies in self.held:
            if lsn > durable and not failed:
                held.append((lsn, connections, replies))
                continue
            if lsn > durable:
                replies = Replies.same(not_durable(failed), len(connections))
            self._stats.commands += len(connections)
            self._send(connections, replies)
        self.held = held
        if held and (self._store.durable_lsn != durable or self._store.failed != failed):  # a flush ended meanwhile
            self.reveal()

    def _send(self, connections: list[Connection], replies: Replies) -> None:
        """Send each connection its reply: directly as far as its socket takes it, the rest by its transport."""
        total = sum(sizes := replies.sizes.tolist())
        self._stats.output_bytes += total
        sent = [0] * len(sizes)
        if total <= DIRECT_SEND_BYTES:
            transports = [connection.transport for connection in connections]
            files = [t.direct_fd if t.direct_fd >= 0 else t.find_direct_fd() for t in transports]
            sent = self.sockets.send(files, replies.data, replies.sizes)
        now = self._stats.now
        for connection in connections:
            connection.session.active = now
        if sent == sizes:
            for connection in connections:
                if connection.state == FAST:
                    connection.state = IDLE
                else:
                    connection.finish_fast(b"")
            return
        end = 0
        for connection, size, count in zip(connections, sizes, sent):
            start, end = end, end + size
            connection.finish_fast(replies.data[start + count : end].tobytes())
