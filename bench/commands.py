"""Commands a second of commands that are served in waves, beside redis-server: 50 connections, pipelines of 1, 16, 64.

By redis-benchmark, a command at a time; then a mixed load of a feature store by a client here, which is as slow for one
side as for the other, so that its ratios are nearer to one than they should be.
"""

from __future__ import annotations

import random
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from . import servers
from .measure import Comparison, Run, in_pairs
from .network import KEYS, parse

CONNECTIONS = 50
KEY, VALUE, OTHER = "key:__rand_int__", "x" * 64, "n:__rand_int__"
COMMANDS = {
    "PING": "PING", "GET": f"GET {KEY}", "SET": f"SET {KEY} {VALUE}", "SET EX": f"SET {KEY} {VALUE} EX 1000",
    "SET NX": f"SET {KEY} {VALUE} NX", "SETEX": f"SETEX {KEY} 1000 {VALUE}", "SETNX": f"SETNX {KEY} {VALUE}",
    "GETSET": f"GETSET {KEY} {VALUE}", "GETEX": f"GETEX {KEY} EX 1000", "GETDEL": f"GETDEL {OTHER}",
    "MGET of 4": f"MGET {KEY} {KEY} {KEY} {KEY}",
    "MSET of 4": f"MSET {f'{KEY} {VALUE} ' * 4}",
    "APPEND": f"APPEND {OTHER} x", "STRLEN": f"STRLEN {KEY}", "GETRANGE": f"GETRANGE {KEY} 3 20",
    "SETRANGE": f"SETRANGE {KEY} 3 abc",
    "INCR": "INCR c:__rand_int__", "DEL": f"DEL {OTHER}", "EXISTS": f"EXISTS {KEY}", "TYPE": f"TYPE {KEY}",
    "EXPIRE": f"EXPIRE {KEY} 1000", "TTL": f"TTL {KEY}", "PERSIST": f"PERSIST {KEY}",
}  # fmt: skip
SIZES = {1: 30_000, 16: 150_000, 64: 250_000}  # commands by pipeline
BARS = {1: 0.7, 16: 0.5, 64: 0.6}
MIXED_BARS = {1: 0.7, 16: 0.6}
DURABLE = {"SET": {1: 1.0, 16: 1.2}, "SET EX": {1: 1.0, 16: 1.2}}  # bars of `commit` beside `always`
MIXED_SECONDS = 2.0


def measure(port: int, command: str, pipeline: int, requests: int) -> float:
    """Return commands a second by redis-benchmark."""
    program = shutil.which("redis-benchmark")
    if program is None:
        raise servers.BenchError("redis-benchmark is not installed; Debian: redis-tools")
    options = {"p": port, "c": CONNECTIONS, "r": KEYS, "P": pipeline, "n": requests}
    words = [word for key, value in options.items() for word in (f"-{key}", str(value))]
    called = [program, *words, "--csv", *command.split()]
    result = subprocess.run(called, capture_output=True, text=True, timeout=600)
    if result.returncode or '"test"' not in result.stdout:
        raise servers.BenchError(f"redis-benchmark on port {port} failed: {result.stderr or result.stdout}")
    return next(iter(parse(result.stdout).values()))


def named(name: str, pipeline: int, label: str) -> str:
    return f"{name}, pipeline {pipeline}, {label}"


def one_by_one(port: int, label: str, wanted: dict[str, list[int]]) -> Run:
    """Return a round: each command with each of its pipelines."""

    def one_round() -> dict[str, float]:
        return {
            named(name, pipeline, label): measure(port, COMMANDS[name], pipeline, SIZES[pipeline])
            for name, pipelines in wanted.items()
            for pipeline in pipelines
        }

    return one_round


def words(*some: str) -> bytes:
    return b"*%d\r\n" % len(some) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in some)


