"""A server without sockets for the tests here: a client that calls commands, and a transport that only records."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from typing import Any

from pmkv_server.commands import admit
from pmkv_server.commands.execution import run
from pmkv_server.commands.registry import Command
from pmkv_server.config import Config
from pmkv_server.dispatch.tick import Dispatcher
from pmkv_server.net.session import Session
from pmkv_server.resp.scan import chunks
from pmkv_server.server import Server
from tests.served import Raw, encoded, request


def words_of(line: str) -> list[bytes]:
    """Split at spaces; `""` is an empty word, a backslash begins an escape, as in Python."""
    return [b"" if word == '""' else word.encode().decode("unicode_escape").encode("latin-1") for word in line.split()]


def parsed(data: bytes) -> list[tuple]:
    """All replies in these bytes; what is no whole reply is an error."""
    raw = Raw.__new__(Raw)
    raw.stream = io.BytesIO(data)
    replies = []
    while raw.stream.tell() < len(data):
        replies.append(raw.reply())
    return replies


def shown(reply: tuple) -> str:
    """A reply as a person would write it down: OK, :1, "b", nil, [..], {..} and -ERR ..."""
    kind, value = reply
    if value == b"-1" and kind in "$*":
        return "nil"
    if isinstance(value, tuple):
        inner = ", ".join(map(shown, value))
        return {"*": "[%s]", "%": "{%s}", "~": "<%s>", ">": "push %s"}[kind] % inner
    text = value.decode("latin-1")
    match kind:
        case "+":
            return text
        case "$":
            return '"' + text.encode("unicode_escape").decode() + '"'
        case "_":
            return "null"
    return kind + text


class Stub(Server):
    """A server that listens nowhere; `stopped` says whether somebody wanted its end."""

    def __init__(self, store: Any, **settings: Any) -> None:
        super().__init__(Config(rest_port=None, **settings), store)
        self.stopped = False

    def stop(self, checkpoint: bool = True) -> None:
        self.stopped, self.checkpoint_at_end = True, checkpoint


class Client:
    """A session whose commands run at once, on the caller's thread."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.session = Session(server, "127.0.0.1:50000", "127.0.0.1:7379")
        self.session.fd = 7
        server.sessions[self.session.id] = self.session

    def __call__(self, *words: bytes | str | int) -> tuple:
        arguments = [encoded(word) for word in words]
        entry = admit(self.session, arguments)
        reply = run(self.session, entry, arguments) if isinstance(entry, Command) else entry
        (found,) = parsed(b"".join(bytes(part) for part in chunks(reply)))
        return found

    def says(self, line: str) -> str:
        return shown(self(*words_of(line)))

    def follows(self, script: str) -> None:
        """Play lines `command => reply`; all differences at once."""
        lines = [line.strip().split(" => ") for line in script.strip().splitlines() if line.strip()]
        found = [(command, wanted, self.says(command)) for command, wanted in lines]
        different = [f"{command}: wanted {wanted}, got {got}" for command, wanted, got in found if wanted != got]
        assert not different, "\n".join(different)


class Gate:
    """Makes a store in memory flush like a disk: groups wait while the gate is shut, and fail once it is broken."""

    def __init__(self, store: Any) -> None:
        self._open, self._broken = threading.Event(), False
        self._open.set()
        medium = store._engine.pool.medium
        medium.inline = False
        medium.flush = self._flush

    def _flush(self, ranges: Any, sync: bool = True) -> None:
        assert self._open.wait(20), "the test never opened the gate"
        if self._broken:
            raise OSError(5, "Input/output error")

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def break_(self) -> None:
        self._broken = True
        self._open.set()


def receive(protocol: Any, data: bytes) -> None:
    """As a transport that has received this hands it on."""
    if not isinstance(protocol, asyncio.BufferedProtocol):
        protocol.data_received(data)
        return
    while data:
        room = protocol.get_buffer(-1)
        count = min(len(room), len(data))
        room[:count] = data[:count]
        data = data[count:]
        protocol.buffer_updated(count)


class Recorder(asyncio.Transport):
    """A transport that keeps what is written. With `slow` the client does not read: all of it counts as buffered."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 50001), "sockname": ("127.0.0.1", 7379)})
        self.sent = bytearray()
        self.closed = self.aborted = False
        self.reading = True
        self.protocol: Any = None
        self.high = 0
        self.slow = self.paused = False
        self.buffered = 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high or 0

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def write(self, data: Any) -> None:
        assert not self.closed, "written to after it was closed"
        self.sent += data
        if self.slow:
            self.buffered += len(data)
            if self.buffered > self.high and not self.paused:
                self.paused = True
                self.protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def drain(self) -> None:
        """The client read everything."""
        self.buffered, self.paused = 0, False
        self.protocol.resume_writing()

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()


class Wire:
    """A connection of a server over a `Recorder`."""

    def __init__(self, server: Server, connection: Any) -> None:
        self.transport = Recorder()
        self.connection = self.transport.protocol = connection
        self.server = server
        connection.connection_made(self.transport)

    def send(self, data: bytes) -> None:
        receive(self.transport.protocol, data)

    def ask(self, *lines: str) -> None:
        """Send commands in one piece."""
        self.send(b"".join(request(*words_of(line)) for line in lines))

    def replies(self) -> list[str]:
        """What arrived since the last look, each as `shown`."""
        data, self.transport.sent = bytes(self.transport.sent), bytearray()
        return [shown(reply) for reply in parsed(data)]

    async def answers(self, *lines: str) -> list[str]:
        """Send commands in one piece; their replies."""
        self.ask(*lines)
        found: list[str] = []

        def complete() -> bool:
            found.extend(self.replies())
            return len(found) >= len(lines) or self.transport.closed

        await until(complete)
        return found


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Let the loop go on until this is true."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


async def settled() -> None:
    """Let everything happen that is ready to."""
    for _ in range(8):
        await asyncio.sleep(0)


def dispatching(server: Server, executor: Any) -> Dispatcher:
    """Give a server its dispatcher, on the running loop."""
    server.loop = asyncio.get_running_loop()
    server._stopping = asyncio.Event()
    server.version_events.attach(server.store, server.loop, server.durable)
    server.dispatcher = Dispatcher(server, server.loop, executor)
    return server.dispatcher
