"""What a schedule is played on: a medium and a store that stop where threads may overtake each other, the loop as an
actor, and clients with both ends of their connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pmkv.media.base import Range
from pmkv.media.simulated import SimulatedMedium
from pmkv.store import Store
from pmkv_server.net.connection import Connection
from tests.crash.asked import Asked
from tests.crash.baton import Baton
from tests.crash.explore import Violation
from tests.engines import eio
from tests.served import request
from tests.unit.server.stand import parsed, receive

if TYPE_CHECKING:
    from tests.crash.schedule import Schedule


class PacedMedium(SimulatedMedium):
    """The flush of a group begins in one step and ends in a later one."""

    inline = False
    refuses_to_prepare = False  # the next time
    pause: Callable[[], object] = staticmethod(lambda: None)

    def prepare(self, start: int, stop: int, fill: bool = True) -> None:
        if self.refuses_to_prepare:
            self.refuses_to_prepare = False
            raise eio()
        super().prepare(start, stop)

    def flush(self, ranges: Sequence[Range], sync: bool = True) -> None:
        self.pause()
        super().flush(ranges, sync)
        self.pause()


class PacedStore(Store):
    """Whoever looks at what is durable may be overtaken at once."""

    pause: Callable[[], object] = staticmethod(lambda: None)

    @property
    def durable_lsn(self) -> int:
        durable = self._log.durable
        self.pause()
        return durable

    @property
    def failed(self) -> Exception | None:
        failed = self._log.failed
        self.pause()
        return failed


class Loop:
    """A queue of callbacks, and one actor that runs them."""

    def __init__(self, baton: Baton) -> None:
        self._baton = baton
        self.callbacks: deque[tuple[Callable, tuple]] = deque()
        self.actor = baton.spawn("loop", self._run)

    def call_soon(self, function: Callable, *arguments: Any) -> None:
        self.callbacks.append((function, arguments))

    call_soon_threadsafe = call_soon

    def create_task(self, work: Any) -> None:
        raise AssertionError("no command of a schedule waits for anything but what is durable")

    def _run(self) -> None:
        while True:
            self._baton.pause(lambda: bool(self.callbacks))
            function, arguments = self.callbacks.popleft()
            function(*arguments)


class Client:
    """Both ends of a connection: what a client sent and waits for, and the transport that the server sees."""

    def __init__(self, world: Schedule, name: str) -> None:
        self.world, self.name = world, name
        self.asked: deque[Asked] = deque()
        self.wire = b""  # sent, not arrived
        self.since = 0  # the moment of its last reply
        self.is_closed = self.is_gone = self.is_ended = self.is_stalled = False
        self.arriving = 0  # portions on their way through the loop
        self._paused = False
        self.reads = True
        self.buffered = self.high = 0
        self.connection = self.protocol = Connection(world.server, world.dispatcher)
        self.connection.connection_made(self)

    # what the transport is asked

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high

    def get_extra_info(self, what: str) -> None:
        return None

    def is_closing(self) -> bool:
        return self.is_closed

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def writelines(self, buffers: Sequence[Any]) -> None:
        self.write(b"".join(buffers))

    def write(self, data: Any) -> None:
        if self.is_gone:
            return
        assert not self.is_closed, "written to after it was closed"
        self.world.replied(self, parsed(bytes(data)))
        if self.is_stalled:
            self.buffered += len(data)
            if self.buffered > self.high and not self._paused:
                self._paused = True
                self.connection.pause_writing()

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.world.loop.call_soon(self.connection.connection_lost, None)

    def abort(self) -> None:
        raise Violation(f"{self.name} was thrown out")

    # what the client does; the loop hears of it in a callback

    def send(self, asked: list[Asked]) -> None:
        self.asked += asked
        self.wire += b"".join(request(*one.words) for one in asked)

    def can_arrive(self) -> bool:
        return bool(self.wire) and self.reads and self.arriving < 2 and not self.is_closed

    def arrive(self, size: int) -> None:
        self.arriving -= 1
        if self.reads and not self.is_closed and self.wire:
            data, self.wire = self.wire[:size], self.wire[size:]
            receive(self.protocol, data)
            if self.is_ended and not self.wire:
                self._end_arrives()

    def end(self) -> None:
        """It sends no more, and waits for its replies; the server hears of it behind the last portion."""
        self.is_ended = True
        if not self.wire:
            self.world.loop.call_soon(self._end_arrives)

    def _end_arrives(self) -> None:
        if not self.is_closed and not self.connection.eof_received():
            self.close()

    def read_on(self) -> None:
        self.is_stalled, self.buffered = False, 0
        if self._paused and not self.is_closed:
            self._paused = False
            self.connection.resume_writing()
