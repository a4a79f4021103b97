"""Serve clients that send commands for waves and wait for the replies, with less work than a tick's rounds take.

Compiled loops receive from all ready sockets in one call and send all replies in another (`net.transport`). Commands
need no per-connection accounts: a connection on the fast path has its commands under way and nothing else.

The server works the same without this: `PMKV_FAST_PATH=off` leaves it out.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pmkv_server.commands.execution import not_durable
from pmkv_server.dispatch.wave_effects import BYTES, DEPENDS, DONE, LAST
from pmkv_server.net.connection import CLOSED, FAST, IDLE, SERVED
from pmkv_server.net.direct_transport import DirectTransport
from pmkv_server.net.transport import Sockets
from pmkv_server.resp.replies import Replies
from pmkv_server.resp.scan import slices

if TYPE_CHECKING:
    import asyncio

    from pmkv_server.dispatch.tick import Dispatcher
    from pmkv_server.dispatch.waves import Outcome
    from pmkv_server.net.connection import Connection
    from pmkv_server.server import Server

# The LSN that they depend on; the replies of each connection; how many these are
FastReplies = tuple[int, list["Connection"], Replies, list[int]]

DIRECT_SEND_BYTES = 2 << 20  # if all replies of a batch are more, the transports send them


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
        self.connections: list[Connection] = []  # whose input the next tick serves
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
        """Take the input of an idle connection: most likely whole commands, for whose replies the client waits."""
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
        """Serve the input taken since the last tick as one wave; return the connections that left the fast path: all,
        if one of them has sent anything else."""
        connections, sizes, chunks = self.connections, self._sizes, self._chunks
        self.connections, self._sizes, self._chunks = [], [], []
        dispatcher = self._dispatcher
        found = dispatcher.scan(chunks, sizes)
        outcome, is_whole = None, False
        if found.are_known and not (dispatcher.workers.exclusive or self._store.failed):
            serving = dispatcher.wave_serving
            if not serving.is_cold(self.keyspace):
                outcome, is_whole = serving.carry_out_all(self.keyspace, connections, found)
        if outcome is not None and is_whole:
            self._hold(connections, outcome)
            return []
        scan_slices = list(slices(connections, sizes, found))
        for connection, first, _, _, state in scan_slices:
            if connection.state != CLOSED:
                connection.state = SERVED
            connection.begin_scan(first, state[0])
        if outcome is not None:
            for connection, share in zip(connections, outcome.shares()):
                connection.take_replies(share, outcome.replies, found)
        dispatcher.serve_slices(scan_slices, found)
        return connections

    def _hold(self, connections: list[Connection], outcome: Outcome) -> None:
        """Keep the replies of a wave until they are revealed, those that depend on nothing pending apart."""
        owners, names, replies = outcome.owners, outcome.names, outcome.replies
        for connection, last in zip(connections, owners[:, LAST].tolist()):
            connection.session.last_command = names[last]
        counts = owners[:, DONE].tolist()
        if outcome.read == outcome.written or owners[:, DEPENDS].all():
            sizes = owners[:, BYTES].copy()
            self.held.append((outcome.written, connections, Replies(replies.copy(), sizes), counts))
            return
        shares = outcome.shares()
        for lsn in (outcome.read, outcome.written):
            some = [i for i, share in enumerate(shares) if share.lsn == lsn]
            parts = Replies.of([replies[shares[i].start : shares[i].stop].tobytes() for i in some])
            self.held.append((lsn, [connections[i] for i in some], parts, [counts[i] for i in some]))

    # ---- replies ----

    def reveal(self) -> None:
        """Send the replies that are durable, or errors after a failed flush; hold the others."""
        durable, failed = self._store.durable_lsn, self._store.failed
        held = []
        for one in self.held:
            lsn, connections, replies, counts = one
            if lsn > durable and not failed:
                held.append(one)
                continue
            if lsn > durable:
                replies = Replies.of([not_durable(failed) * count for count in counts])
            self._stats.commands += sum(counts)
            self._send(connections, replies)
        self.held = held
        if held and (self._store.durable_lsn != durable or self._store.failed != failed):  # a flush ended meanwhile
            self.reveal()

    def _send(self, connections: list[Connection], replies: Replies) -> None:
        """Send each connection its replies: directly as far as its socket takes it, the rest by its transport."""
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
