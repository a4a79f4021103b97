"""PING of one client beside the heavy work of another, on pmkv and on redis-server, and the memory of long values.

A PING is due every two milliseconds, whether the one before was answered or not, so a stall of a second counts as 500
late answers. Times are from the moment when a PING was due.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import redis

from . import servers
from .measure import Figure, Ratio

PERIOD_S = 0.002
BAR_MS, WORST_RATIO, RSS_RATIO = 100.0, 1.5, 3.0
VALUE_BYTES = 512 << 20
JSON_ROWS, JSON_WIDTH = 80_000, 64  # some 60 MB
context = multiprocessing.get_context("spawn")


class Client:
    """Speaks RESP2 with as little work as possible: replies are counted and skipped."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb", 1 << 20)

    def __call__(self, *words: object) -> None:
        self.send(request(*words))
        self.skip(1)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def skip(self, replies: int) -> None:
        """Read so many replies. BenchError: one is an error."""
        while replies:
            replies -= 1
            line = self._file.readline()
            if line[:1] == b"*":
                replies += max(0, int(line[1:]))
            elif line[:1] == b"$" and line[1:2] != b"-":
                left = int(line[1:]) + 2
                while left:
                    left -= len(self._file.read(min(left, 1 << 20)))
            elif line[:1] not in b"+:$" or not line:
                raise servers.BenchError(f"the server answered {line!r}")

    def pipeline(self, data: bytes, replies: int) -> None:
        """Send everything in one thread while the replies are read in another."""
        sender = threading.Thread(target=self._socket.sendall, args=(data,))
        sender.start()
        self.skip(replies)
        sender.join()


def request(*words: object) -> bytes:
    """Encode a command as an array of bulk strings."""
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"".join([b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)])


def expired_keys(port: int) -> None:
    client = Client(port)
    client.pipeline(b"".join(request("SET", f"e{i}", "v", "PX", 1) for i in range(300_000)), 300_000)
    time.sleep(0.01)
    client("RANDOMKEY")


def many_keys(port: int) -> None:
    client, keys = Client(port), [b"m%d" % i for i in range(1_000_000)]
    client("MSET", *(word for key in keys for word in (key, b"v")))
    client("SCAN", 0, "COUNT", 10_000_000)
    client("DEL", *keys)


def long_values(port: int) -> None:
    client = Client(port)
    client("SET", "eight", bytes(8 << 20))
    client.pipeline(request("GET", "eight") * 500, 500)
    client("DEL", "eight")


def longest_value(port: int) -> None:
    client = Client(port)
    client("SET", "longest", bytes(VALUE_BYTES))
    client("GET", "longest")
    client("DEL", "longest")


def increments(port: int) -> None:
    Client(port).pipeline(request("INCR", "counter") * 100_000, 100_000)


def transaction(port: int) -> None:
    commands = b"".join(request("SET", f"t{i}", "v") for i in range(100_000))
    Client(port).pipeline(request("MULTI") + commands + request("EXEC"), 100_002)


def long_json(port: int) -> None:
    """Put and get rows over REST. Redis has nothing of the kind."""
    Client(port)("TABLE.CREATE", "json", "DTYPE", "f4", "DIM", JSON_WIDTH)
    ids = list(range(JSON_ROWS))
    row = [0.12345678] * JSON_WIDTH
    for path, body in ("put", {"ids": ids, "rows": [row] * JSON_ROWS}), ("get", {"ids": ids}):
        url = f"http://127.0.0.1:{REST_PORTS[port]}/v1/tables/json/rows:{path}"
        with urlopen(Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})) as reply:
            reply.read()


WORKS: dict[str, Callable[[int], None]] = {
    "300,000 expired keys, then RANDOMKEY": expired_keys,
    "MSET of a million keys, SCAN COUNT 10,000,000, DEL of all": many_keys,
    "500 pipelined GETs of 8 MiB": long_values,
    "SET and GET of 512 MiB": longest_value,
    "100,000 pipelined INCRs": increments,
    "EXEC of 100,000 SETs": transaction,
}
ONLY_PMKV = {"60 MB of JSON, put and got": long_json}
REST_PORTS: dict[int, int] = {}


