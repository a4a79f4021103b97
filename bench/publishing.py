"""`publish` of a file of rows, durable and with every row verified, beside writing and reading that file on the same
disk; and the start of a store of that size, to its first rows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import pmkv_client
from pmkv_client.publishing import Plan, publish

from . import servers
from .measure import Figure, Ratio

DIM, PIECE = 64, 1 << 20  # floats of a row, rows written at a time
BAR, START_BAR = 1.5, 0.35  # times writing and reading; seconds
FIRST_ROWS = """
import sys, time
begin = time.perf_counter()
import numpy as np
import pmkv
with pmkv.open(sys.argv[1], durability="interval") as store:
    table = store.table("t")
    found = table.get(np.random.default_rng(1).integers(0, len(table), 2048))
    print(time.perf_counter() - begin, found[:, 0].all())
    store.close()
"""


def write_and_read(path: Path, rows: int) -> float:
    """Write a .npy file of rows, sync it, read it from the disk; return the seconds that took. The rows of one batch
    are made once, which costs no time here."""
    noise = np.random.default_rng(1).standard_normal((PIECE, DIM), dtype="f4")
    begin = time.perf_counter()
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (rows, DIM)})
        for start in range(0, rows, PIECE):
            noise[:, 0] = np.arange(start + 1, start + 1 + PIECE)
            file.write(noise[: rows - start].data)
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(8 << 20)
        while file.readinto(buffer):
            pass
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return time.perf_counter() - begin


def first_rows(data: Path) -> float:
    """Return the seconds from `import pmkv` to 2,048 rows, in a new process."""
    words = subprocess.run([sys.executable, "-c", FIRST_ROWS, str(data)], capture_output=True, text=True)
    if words.returncode or not words.stdout.endswith("True\n"):
        raise servers.BenchError(f"the store did not open: {words.stderr[-500:]}")
    return float(words.stdout.split()[0])


def section(folder: Path, rounds: int, size: int = 1 << 30) -> list[Figure]:
    """size: bytes of rows."""
    path, rows = folder / "rows.npy", size // (4 * DIM)
    seconds, ratios, parts = [], [], []
    with (
        servers.pmkv(folder, "--capacity", f"{4 * size + (2 << 30)}") as port,
        pmkv_client.connect(f"pmkv://127.0.0.1:{port}") as client,
    ):
        for _ in range(rounds):
            disk = write_and_read(path, rows)
            done = publish(client, Plan("t", [path], verified=None))
            if (done.rows, done.verified) != (rows, rows):
                raise servers.BenchError(f"{done} is not {rows:,} rows, all verified")
            seconds.append(done.seconds)
            parts.append(disk)
            ratios.append(done.seconds / disk)
            os.truncate(path, 0)
    started = [first_rows(folder / "data") for _ in range(rounds)]
    gib = f"{size / (1 << 30):g} GiB"
    return [
        Figure(f"publish of {gib}, every row verified", "s", seconds),
        Figure(f"writing and reading a file of {gib}", "s", parts),
        Ratio("publish, over writing and reading", "times", ratios, BAR),
        Ratio(f"start to the first rows of a table of {gib}", "s", started, START_BAR),
    ]
