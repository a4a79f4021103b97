"""The asyncio shell around a session: bytes arrive, wait for the tick, replies leave when they may.

Flow control: a client that does not read its replies, or whose replies wait for durability, is neither read from nor
served further, so that what a connection holds is bounded by a few replies and one command.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from pmkv_server.net.large_command import LEAST, LargeCommand
from pmkv_server.net.session import Session
from pmkv_server.resp import scan
from pmkv_server.resp.scan import NULL, Reply, Scan

if TYPE_CHECKING:
    from pmkv_server.dispatch.tick import Dispatcher
    from pmkv_server.server import Server

log = logging.getLogger("pmkv.server")

OUTPUT_LIMIT = 4 << 20  # bytes of replies, written or held, above which no more commands are served
INBOX_LIMIT = 1 << 20  # bytes read ahead while a command is under way, unless the client sends long ones (`LEAST`)
SHORT = 64 << 10  # bytes that may take the short way
QUERY_LIMIT = 1 << 30  # bytes of one command, and of commands read from a client that does not read its replies


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, server: Server, dispatcher: Dispatcher) -> None:
        self._server = server
        self._dispatcher = dispatcher
        self.elsewhere = dispatcher.elsewhere
        self._transport: asyncio.Transport | None = None
        self.inbox: list[Any] = []  # bytes, or a view of a whole long command
        self.size = 0  # bytes in the inbox
        self._need = 0  # bytes without which the command at hand cannot be complete
        self._queued = False  # on the ready list
        self.at_rest = False  # nothing is under way but what is on the short way, which a single plain command may take
        self.taken = False  # its input is on the short way
        self.busy = False  # a worker has its command
        self._choked = False  # the client does not read
        self._reading = True
        self._watched = False  # the dispatcher receives for it, not the transport
        self.lent = False  # a worker receives from its socket
        self._intake: LargeCommand | None = None  # receives for it, once a long command came
        self.outlet = -1  # the socket, when what is sent there now overtakes nothing
        self._eof = False
        self.first_row = self.row = self.row_end = 0  # of the scan under way
        self._out: list = []
        self._out_size = 0
        self._out_count = 0  # replies in it
        self._out_lsn = 0
        self.seen = 0  # the highest LSN that a reply depended on
        self._held: deque[tuple[int, list, int, int]] = deque()  # lsn, buffers, replies, bytes
        self._held_size = 0
        self._unsaid = b""  # a push to a client that does not read

    # ---- what asyncio calls ----

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=OUTPUT_LIMIT)
        self.session = Session(self._server, _address(transport, "peername"), _address(transport, "sockname"))
        socket = transport.get_extra_info("socket")
        self.session.fd = socket.fileno() if socket else -1
        self.session.push = self.push
        if not self._server.enter(self):
            transport.write(scan.error("ERR max number of clients reached"))
            transport.close()
        elif self.session.fd >= 0:
            self._dispatcher.call_soon(self._leave_transport)  # it begins to read when this returns
        self._rest()

    def data_received(self, data: bytes) -> None:
        if self.at_rest and not self.taken and len(data) <= SHORT:
            self.taken = True
            self._dispatcher.take(self, data)
            return
        self.arrived(data)

    def arrived(self, data: Any, longer: Any = None) -> None:
        """This is next: bytes, or a view of them. longer: than this, which was last, and which it begins with."""
        self.at_rest = False
        if longer is not None and self.has_last(longer):
            self.size -= len(self.inbox.pop())
        self.inbox.append(data)
        self.size += len(data)
        if not self._queued and self.size >= self._need and self._may_serve():
            self._queued = True
            self._dispatcher.add(self)
        elif self.size > INBOX_LIMIT:
            self.regulate()

    def has_last(self, data: Any) -> bool:
        """Is this what came last, and is not taken yet?"""
        return bool(self.inbox) and self.inbox[-1] is data

    def eof_received(self) -> bool:
        self._eof = True
        self.at_rest = False
        self._dispatcher.end_wait(self)
        return not self._is_served or bool(self._held)

    def connection_lost(self, problem: Exception | None) -> None:
        self._transport = None
        self.return_to_transport()
        self.at_rest = False
        self.inbox, self.size = [], 0
        self._held.clear()
        self._held_size = 0
        self._dispatcher.forget(self)
        self._server.leave(self)

    def pause_writing(self) -> None:
        self._choked = True
        self.at_rest = False
        self.regulate()

    def resume_writing(self) -> None:
        self._choked = False
        if self._unsaid:
            self.push(self._unsaid)
        self.go_on()

    # ---- who receives ----

    def _leave_transport(self) -> None:
        if self._transport and self._reading and not (self._eof or self._transport.is_closing()):
            self._transport.pause_reading()
            self._dispatcher.sockets.watch(self.session.fd, self)
            self._watched = True

    def return_to_transport(self) -> None:
        """For good: there is an end or an error to be received, or much, or nothing any more."""
        if self._watched:
            self._watched, self.outlet = False, -1
            self._dispatcher.sockets.forget(self.session.fd)
            if self._reading and self._transport and not self._transport.is_closing():
                self._transport.resume_reading()

    def find_outlet(self) -> int:
        """Each use of the transport closes the outlet; it opens again when all that was written has been sent."""
        if self._watched and not self._transport.get_write_buffer_size():
            self.outlet = self.session.fd
        return self.outlet

    def lend_socket(self) -> int:
        """A descriptor for a worker, who receives until `lent` is unset; -1 if nothing is to be read, or it has to be
        read by the transport."""
        if self._watched or self.lent or self.session.fd < 0 or not self._may_serve() or self._transport.is_closing():
            return -1
        with contextlib.suppress(OSError):
            file = os.dup(self.session.fd)
            self.lent = True
            self.regulate()
            return file
        return -1

    # ---- what the dispatcher asks and says ----

    @property
    def null(self) -> bytes:
        return NULL[self.session.protocol]

    def start(self) -> bool:
        """Off the ready list; may it be served now?"""
        self._queued = False
        return self.size > 0 and self._may_serve()

    def scan_size(self) -> int:
        return self.size if self.session.authenticated else -self.size

    def give_rows(self, first: int, end: int) -> None:
        self.first_row = self.row = first
        self.row_end = end

    def has_rows(self) -> bool:
        """Is there a row left that may be served in this tick?"""
        return self.row < self.row_end and not self.session.closing and not self.busy and self._out_size < OUTPUT_LIMIT

    def _may_serve(self) -> bool:
        waiting = self.busy or self.taken or self._choked or self.session.closing or self._transport is None
        return not waiting and self._held_size < OUTPUT_LIMIT

    def _rest(self) -> None:
        """Is nothing under way here?"""
        session = self.session
        self.at_rest = (
            session.plain
            and session.keyspace is self._dispatcher.keyspace
            and not (
                self.size
                or (self._intake is not None and self._intake.size)
                or self._out
                or self._held
                or self._queued
                or self._eof
                or session.closing
                or not self._may_serve()
            )
        )

    # The short way: a client that sent one GET or SET and waits. `answer` follows `take`, in this tick or later.

    def answer(self, rest: bytes) -> None:
        """The reply to its one command may be revealed; write what of it has not been sent yet."""
        self.taken = False
        if self._transport is None:
            return
        if rest:
            self.outlet = -1
            self._transport.write(rest)
        if not self.at_rest:
            self._close_if_over()
            self.go_on()

    def leave_short_way(self) -> None:
        """It was something else: `give_rows` and `took` follow."""
        self.taken = self.at_rest = False

    def chunks(self) -> list[Any]:
        """What is in the inbox, to be scanned now."""
        chunks, self.inbox, self.size = self.inbox, [], 0
        return chunks

    def join(self) -> None:
        """Make many chunks one, in a worker, which does not hold up the loop."""
        self.busy, chunks = True, self.chunks()
        self.elsewhere(lambda: b"".join(chunks), self._joined)

    def _joined(self, joined: bytes) -> None:
        self.busy = False
        if self._transport is not None and not self.session.closing:
            self._keep(joined, 0, len(joined))
        self._close_if_over()
        self.go_on()

    def took(self, found: Scan, start: int, end: int, state: list[int]) -> None:
        """The rounds are over: keep what was not served, and see why the scan stopped."""
        _, position, status, detail = state
        self._need = 0
        if self.session.closing:
            self.inbox, self.size = [], 0
        elif self.row < self.row_end:
            position = found.rows[self.row - 1][0] if self.row > self.first_row else start
            self._keep(found.data, position, end)
        elif status == scan.DONE:
            pass
        elif status == scan.INCOMPLETE:
            self._need = detail
            if detail > QUERY_LIMIT:
                self.abort()
            elif detail > SHORT:
                self._receive_long(found.data, position, end)
            else:
                self._keep(found.data, position, end)
        elif status == scan.AGAIN or self.busy:  # what a worker does is answered first
            self._keep(found.data, position, end)
        elif status == scan.INLINE:
            self._take_line(bytes(found.data[position:end]))
        else:
            self._refuse(scan.protocol_error(status, detail))
        if self.size and self.size >= self._need:  # more may have come since this was taken
            self.go_on()
        elif not self._reading:
            self.regulate()

    def _keep(self, data: Any, start: int, end: int) -> None:
        if start < end:
            self.inbox.insert(0, bytes(data[start:end]))
            self.size += end - start

    def _receive_long(self, data: Any, start: int, end: int) -> None:
        """This has come so far of a command that is long."""
        behind, self.inbox, self.size = self.inbox, [], 0
        if self._intake is None:
            self._intake = LargeCommand(self)
            if self._transport is not None:
                self._transport.set_protocol(self._intake)
            self.return_to_transport()
        self._intake.begin(data, start, end, behind, self._need)

    def _take_line(self, data: bytes) -> None:
        """An inline command, perhaps."""
        stop = data.find(b"\n", 0, scan.MAX_INLINE)
        if stop < 0:
            self._keep(data, 0, len(data))
            self._need = self.size + 1
            if self.size >= scan.MAX_INLINE:
                self._refuse(scan.protocol_error(scan.LONG_LINE, 0))
            return
        self._keep(data, stop + 1, len(data))
        words = scan.split_inline(data[:stop])
        if words is None:
            self._refuse(scan.error("ERR Protocol error: unbalanced quotes in request"))
        elif words:
            self._dispatcher.execute(self, words)

    def _refuse(self, reply: bytes) -> None:
        """A protocol error: say so and close, since nothing after it can be understood."""
        self.reply(reply, 1, 0)
        self.session.closing = True
        self.inbox, self.size = [], 0

    def go_on(self) -> None:
        """Nothing holds it up any more, perhaps: serve what is in the inbox, read again."""
        if self.size and self.size >= self._need and not self._queued and self._may_serve():
            self._queued = True
            self._dispatcher.add(self)
        self._rest()
        if self._intake is not None:
            self._intake.go_on()
        self.regulate()

    # ---- replies ----

    def reply(self, data: Reply, count: int, lsn: int) -> None:
        """Add `count` replies, to be revealed once `lsn` is durable."""
        if isinstance(data, list):
            self._out += data
            self._out_size += sum(map(len, data))
        else:
            self._out.append(data)
            self._out_size += len(data)
        self._out_count += count
        if lsn > self._out_lsn:
            self._out_lsn = lsn
            self.seen = max(self.seen, lsn)

    def deliver(self, durable: int) -> bool:
        """Write what was replied in this tick, or hold it; does it hold something now?"""
        out = self._out
        if out:
            self._server.stats.commands += self._out_count
            if self._held or self._out_lsn > durable:
                self._held.append((self._out_lsn, out, self._out_count, self._out_size))
                self._held_size += self._out_size
            else:
                self._write(out, self._out_size)
            self._out, self._out_size, self._out_count, self._out_lsn = [], 0, 0, 0
        if self._held:
            return True
        self._close_if_over()
        self._rest()
        return False

    def release(self, durable: int, error: bytes | None) -> bool:
        """Write held replies that became durable, and `error` in place of the others. Does it still hold some?"""
        held, out, total = self._held, [], 0
        while held and (held[0][0] <= durable or error):
            lsn, buffers, count, size = held.popleft()
            out += buffers if lsn <= durable else [error * count]
            total += size
        self._held_size -= total
        if out:
            self._write(out, total)
        if held:
            return True
        self._close_if_over()
        self.go_on()
        return False

    def push(self, data: bytes) -> None:
        """Say this between replies; to a client that does not read, only the last."""
        self._unsaid = data if self._choked else b""
        if not (self._choked or self._transport is None or self._transport.is_closing()):
            self._write([data], len(data))

    def _write(self, buffers: list, size: int) -> None:
        if self._transport is None:
            return
        self._server.stats.output_bytes += size
        self.outlet = -1
        if len(buffers) == 1:
            self._transport.write(buffers[0])
        elif size < INBOX_LIMIT >> 4:
            self._transport.write(b"".join(buffers))
        else:
            self._transport.writelines(buffers)

    # ---- the end ----

    def _close_if_over(self) -> None:
        if self._transport and (self.session.closing or (self._eof and self._is_served)):
            self._transport.close()
            self.return_to_transport()

    @property
    def _is_served(self) -> bool:
        """Is nothing under way, and no whole command left?"""
        return not (self.busy or self.taken or self._queued or (self.size and self.size >= self._need))

    def close(self) -> None:
        """No more commands; close once all replies have left."""
        self.session.closing = True
        self.at_rest = False
        if not (self._held or self.busy or self.taken):
            self._close_if_over()

    def abort(self) -> None:
        """Close at once, saying nothing."""
        self.session.closing = True
        self.at_rest = False
        self.inbox, self.size = [], 0
        self._out, self._out_size, self._out_count = [], 0, 0
        if self._transport:
            self._transport.abort()
        self.return_to_transport()

    def _wants_more(self) -> bool:
        if self.lent:
            return False
        if self._choked:  # a client may send a whole pipeline before it reads: not to read it would block both sides
            return self._unserved < QUERY_LIMIT
        blocked = self.busy or self._held_size >= OUTPUT_LIMIT
        if self._intake is None:
            return not (blocked and self.size > INBOX_LIMIT)
        # a look at what came first: the rest may be a worker's to receive
        return not ((blocked or self._queued) and self.size + self._intake.size >= LEAST)

    @property
    def _unserved(self) -> int:
        """Bytes of commands that were read and not served."""
        return self.size + (self._intake.size if self._intake is not None else 0)

    def _cut_off(self) -> None:
        """Close a connection whose client sends without end and never reads."""
        log.warning("%s does not read its replies and sent %d bytes more: closed", self.session.address, self._unserved)
        self._server.stats.cut_off += 1
        self.abort()

    def regulate(self) -> None:
        """Read only while what was read can be served."""
        if self._choked and self._unserved >= QUERY_LIMIT:
            self._cut_off()
        wanted = self._wants_more()
        if self._transport is None or wanted == self._reading or self._transport.is_closing():
            return
        self._reading = wanted
        if self._watched and wanted:
            self._dispatcher.sockets.watch(self.session.fd, self)
        elif self._watched:
            self._dispatcher.sockets.forget(self.session.fd)
        elif wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()


def _address(transport: asyncio.Transport, what: str) -> str:
    peer = transport.get_extra_info(what)
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer or "")
