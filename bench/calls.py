"""Count the Python calls of single operations, in all threads: `python -m bench.calls`.

The server runs in the main thread and a plain socket speaks to it from another, so that the calls of the event loop and
of the flush thread are seen. Counted are functions of pmkv and pmkv_server, and resumed generators; the insides of
compiled kernels are not. Each operation is repeated, and the run with the fewest calls is shown: work in the
background can only add some.
"""

from __future__ import annotations

import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import pmkv
from pmkv_server.config import Config
from pmkv_server.server import Server

from .servers import free_port, pong

REPEATS = 21
QUIET_S = 0.02  # after an operation: what other threads still do for it is counted
WARM_UP = 5
SETTLE_S = 1.0  # after opening a store: its background threads prepare segments
FOLDERS = tuple(str(Path(module.__file__).parent) for module in (pmkv, sys.modules["pmkv_server"]))


@dataclass
class Trace:
    """The calls of one operation."""

    calls: list[tuple[int, CodeType]] = field(default_factory=list)  # thread, function

    @property
    def functions(self) -> int:
        return len({code for _, code in self.calls})

    @property
    def files(self) -> int:
        return len({code.co_filename for _, code in self.calls})

    @property
    def moves(self) -> int:
        """How often a call is in another file than the call before it in the same thread."""
        last: dict[int, str] = {}
        count = 0
        for thread, code in self.calls:
            count += last.get(thread, code.co_filename) != code.co_filename
            last[thread] = code.co_filename
        return count


class Tracer:
    """A profile function for all threads started after `install`. It records while `trace` is not None."""

    def __init__(self) -> None:
        self.trace: Trace | None = None

    def install(self) -> None:
        threading.setprofile(self)
        sys.setprofile(self)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        trace = self.trace
        if event == "call" and trace is not None and frame.f_code.co_filename.startswith(FOLDERS):
            trace.calls.append((threading.get_ident(), frame.f_code))

    def fewest(self, operation: Callable[[], object]) -> Trace:
        """Repeat an operation, and return the trace with the fewest calls."""
        for _ in range(WARM_UP):
            operation()
        return min((self._once(operation) for _ in range(REPEATS)), key=lambda trace: len(trace.calls))

    def _once(self, operation: Callable[[], object]) -> Trace:
        time.sleep(QUIET_S)
        self.trace = trace = Trace()
        operation()
        time.sleep(QUIET_S)
        self.trace = None
        return trace


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def over_a_socket(tracer: Tracer, port: int, traces: dict[str, Trace]) -> None:
    """Trace commands that are sent one at a time. Every reply fits one packet."""
    ids, rows = np.arange(2, dtype="<i8").tobytes(), np.ones((2, 64), "<f4").tobytes()
    with socket.create_connection(("127.0.0.1", port)) as connection:

        def ask(*words: bytes) -> None:
            connection.sendall(command(*words))
            reply = connection.recv(1 << 16)
            if reply.startswith(b"-"):
                raise RuntimeError(reply.decode())

        ask(b"TABLE.CREATE", b"items", b"DTYPE", b"f4", b"DIM", b"64")
        ask(b"TABLE.PUT", b"items", ids, rows)
        traces["SET over a socket"] = tracer.fewest(lambda: ask(b"SET", b"key", b"value"))
        traces["SET EX over a socket"] = tracer.fewest(lambda: ask(b"SET", b"key", b"value", b"EX", b"100"))
        traces["GET over a socket"] = tracer.fewest(lambda: ask(b"GET", b"key"))
        traces["TABLE.GET of 2 ids over a socket"] = tracer.fewest(lambda: ask(b"TABLE.GET", b"items", ids))


def served(tracer: Tracer, folder: Path, traces: dict[str, Trace]) -> None:
    """Run a server in this thread until another thread has traced the commands."""
    port = free_port()
    server = Server(Config(data=str(folder / "served"), port=port, rest_port=None, capacity="256MiB"))

    def trace_and_stop() -> None:
        sys.setprofile(None)
        while not pong(port):
            time.sleep(0.01)
        try:
            over_a_socket(tracer, port, traces)
        finally:
            server.stop(checkpoint=False)

    client = threading.Thread(target=trace_and_stop)
    client.start()
    server.serve()
    client.join()


def embedded(tracer: Tracer, folder: Path, traces: dict[str, Trace]) -> None:
    ids, rows = np.arange(2), np.ones((2, 64), "f4")
    with pmkv.open(folder / "embedded", capacity="256MiB") as store:
        items = store.create_table("items", ("f4", 64))
        items.put(ids, rows)
        store.put(b"key", b"value")
        time.sleep(SETTLE_S)
        traces["durable put, embedded"] = tracer.fewest(lambda: store.put(b"key", b"value"))
        traces["get of 2 ids, embedded"] = tracer.fewest(lambda: items.get(ids))
        traces["promote of one table"] = promotes(tracer, store, ids, rows)
        names = iter(range(10**6))

        def snapshot() -> None:
            store.snapshot(f"v{next(names)}")

        traces["snapshot"] = tracer.fewest(snapshot)


def promotes(tracer: Tracer, store: pmkv.Store, ids: np.ndarray, rows: np.ndarray) -> Trace:
    """Trace promotes; each needs a branch with a write, which is not traced."""
    names = [f"b{number}" for number in range(WARM_UP + REPEATS)]
    upcoming = iter(names)

    def prepared(name: str) -> None:
        store.branch(name).table("items").put(ids, rows)

    prepared(names[0])

    def promote() -> None:
        name = next(upcoming)
        store.promote(name)
        trace, tracer.trace = tracer.trace, None
        store.delete_view(name)
        following = names.index(name) + 1
        if following < len(names):
            prepared(names[following])
        time.sleep(QUIET_S)
        tracer.trace = trace

    return tracer.fewest(promote)


def main() -> None:
    tracer, traces = Tracer(), {}
    tracer.install()
    with tempfile.TemporaryDirectory(prefix="pmkv-calls-") as folder:
        served(tracer, Path(folder), traces)
        embedded(tracer, Path(folder), traces)
    sys.setprofile(None)
    table = Table("operation", "calls", "functions", "files", "moves between files", title="Python calls")
    for name, trace in traces.items():
        table.add_row(name, *map(str, (len(trace.calls), trace.functions, trace.files, trace.moves)))
    Console(width=None if sys.stdout.isatty() else 100).print(table)


if __name__ == "__main__":
    main()
