"""Connect one client's session to asyncio: bytes arrive and wait for the tick, replies leave once they may be revealed.

Flow control: while a client does not read its replies, or while many of them wait to become durable, its commands are
not served. What a connection holds in memory is bounded in bytes: replies by `output_limits`, and by one reply more,
input by the limit of a command.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from pmkv_server.net.inbox import Inbox
from pmkv_server.net.large_command import FIRST_BUFFER_BYTES, LargeCommand
from pmkv_server.net.outbox import Outbox
from pmkv_server.net.output_limits import OutputWatch
from pmkv_server.net.session import Session
from pmkv_server.resp import scan
from pmkv_server.resp.scan import Scan

if TYPE_CHECKING:
    from pmkv_server.dispatch.tick import Dispatcher
    from pmkv_server.dispatch.waves import Share
    from pmkv_server.server import Server

log = logging.getLogger("pmkv.server")

INBOX_LIMIT_BYTES = 1 << 20  # read ahead while a command is under way; less once the client has sent large commands
REACH, LEAST_REACH = 512, 8  # rows of one connection that a wave looks at, at most
FAST_PATH_BYTES = 64 << 10  # a longer input does not go to the fast path
LARGE_COMMAND_BYTES = 64 << 10  # a longer command is received into a buffer of its own
JOINED_WRITE_BYTES = 64 << 10  # replies of fewer bytes are written as one buffer

# The states of a connection:
#   IDLE     Nothing is under way and nothing has arrived: commands for waves may go to the fast path.
#   FAST     The fast path serves the commands that arrived; nothing else is under way.
#   SERVED   Input is served as it arrives. More of a command may be missing, or replies may be held.
#   QUEUED   The inbox has work, and the connection is on the ready list of the next tick.
#   BLOCKED  Commands wait for the reply of one that a worker, an event or the fast path still has.
#   CLOSED   The transport is lost.
# IDLE -> FAST -> IDLE; IDLE -> SERVED, FAST -> BLOCKED when anything else happens; SERVED -> QUEUED -> SERVED in a
# tick; SERVED -> BLOCKED -> SERVED around a worker's command; SERVED -> IDLE; any -> CLOSED. A client that closes is
# in any of these, with `session.closing`: no further command of it is served.
IDLE, FAST, SERVED, QUEUED, BLOCKED, CLOSED = range(6)


class Connection(asyncio.Protocol):
    """One client: its state, and its flow of bytes in both directions. All methods run on the loop's thread."""

    session: Session
    transport: Any  # an asyncio transport, or the fast path's stand-in for it

    def __init__(self, server: Server, dispatcher: Dispatcher) -> None:
        self._server = server
        self._limits, self._watch = server.limits, OutputWatch()
        self._dispatcher = dispatcher
        self._fast_path = dispatcher.fast_path
        self._large_command: LargeCommand | None = None  # the transport's protocol, once a large command came
        self.state = SERVED
        self.inbox = Inbox()
        self.outbox = Outbox()
        self.first_row = self.row = self.row_end = 0  # of the scan that is being served
        self._reach = REACH
        self.is_half_closed = False  # the client sends nothing more
        self._is_reading = True
        self._write_paused = False  # the client does not read
        self._pending_push = b""  # for a client that does not read

    # ---- calls from asyncio ----

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=self._limits.pause_bytes)
        self.session = Session(self._server, _address(transport, "peername"), _address(transport, "sockname"))
        socket = transport.get_extra_info("socket")
        self.session.fd = socket.fileno() if socket else -1
        self.session.push, self.session.buffered = self.push, self._buffered
        if not self._server.enter(self):
            transport.write(scan.error("ERR max number of clients reached"))
            transport.close()
        elif self._fast_path is not None:
            self.transport = self._fast_path.attach(self, transport)
            self._become_idle()

    def data_received(self, data: bytes) -> None:
        if self.state == IDLE and len(data) <= FAST_PATH_BYTES:
            self._fast_path.begin(self, data)
        else:
            self.append(data)

    def append(self, data: Any, before: Any = None) -> None:
        """Append bytes to the inbox, or a view of them.

        before: a chunk with which `data` begins. If the inbox still has it, it is replaced.
        """
        self._leave_idle()
        inbox = self.inbox
        if before is not None and inbox.is_last(before):
            inbox.replace_last(data)
        else:
            inbox.add(data)
        if self.state == SERVED and inbox.size >= inbox.need and self._may_serve():
            self.state = QUEUED
            self._dispatcher.add(self)
        elif inbox.size > INBOX_LIMIT_BYTES:
            self.regulate()

    def eof_received(self) -> bool:
        self.is_half_closed = True
        self._leave_idle()
        self._dispatcher.workers.end_wait(self)
        return not self._is_served or bool(self.outbox.held)

    def connection_lost(self, problem: Exception | None) -> None:
        self.state = CLOSED
        self.inbox.clear()
        self.outbox.discard_held()
        self._dispatcher.forget(self)
        self._server.leave(self)

    def pause_writing(self) -> None:
        self._write_paused = True
        self._leave_idle()
        self.regulate()

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._pending_push:
            self.push(self._pending_push)
        self.resume()

    # ---- states ----

    def _may_serve(self) -> bool:
        """Say whether commands may be served now."""
        stopped = self.state != SERVED or self._write_paused or self.session.closing
        return not stopped and self.outbox.held_size < self._limits.pause_bytes

    def _become_idle(self) -> None:
        """Become idle if nothing is under way, and if commands may go to the fast path."""
        session, outbox, fast_path = self.session, self.outbox, self._fast_path
        if (
            fast_path is not None
            and session.plain
            and session.keyspace is fast_path.keyspace
            and not (
                self.inbox.size
                or (self._large_command is not None and self._large_command.size)
                or outbox.buffers
                or outbox.held
                or self.is_half_closed
                or not self._may_serve()
            )
        ):
            self.state = IDLE

    def _leave_idle(self) -> None:
        """Let no further command go to the fast path; wait for the one that it has."""
        if self.state == IDLE:
            self.state = SERVED
        elif self.state == FAST:
            self.state = BLOCKED

    def resume(self) -> None:
        """Serve what is in the inbox and read again, as far as nothing holds this up any more."""
        if self.inbox.has_work and self._may_serve():
            self.state = QUEUED
            self._dispatcher.add(self)
        self._become_idle()
        self.regulate()

    def block(self) -> None:
        """Serve no command until `unblock` is called: one of them is under way elsewhere."""
        if self.state != CLOSED:
            self.state = BLOCKED

    def unblock(self) -> None:
        if self.state == BLOCKED:
            self.state = SERVED

    def finish_fast(self, rest: bytes) -> None:
        """End the fast path's commands; `rest` is what of their replies has not been sent."""
        if self.state == CLOSED:
            return
        if rest:
            self.transport.write(rest)
            if self._limits.is_set:
                self.check_output()
                if self.state == CLOSED or self.session.closing:
                    return
        if self.state == FAST:
            self.state = IDLE
        else:
            self.unblock()
            self.close_if_over()
            self.resume()

    # ---- a tick ----

    def begin_tick(self) -> bool:
        """Leave the ready list; return whether the inbox may be served now."""
        if self.state == QUEUED:
            self.state = SERVED
        if self.inbox.size > 0:
            return self._may_serve()
        if self.state == SERVED and not self.outbox.held:  # an earlier group of this tick has served all of it
            self.close_if_over()
        return False

    def has_rows(self) -> bool:
        """Say whether a row of the scan is left that may be served in this tick."""
        return (
            self.row < self.row_end
            and not self.session.closing
            and self.state != BLOCKED
            and self.outbox.size < self._limits.pause_bytes
        )

    def begin_scan(self, first: int, end: int) -> None:
        """Serve rows `first` to `end` of a new scan."""
        self.first_row = self.row = first
        self.row_end = end

    def next_rows(self) -> tuple[int, int]:
        """Return the first row to serve, and the end of those that a wave is to look at."""
        return self.row, min(self.row_end, self.row + self._reach)

    def take_replies(self, share: Share, replies: Any, found: Scan) -> None:
        """Take the replies to the commands that a wave has carried out, and go on behind these.

        After a command that left the wave, the next waves look at fewer."""
        if share.done:
            self.outbox.add(replies[share.start : share.stop].tobytes(), share.done, share.lsn)
            self.session.last_command = share.last
            self.row += share.done
        if share.has_left:
            found.rows[self.row, 3] = scan.OTHER
            self._reach = min(self._reach, max(LEAST_REACH, 2 * share.done))
        else:
            self._reach = min(2 * self._reach, REACH)

    def end_scan(self, found: Scan, start: int, end: int, state: list[int]) -> None:
        """Keep the input that was not served, and act on the reason why the scan stopped.

        start, end: the offsets of this connection's input in `found.data`
        state: the row of `found.states` about it
        """
        _, position, status, detail = state
        inbox = self.inbox
        inbox.need = 0
        inbox.learn(0, is_all=True)
        if self.session.closing:
            inbox.clear()
        elif self.row < self.row_end:
            position = int(found.rows[self.row - 1, 0]) if self.row > self.first_row else start
            inbox.learn(position - start, is_all=False)
            inbox.put_back(found.data, position, end)
        elif status == scan.DONE:
            pass
        elif status == scan.INCOMPLETE:
            self._keep_incomplete(found.data, position, end, detail)
        elif status == scan.AGAIN or self.state == BLOCKED:  # the reply of the worker's command comes first
            inbox.put_back(found.data, position, end)
        elif status == scan.INLINE:
            self._take_lines(bytes(found.data[position:end]))
        else:
            self._refuse(scan.protocol_error(status, detail))
        if inbox.has_work:  # also: more may have arrived since the scan began
            self.resume()
        elif not self._is_reading:
            self.regulate()

    def _keep_incomplete(self, data: Any, start: int, end: int, need: int) -> None:
        """Keep data[start:end], the beginning of a command of at least `need` bytes."""
        self.inbox.need = need
        if need > self._limits.query_bytes:
            self.abort()
        elif need > LARGE_COMMAND_BYTES and need > self.inbox.size + end - start:
            later = self.inbox.take()
            if self._large_command is None:
                self._large_command = LargeCommand(self)
                if self.state != CLOSED:
                    self.transport.set_protocol(self._large_command)
            self._large_command.begin(data, start, end, later, need)
        else:
            self.inbox.put_back(data, start, end)

    def _take_lines(self, data: bytes) -> None:
        """Run the inline commands with which `data` begins, as far as their lines are there and time is left."""
        start = 0
        while start < len(data) and data[start] != scan.ARRAY_BYTE and self._may_go_on():
            stop = data.find(b"\n", start, start + scan.MAX_INLINE)
            if stop < 0:
                if len(data) - start >= scan.MAX_INLINE:
                    self._refuse(scan.protocol_error(scan.LONG_LINE, 0))
                    return
                self.inbox.need = len(data) - start + 1
                break
            words = scan.split_inline(data[start:stop])
            if words is None:
                self._refuse(scan.error("ERR Protocol error: unbalanced quotes in request"))
                return
            start = stop + 1
            if words:
                self._dispatcher.execute(self, words)
        if not self.session.closing:
            self.inbox.put_back(data, start, len(data))

    def _may_go_on(self) -> bool:
        """Say whether one more command may be served in this tick."""
        has_room = self.outbox.size < self._limits.pause_bytes
        return has_room and self.state != BLOCKED and not (self.session.closing or self._dispatcher.is_time_over)

    def _refuse(self, reply: bytes) -> None:
        """Reply to a protocol error and close, since nothing after it can be understood."""
        self.outbox.add(reply, 1, 0)
        self.session.closing = True
        self.inbox.clear()

    # ---- replies ----

    def deliver(self, durable: int) -> bool:
        """Write the replies of this tick, or hold them; return whether any reply is held now."""
        outbox = self.outbox
        if outbox.buffers:
            self._server.stats.commands += outbox.count
            self.session.active = self._server.stats.now
            buffers, size = outbox.end_tick(durable)
            if buffers:
                self._write(buffers, size)
        if outbox.held:
            return True
        self.close_if_over()
        self._become_idle()
        return False

    def release(self, durable: int, error: bytes | None) -> bool:
        """Write the held replies that are durable, and `error` in place of the others; return whether any is left."""
        buffers, size = self.outbox.take_durable(durable, error)
        if buffers:
            self._write(buffers, size)
        if self.outbox.held:
            return True
        self.close_if_over()
        self.resume()
        return False

    def push(self, data: bytes) -> None:
        """Write a message between replies. A client that does not read gets the last one only, once it reads again."""
        self._pending_push = data if self._write_paused else b""
        if not (self._write_paused or self.state == CLOSED or self.transport.is_closing()):
            self._write([data], len(data))

    def _write(self, buffers: list, size: int) -> None:
        if self.state == CLOSED:
            return
        self._server.stats.output_bytes += size
        if len(buffers) == 1:
            self.transport.write(buffers[0])
        elif size < JOINED_WRITE_BYTES:
            self.transport.write(b"".join(buffers))
        else:
            self.transport.writelines(buffers)
        if self._limits.is_set:
            self.check_output()

    def check_output(self) -> None:
        """Close the connection if its client has left more unread than `client-output-buffer-limit` allows."""
        if self.state == CLOSED or self.transport.is_closing():
            return
        unread = self.transport.get_write_buffer_size() + self.outbox.held_size
        if (excess := self._watch.excess(self._limits, unread)) is not None:
            log.warning("%s leaves %s of replies unread: closed", self.session.address, excess)
            self._server.stats.output_cut_off += 1
            self.abort()

    def limits_changed(self) -> None:
        """Use the limits of output that CONFIG SET has changed."""
        if self.state != CLOSED:
            self.transport.set_write_buffer_limits(high=self._limits.pause_bytes)

    # ---- the end ----

    @property
    def is_waiting_for_input(self) -> bool:
        """Say whether nothing is under way, and every reply has been sent as far as the client reads."""
        return self.state in (IDLE, SERVED) and not self.outbox.held

    @property
    def _is_served(self) -> bool:
        """Say whether nothing is under way, and the inbox has no whole command."""
        return self.state not in (FAST, QUEUED, BLOCKED) and not self.inbox.has_work

    def close_if_over(self) -> None:
        if self.state != CLOSED and (self.session.closing or (self.is_half_closed and self._is_served)):
            self.transport.close()

    def close(self) -> None:
        """Serve no further command, and close once all replies have been written."""
        self.session.closing = True
        self._leave_idle()
        if not (self.outbox.held or self.state == BLOCKED):
            self.close_if_over()

    def abort(self) -> None:
        """Close at once, without the replies that have not been sent."""
        self.session.closing = True
        self._leave_idle()
        self.inbox.clear()
        self.outbox.discard_tick()
        if self.state != CLOSED:
            self.transport.abort()

    @property
    def _unserved_bytes(self) -> int:
        """Return how many bytes were read and not served."""
        return self.inbox.size + (self._large_command.size if self._large_command is not None else 0)

    def _buffered(self) -> tuple[int, int]:
        """Return how many bytes were read and not served, and how many were written that the client has not taken."""
        return self._unserved_bytes, self.outbox.held_size + self.transport.get_write_buffer_size()

    def _cut_off(self) -> None:
        """Close a connection whose client sends without end and never reads."""
        unserved = self._unserved_bytes
        log.warning("%s does not read its replies and sent %d bytes more: closed", self.session.address, unserved)
        self._server.stats.cut_off += 1
        self.abort()

    def regulate(self) -> None:
        """Read from the socket only while what arrives can be served soon."""
        inbox, large_command = self.inbox, self._large_command
        if self._write_paused:  # a client may send a whole pipeline before it reads: both sides would wait for ever
            wanted = self._unserved_bytes < self._limits.query_bytes
            if not wanted:
                self._cut_off()
        else:
            stopped = self.state == BLOCKED or self.outbox.held_size >= self._limits.pause_bytes
            if large_command is None:
                wanted = not (stopped and inbox.size > INBOX_LIMIT_BYTES)
            else:  # scan the beginning of a command first: the rest belongs into a buffer of its size
                stopped = stopped or self.state == QUEUED
                wanted = not (stopped and inbox.size + large_command.size >= FIRST_BUFFER_BYTES)
        if wanted == self._is_reading or self.state == CLOSED or self.transport.is_closing():
            return
        self._is_reading = wanted
        if wanted:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()


def _address(transport: asyncio.Transport, what: str) -> str:
    """Return a socket's address as host:port, or as the transport gives it."""
    peer = transport.get_extra_info(what)
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer or "")