def mixed_commands(rng: random.Random) -> Iterator[bytes]:
    """Half GETs, a fifth SETs with EX, a tenth each MGETs of ten and INCRs, the rest DELs and EXPIREs."""

    def key(prefix: str = "key") -> str:
        return f"{prefix}:{rng.randrange(KEYS):012}"

    drawn: list[Callable[[], bytes]] = (
        [lambda: words("GET", key())] * 10
        + [lambda: words("SET", key(), VALUE, "EX", "1000")] * 4
        + [lambda: words("MGET", *(key() for _ in range(10)))] * 2
        + [lambda: words("INCR", key("c"))] * 2
        + [lambda: words("DEL", key()), lambda: words("EXPIRE", key(), "1000")]
    )
    while True:
        yield rng.choice(drawn)()


def mixed(port: int, pipeline: int, seconds: float) -> float:
    """Return commands a second of a mixed load."""
    import hiredis

    commands, prepared = mixed_commands(random.Random(1)), []
    for _ in range(400):
        prepared.append(b"".join(next(commands) for _ in range(pipeline)))
    done, chosen = 0, random.Random(2)
    with selectors.DefaultSelector() as selector:
        for _ in range(CONNECTIONS):
            one = socket.create_connection(("127.0.0.1", port))
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(one, selectors.EVENT_READ, [hiredis.Reader(), 0])
            one.sendall(chosen.choice(prepared))
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            for ready, _ in selector.select(1):
                reader, state = ready.data[0], ready.data
                reader.feed(ready.fileobj.recv(1 << 18))
                while reader.gets() is not False:
                    state[1] += 1
                if state[1] == pipeline:
                    done, state[1] = done + pipeline, 0
                    ready.fileobj.sendall(chosen.choice(prepared))
        taken = time.perf_counter() - start
        for key in list(selector.get_map().values()):
            key.fileobj.close()
    return done / taken


def mixed_loads(port: int, label: str) -> Run:
    return lambda: {named("mixed load", p, label): mixed(port, p, MIXED_SECONDS) for p in MIXED_BARS}


def fill(*ports: int) -> None:
    for port in ports:
        measure(port, COMMANDS["SET"], 16, 2 * KEYS)


def section(folder: Path, rounds: int) -> list[Comparison]:
    """Measure all commands with `interval` beside `everysec`, and durable ones with `commit` beside `always`."""
    found: list[Comparison] = []
    for durability, appendfsync, wanted in (
        ("interval", "everysec", dict.fromkeys(COMMANDS, BARS)),
        ("commit", "always", DURABLE),
    ):
        label = f"{durability} : {appendfsync}"
        bars = {named(name, p, label): bar for name, some in wanted.items() for p, bar in some.items()}
        with (
            servers.pmkv(folder / f"pmkv-{durability}", "--durability", durability) as ours,
            servers.redis(folder / f"redis-{appendfsync}", appendfsync) as theirs,
        ):
            fill(ours, theirs)
            pipelines = {name: list(some) for name, some in wanted.items()}
            sides = [one_by_one(port, label, pipelines) for port in (ours, theirs)]
            found += in_pairs(*sides, rounds, "commands/s", bars)
            if durability == "interval":
                bars = {named("mixed load", p, label): bar for p, bar in MIXED_BARS.items()}
                found += in_pairs(*(mixed_loads(p, label) for p in (ours, theirs)), rounds, "commands/s", bars)
    chart(folder.parent / "commands.png", found)
    return found


def chart(path: Path, found: list[Comparison]) -> None:
    """Draw the ratios of all commands by pipeline; without matplotlib say that there is no chart."""
    try:
        from matplotlib.figure import Figure as Drawing
    except ImportError:
        print("no chart: matplotlib is not installed (pip install pmkv[bench])")
        return
    ratios = {tuple(one.name.split(", ")): one.ratio.median for one in found if "interval" in one.name}
    names = list(dict.fromkeys(name for name, _, _ in ratios))
    drawing = Drawing(figsize=(9, 7))
    axes = drawing.subplots()
    for i, pipeline in enumerate(SIZES):
        some = [(names.index(name), ratio) for (name, p, _), ratio in ratios.items() if p == f"pipeline {pipeline}"]
        axes.barh(
            [y + 0.27 * (i - 1) for y, _ in some], [ratio for _, ratio in some], 0.25, label=f"pipeline {pipeline}"
        )
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="commands a second, over redis-server's")
    axes.legend()
    drawing.tight_layout()
    drawing.savefig(path, dpi=120)
    print(f"chart: {path}")
