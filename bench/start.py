"""Time to the first PONG: cold (`make serve` in a fresh copy of the sources, installing and compiling) and warm."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import numpy as np

import pmkv_client

from . import servers
from .measure import Figure

ROOT = Path(__file__).parent.parent
COLD, WARM = 60.0, 1.0
ROWS = 200_000


def copy_of_sources(target: Path) -> Path:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def seconds_to_pong(command: list[str], port: int, folder: Path, cwd: Path | None = None) -> float:
    begin = time.perf_counter()
    process = servers.start(command, port, folder, cwd)
    taken = time.perf_counter() - begin
    servers.stop(process)
    return taken


def fill(port: int) -> None:
    with pmkv_client.connect(f"pmkv://127.0.0.1:{port}") as client:
        table = client.create_table("rows", dtype=("f4", 64))
        for ids in np.array_split(np.arange(ROWS), ROWS // 4_096):
            table.put(ids, np.ones((len(ids), 64), "f4"))


def make_serve(sources: Path, data: Path, rounds: int) -> tuple[float, list[float]]:
    port = servers.free_port()
    command = ["make", "serve", f"ARGS=--port {port} --rest-port 0 --data {data}"]
    cold = seconds_to_pong(command, port, data.parent, sources)
    return cold, [seconds_to_pong(command, port, data.parent, sources) for _ in range(rounds)]


def section(folder: Path, rounds: int) -> list[Figure]:
    cold, warm = make_serve(copy_of_sources(folder / "sources"), folder / "new" / "data", rounds)
    with servers.pmkv(folder / "full") as port:
        fill(port)
    port = servers.free_port()
    full = [seconds_to_pong(servers.pmkv_command(folder / "full", port), port, folder / "full") for _ in range(rounds)]
    return [
        Figure("cold `make serve`, environment and kernels included", "s", [cold], COLD),
        Figure("warm `make serve`, empty store", "s", warm, WARM),
        Figure(f"warm `pmkv serve`, {ROWS:,} rows of 256 B in the log", "s", full),
    ]
