"""Servers as processes, and a client that shows replies byte for byte: shared by tests that go over the network."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
READY = "Ready to accept connections"


class Raw:
    """A connection that sends words, or bytes as they are, and returns replies as nested tuples with their type
    bytes."""

    def __init__(self, port: int, timeout: float = 20.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.stream = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def __call__(self, *words: bytes | str | int) -> tuple:
        self.send(request(*words))
        return self.reply()

    def reply(self) -> tuple:
        line = self.stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError(f"closed by the server after {line!r}")
        kind, rest = line[:1].decode(), line[1:-2]
        if kind in "$=" and rest != b"-1":
            body = self.stream.read(int(rest) + 2)
            assert body.endswith(b"\r\n"), body[-20:]
            return kind, body[:-2]
        if kind in "*~>%" and rest != b"-1":
            count = int(rest) * (2 if kind == "%" else 1)
            return kind, tuple(self.reply() for _ in range(count))
        return kind, rest

    def is_closed(self) -> bool:
        """Has the server closed it? Waits for that."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


def encoded(word: bytes | str | int) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()


def request(*words: bytes | str | int) -> bytes:
    parts = [encoded(word) for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


class Served:
    """A `pmkv serve` process; `log` is what it wrote so far."""

    def __init__(
        self,
        *options: str,
        wrapper: tuple[str, ...] = (),
        wait: float = 120.0,
        module: str = "pmkv_server",
        **environment: str,
    ) -> None:
        command = [*wrapper, sys.executable, "-m", module, "serve", "--port", "0", *options]
        folders = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(folders), **environment},
        )
        self.lines: list[str] = []
        self._ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if not self._ready.wait(wait) or READY not in self.log:
            self.kill()
            raise RuntimeError(f"the server did not become ready:\n{self.log}")
        self.port = int(re.search(r"RESP on \S+?:(\d+)", self.log)[1])

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line)
            if READY in line:
                self._ready.set()
        self._ready.set()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def raw(self, **how) -> Raw:
        return Raw(self.port, **how)

    def stop(self, timeout: float = 10.0) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def served(*options: str, **how) -> Iterator[Served]:
    """A server without REST unless the options ask for it; ended with the block."""
    server = Served("--rest-port", "off", *options, **how)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            try:
                server.stop()
            except subprocess.TimeoutExpired:
                server.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port: int, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
