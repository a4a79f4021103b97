"""Commands a second over the network, by redis-benchmark: 50 connections, values of 256 bytes, pipeline 1 and 16."""

from __future__ import annotations

import csv
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from . import servers
from .measure import Comparison, Run, in_pairs

KEYS = 100_000
PAUSE = 2.0  # seconds: what one test leaves to be done in the background (a checkpoint, an fsync) is not the next one's
FLOOR = 0.8  # unpipelined, and SET with a sync before every reply


def parse(output: str) -> dict[str, float]:
    """redis-benchmark --csv: test name -> commands a second."""
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


def section(folder: Path, rounds: int) -> list[Comparison]:
    unpipelined = {"SET, pipeline 1": FLOOR, "GET, pipeline 1": FLOOR}
    always = {"SET, pipeline 1": FLOOR, "SET, pipeline 16": FLOOR}
    return [
        *compare(folder, rounds, "interval", "everysec", ["set", "get"], {1: 200_000, 16: 1_000_000}, unpipelined),
        *compare(folder, rounds, "commit", "always", ["set"], {1: 50_000, 16: 300_000}, always),
    ]
