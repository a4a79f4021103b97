"""Rows a second that a file is imported with, against puts of the same rows from memory: a million rows of 64 f4; the
seconds that takes, and the memory of `pmkv import`.

Files are read from the page cache. Each import creates a table, and verifies nothing but its own checksum.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import pmkv_client
from pmkv_client.loaders import import_files

from . import servers
from .measure import Comparison, Figure, Ratio, Run, in_pairs

ROWS, BATCH = 1_000_000, 16_384
SECONDS = {".npy": 0.5, ".safetensors": 0.5, ".parquet": 1.0}  # at most, or twice what the disk takes to write a .npy
MOST_MEMORY = 200  # MiB
WATCHED = """
import sys
from pmkv_server.cli import main
try:
    main()
finally:
    sys.stderr.write(open("/proc/self/status").read())  # what `wait4` says is that of the process that forked, too
"""


def write_file(path: Path, rows: np.ndarray) -> None:
    """Write rows, with a column of ids where the format has columns. BenchError: a package is missing."""
    if path.suffix == ".npy":
        np.save(path, rows)
        return
    try:
        if path.suffix == ".safetensors":
            from safetensors.numpy import save_file

            save_file({"rows": rows}, path)
        else:
            import pyarrow as pa
            import pyarrow.parquet

            lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
            table = pa.table({"id": pa.array(np.arange(len(rows))), "row": lists})
            pyarrow.parquet.write_table(table, path, compression="none", use_dictionary=False)
    except ImportError as error:
        raise servers.BenchError(f"{error}: `make ml` installs it") from None


def rows_a_second(name: str, work: Callable[[], object], after: Callable[[], object]) -> Run:
    def one_round() -> dict[str, float]:
        start = time.perf_counter()
        work()
        seconds = time.perf_counter() - start
        after()
        return {name: ROWS / seconds}

    return one_round


def put_all(client: pmkv_client.Client, rows: np.ndarray) -> None:
    """Put the rows into a new table, in pieces as an import does."""
    table = client.create_table("t", ("f4", rows.shape[1]))
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        table.put(np.arange(start, start + len(some)), some)


def seconds_of_disk(path: Path, content: bytes) -> float:
    """Return what writing so many bytes takes."""
    begin = time.perf_counter()
    with path.open("wb") as file:
        file.write(content)
        os.fsync(file.fileno())
    return time.perf_counter() - begin


def peak_memory(path: Path, port: int) -> float:
    """Import a file by the command, and return the MiB that its process took at most."""
    command = [sys.executable, "-c", WATCHED, "import", str(path), "--table", "t", "--port", str(port)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise servers.BenchError(f"the import of {path.name} ended with {done.returncode}: {done.stderr[-500:]}")
    return int(done.stderr.rpartition("VmHWM:")[2].split()[0]) / 1024


def section(folder: Path, rounds: int) -> list[Comparison | Figure]:
    rows = np.random.default_rng(1).standard_normal((ROWS, 64), dtype="f4")
    compared: list[Comparison] = []
    figures: list[Figure] = []
    disk = [seconds_of_disk(folder / "disk", rows.tobytes()) for _ in range(rounds)]
    figures.append(Figure("writing and syncing the same bytes", "s", disk))
    with (
        servers.pmkv(folder / "data", "--durability", "interval", "--capacity", "16GiB") as port,
        pmkv_client.connect(f"pmkv://127.0.0.1:{port}") as client,
    ):
        for suffix, bar in SECONDS.items():
            path = folder / f"rows{suffix}"
            write_file(path, rows)

            def load(path: Path = path) -> None:
                import_files(client, "t", [path])

            def drop() -> None:
                client.drop_table("t")

            name = f"import of a {suffix} file"
            ours = rows_a_second(name, load, drop)
            (found,) = in_pairs(ours, rows_a_second(name, lambda: put_all(client, rows), drop), rounds, "rows/s", {})
            found.sides = ("import", "puts")
            compared.append(found)
            limit = bar if suffix == ".parquet" else max(bar, 2 * sorted(disk)[len(disk) // 2])
            figures.append(Ratio(f"{name}, a million rows", "s", [ROWS / rate for rate in found.ours], limit))
            figures.append(Figure(f"{name}, memory", "MiB", [peak_memory(path, port)], MOST_MEMORY))
            drop()
    return [*compared, *figures]