def ping(port: int, control: Connection) -> None:
    """Send PINGs until told to stop; send back how long each took. Runs in a process of its own."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due: list[float] = []
        taken, answered, asked = [], 0, b"*1\r\n$4\r\nPING\r\n"
        control.send(None)
        following = time.perf_counter()
        while not control.poll() or len(due) * 7 > answered:
            now = time.perf_counter()
            if now >= following and not control.poll():
                client.sendall(asked)
                due.append(following)
                following += PERIOD_S
            if select.select([client], [], [], max(0.0, following - time.perf_counter()))[0]:
                answered += len(client.recv(1 << 16))
                now = time.perf_counter()
                taken += [now - at for at in due[len(taken) : answered // 7]]
    control.send(taken)


def work(name: str, port: int, rest_port: int) -> None:
    """Do one of the works. Runs in a process of its own."""
    REST_PORTS[port] = rest_port
    (WORKS | ONLY_PMKV)[name](port)


def beside(name: str, port: int, rest_port: int = 0) -> np.ndarray:
    """Return the milliseconds that each PING took while the work was done."""
    here, there = context.Pipe()
    pinger = context.Process(target=ping, args=(port, there))
    pinger.start()
    here.recv()
    worker = context.Process(target=work, args=(name, port, rest_port))
    worker.start()
    worker.join()
    here.send(None)
    taken = here.recv()
    pinger.join()
    if worker.exitcode:
        raise servers.BenchError(f"{name}: the client failed, see above")
    return np.array(taken) * 1e3


def rest_port_of(folder: Path) -> int:
    """Return the port of REST that a server has told its log."""
    found = re.search(r"REST on \S+?:(\d+)", (folder / "output.txt").read_text())
    if found is None:
        raise servers.BenchError("the server did not say on which port REST is")
    return int(found[1])


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process had, pages of files included."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) << 10


def resident_bytes(pid: int) -> int:
    """Return the memory that a process has now, pages of files included."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) << 10


def memory_of_a_long_value(folder: Path) -> float:
    """Return how many times its bytes a server needs for a value of 512 MiB that is set and read."""
    with pmkv(folder) as port:
        with redis.Redis(port=port) as client:
            pid = client.info("server")["process_id"]
        before = resident_bytes(pid)
        worker = context.Process(target=work, args=("SET and GET of 512 MiB", port, 0))
        worker.start()
        worker.join()
        return (peak_bytes(pid) - before) / VALUE_BYTES


@contextlib.contextmanager
def pmkv(folder: Path) -> Iterator[int]:
    with servers.pmkv(folder, "--durability", "interval", "--capacity", "8GiB") as port:
        yield port


@dataclass
class Found:
    """The 99th percentile and the worst of each round, in ms."""

    p99: list[float]
    worst: list[float]

    def add(self, taken: np.ndarray) -> None:
        self.p99.append(float(np.percentile(taken, 99)))
        self.worst.append(float(taken.max()))


def section(folder: Path, rounds: int) -> list[Figure]:
    found: dict[tuple[str, str], Found] = {}
    with pmkv(folder / "pmkv") as ours, servers.redis(folder / "redis", "everysec") as theirs:
        rest_port = rest_port_of(folder / "pmkv")
        for _ in range(rounds):
            for name in (*WORKS, *ONLY_PMKV):
                for side, port in ("pmkv", ours), ("redis", theirs):
                    if side == "pmkv" or name in WORKS:
                        found.setdefault((name, side), Found([], [])).add(beside(name, port, rest_port))
    figures: list[Figure] = []
    for (name, side), one in found.items():
        bar = BAR_MS if side == "pmkv" else None
        figures.append(Figure(f"PING beside {name}, {side}: p99", "ms", one.p99, bar))
        figures.append(Figure(f"PING beside {name}, {side}: worst", "ms", one.worst))
        if side == "redis":
            ratios = [our / their for our, their in zip(found[name, "pmkv"].worst, one.worst, strict=True)]
            figures.append(Ratio(f"PING beside {name}: worst, pmkv / redis", "ratio", ratios, WORST_RATIO))
    figures.append(
        Figure("memory for SET and GET of 512 MiB", "values", [memory_of_a_long_value(folder / "m")], RSS_RATIO)
    )
    return figures
