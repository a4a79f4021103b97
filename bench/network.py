"""Commands a second over the network, by redis-benchmark: 50 connections, values of 256 bytes, pipeline 1 and 16.

Then by redis-py: MGETs of many keys, and how long a client waits for a durable SET, alone and while another client
reads without a pause.
"""

from __future__ import annotations

import contextlib
import csv
import multiprocessing
import random
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import redis

from . import servers
from .measure import Comparison, Figure, Run, in_pairs

KEYS = 100_000
PAUSE = 2.0  # seconds: what one test leaves to be done in the background (a checkpoint, an fsync) is not the next one's
FLOOR = 0.8  # unpipelined, and SET with a sync before every reply
READ, SECONDS = 256, 3.0  # keys of an MGET; how long it, and SETs beside it, are measured


def parse(output: str) -> dict[str, float]:
    """Parse the output of redis-benchmark --csv into commands a second by test."""
    rows = csv.DictReader(output[output.index('"test"') :].splitlines())
    return {row["test"]: float(row["rps"]) for row in rows}


def measure(port: int, tests: Sequence[str], pipeline: int, requests: int) -> dict[str, float]:
    program = shutil.which("redis-benchmark")
    if program is None:
        raise servers.BenchError("redis-benchmark is not installed; Debian: redis-tools")
    options = {"p": port, "c": 50, "d": 256, "r": KEYS, "P": pipeline, "n": requests, "t": ",".join(tests)}
    words = [word for key, value in options.items() for word in (f"-{key}", str(value))]
    result = subprocess.run([program, *words, "--csv"], capture_output=True, text=True, timeout=600)
    if result.returncode or '"test"' not in result.stdout:
        raise servers.BenchError(f"redis-benchmark on port {port} failed: {result.stderr or result.stdout}")
    return parse(result.stdout)


def run(port: int, label: str, tests: Sequence[str], sizes: dict[int, int]) -> Run:
    def one_round() -> dict[str, float]:
        measured = {}
        for pipeline, requests in sizes.items():
            for test in tests:
                for name, value in measure(port, [test], pipeline, requests).items():
                    measured[f"{name}, pipeline {pipeline}, {label}"] = value
                time.sleep(PAUSE)
        return measured

    return one_round


def compare(folder: Path, rounds: int, durability: str, appendfsync: str, tests: Sequence[str],
            sizes: dict[int, int], bars: dict[str, float]) -> list[Comparison]:  # fmt: skip
    label = f"{durability} : {appendfsync}"
    with (
        servers.pmkv(folder / f"pmkv-{durability}", "--durability", durability) as ours,
        servers.redis(folder / f"redis-{appendfsync}", appendfsync) as theirs,
    ):
        named = {f"{name}, {label}": bar for name, bar in bars.items()}
        sides = [run(port, label, tests, sizes) for port in (ours, theirs)]
        return in_pairs(*sides, rounds, "commands/s", named)


def mget(client: redis.Redis) -> None:
    client.mget([b"key:%d" % random.randrange(KEYS) for _ in range(READ)])


def read_on(port: int, end: Event) -> None:
    """Read without a pause until the event is set. Runs in its own process."""
    with redis.Redis(port=port) as client:
        while not end.is_set():
            mget(client)


@contextlib.contextmanager
def reading(port: int) -> Iterator[None]:
    """Run a process that reads without a pause."""
    context = multiprocessing.get_context("spawn")
    end = context.Event()
    process = context.Process(target=read_on, args=(port, end))
    process.start()
    time.sleep(1.0)  # until it reads
    try:
        yield
    finally:
        end.set()
        process.join()


def sets(port: int) -> list[float]:
    """Return the milliseconds of each of many SETs, sent one after another."""
    taken = []
    with redis.Redis(port=port) as client:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            start = time.perf_counter()
            client.set("key", bytes(256))
            taken.append((time.perf_counter() - start) * 1e3)
    return taken


def mgets(port: int) -> dict[str, float]:
    """Count MGETs of redis-py, sent one after another."""
    with redis.Redis(port=port) as client:
        count, end = 0, time.monotonic() + SECONDS
        while time.monotonic() < end:
            mget(client)
            count += 1
    return {f"MGET of {READ} keys, one client": count / SECONDS}


def one_client(folder: Path, rounds: int) -> list[Comparison | Figure]:
    """Measure one client of servers that sync before every reply."""
    with servers.pmkv(folder / "pmkv-one") as ours, servers.redis(folder / "redis-one", "always") as theirs:
        for port in (ours, theirs):
            with redis.Redis(port=port) as client:
                client.mset({b"key:%d" % i: bytes(256) for i in range(KEYS)})
        compared = in_pairs(lambda: mgets(ours), lambda: mgets(theirs), rounds, "commands/s", {})
        return [*compared, *sets_beside_a_reader({"pmkv": ours, "redis": theirs}, rounds)]


def sets_beside_a_reader(ports: dict[str, int], rounds: int) -> list[Figure]:
    """Measure durable SETs, alone and beside a reader, on each server in turn."""
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, port in ports.items():
            for beside, reader in ("alone", contextlib.nullcontext()), ("beside a reader", reading(port)):
                with reader:
                    taken = sets(port)
                for part in (50, 99):
                    title = f"durable SET {beside}, {name}: p{part}"
                    found.setdefault(title, []).append(float(np.percentile(taken, part)))
    return [Figure(title, "ms", values) for title, values in sorted(found.items())]


def section(folder: Path, rounds: int) -> list[Comparison | Figure]:
    unpipelined = {"SET, pipeline 1": FLOOR, "GET, pipeline 1": FLOOR}
    always = {"SET, pipeline 1": FLOOR, "SET, pipeline 16": FLOOR}
    return [
        *compare(folder, rounds, "interval", "everysec", ["set", "get"], {1: 200_000, 16: 1_000_000}, unpipelined),
        *compare(folder, rounds, "commit", "always", ["set"], {1: 50_000, 16: 300_000}, always),
        *one_client(folder, rounds),
    ]
