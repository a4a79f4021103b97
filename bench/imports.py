"""Rows a second that a file is imported with, against puts of the same rows from memory: 500,000 rows of 64 f4.

Files are read from the page cache. Each import creates a table, and verifies nothing but its own checksum.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import pmkv_client
from pmkv_client.loaders import import_files

from . import servers
from .measure import Comparison, Run, in_pairs

ROWS, BATCH = 500_000, 16_384
FORMATS = (".npy", ".safetensors", ".parquet")


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


def section(folder: Path, rounds: int) -> list[Comparison]:
    rows = np.random.default_rng(1).standard_normal((ROWS, 64), dtype="f4")
    found: list[Comparison] = []
    with (
        servers.pmkv(folder / "data", "--durability", "interval", "--capacity", "16GiB") as port,
        pmkv_client.connect(f"pmkv://127.0.0.1:{port}") as client,
    ):
        for suffix in FORMATS:
            path = folder / f"rows{suffix}"
            write_file(path, rows)

            def load(path: Path = path) -> None:
                import_files(client, "t", [path])

            def drop() -> None:
                client.drop_table("t")

            name = f"import of a {suffix} file"
            ours = rows_a_second(name, load, drop)
            theirs = rows_a_second(name, lambda: put_all(client, rows), drop)
            found += in_pairs(ours, theirs, rounds, "rows/s", {})
    for one in found:
        one.sides = ("import", "puts")
    return found
