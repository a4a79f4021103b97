"""The sides of the comparison of tables larger than DRAM: how each keeps 26 tables, and looks a batch of ids up.

All but `swap` and `DRAM` read files that `load` writes. A side is a context manager that yields the function that looks
ids up, int64[TABLES, BATCH], and returns their rows as a tensor, [TABLES, BATCH, WIDTH].
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

import pmkv
import pmkv_client

from . import servers
from .dlrm import NAMES, ROW_BYTES, TABLES, WIDTH, rows_of

LOAD_ROWS = 1 << 14  # that are written at once
PMKV, SERVED, RANDOM, READAHEAD, LMDB, ROCKSDB, SWAP, DRAM = SIDES = (
    "pmkv", "pmkv served", "memory map, MADV_RANDOM", "memory map, readahead", "LMDB", "RocksDB", "swap", "all in DRAM",
)  # fmt: skip
KEY = struct.Struct(">q")  # of a row in LMDB and RocksDB: its number
ROCKS_CACHE_SHARE = 4  # RocksDB is given one part in so many of the limit as its block cache, as it recommends
SERVE = "import sys; from bench.larger_sides import serve; serve(sys.argv.pop(1))"
Lookup = Callable[[np.ndarray], Any]


def warm() -> None:
    """Load the kernels that reads need, as they are no data."""
    with pmkv.open(pool=":memory:", capacity=1 << 26) as store:
        store.create_table("warm", ("f4", WIDTH)).put(np.arange(9), np.zeros((9, WIDTH)))
        store.gather({"warm": np.arange(9)})


def serve(group: str) -> None:
    """Run the command line of pmkv, which `sys.argv` has, in a group with a memory limit, if one is given."""
    import pmkv_server.server  # noqa: F401
    from pmkv_server import cli

    warm()
    if group:
        Path(group).write_text(f"{os.getpid()}\n")
    cli.main()


def has_rocksdb() -> bool:
    """Return whether the package `rocksdict` is installed."""
    try:
        import rocksdict  # noqa: F401
    except ImportError:
        return False
    return True


def load(folder: Path, rows: int) -> None:
    """Write tables of so many rows for all sides that read files."""
    plain = np.memmap(folder / "rows", "f4", "w+", shape=(TABLES * rows, WIDTH))
    tree = lmdb.open(
        str(folder / "lmdb"), map_size=TABLES * rows * ROW_BYTES * 4 + (1 << 26), sync=False, writemap=True
    )
    with contextlib.ExitStack() as stack:
        stack.callback(tree.close)
        capacity = TABLES * rows * ROW_BYTES * 5 + (1 << 28)
        store = stack.enter_context(pmkv.open(folder / "pmkv", capacity=capacity, durability="interval"))
        rocks = _open_rocksdb(folder, None) if has_rocksdb() else None
        tables = [store.create_table(name, ("f4", WIDTH), rows=rows) for name in NAMES]
        for number, table in enumerate(tables):
            for first in range(0, rows, LOAD_ROWS):
                ids = np.arange(first, min(first + LOAD_ROWS, rows))
                numbers = number * rows + ids
                values = rows_of(numbers)
                plain[numbers] = values
                table.put(ids, values)
                pairs = [(KEY.pack(at), row.tobytes()) for at, row in zip(numbers.tolist(), values)]
                with tree.begin(write=True) as transaction:
                    transaction.cursor().putmulti(pairs, append=True)
                for key, value in pairs if rocks is not None else ():
                    rocks[key] = value
        store.checkpoint()
        tree.sync(True)
        if rocks is not None:
            rocks.flush()
            rocks.compact_range(None, None)
            rocks.close()
    plain.flush()


def forget(folder: Path) -> None:
    """Take all files below a folder out of the page cache: pages that others read would be free hits. pmkv forgets
    which rows were hot, too."""
    (folder / "pmkv" / "row_ids").unlink(missing_ok=True)
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def open_side(side: str, torch: Any, folder: Path, rows: int, limit: int, group: Path | None) -> Iterator[Lookup]:
    """Yield the function of one side. group: where its server, if it has one, joins a group with a memory limit."""
    sides: dict[str, Callable[[], contextlib.AbstractContextManager[Callable[[np.ndarray], np.ndarray]]]] = {
        PMKV: lambda: _embedded(folder, limit),
        SERVED: lambda: _served(folder, limit, group),
        LMDB: lambda: _lmdb(folder, rows),
        ROCKSDB: lambda: _rocksdb(folder, rows, limit),
    }
    if side in sides:
        with sides[side]() as lookup:
            yield lambda ids: torch.from_numpy(lookup(ids))
        return
    is_mapped, shape = side in (RANDOM, READAHEAD), (TABLES * rows, WIDTH)
    weights = torch.from_numpy(_mapped(folder, shape, side == RANDOM) if is_mapped else _in_memory(shape))
    firsts = (np.arange(TABLES) * rows)[:, None]
    yield lambda ids: torch.nn.functional.embedding(torch.from_numpy(ids + firsts), weights)


def _mapped(folder: Path, shape: tuple[int, int], is_random: bool) -> np.ndarray:
    plain = np.memmap(folder / "rows", "f4", "c", shape=shape)  # torch warns of an array that it cannot write
    plain._mmap.madvise(mmap.MADV_RANDOM if is_random else mmap.MADV_NORMAL)
    return plain


def _in_memory(shape: tuple[int, int]) -> np.ndarray:
    memory = np.empty(shape, "f4")
    for first in range(0, shape[0], LOAD_ROWS):
        numbers = np.arange(first, min(first + LOAD_ROWS, shape[0]))
        memory[numbers] = rows_of(numbers)
    return memory


@contextlib.contextmanager
def _embedded(folder: Path, limit: int) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    with pmkv.open(folder / "pmkv", dram=limit // 2) as store:
        yield lambda ids: np.stack(list(store.gather(dict(zip(NAMES, ids))).values()))


@contextlib.contextmanager
def _served(folder: Path, limit: int, group: Path | None) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    port = servers.free_port()
    options = "--data", str(folder / "pmkv"), "--port", str(port), "--rest-port", "0", "--dram", str(limit // 2)
    command = [sys.executable, "-c", SERVE, str(group or ""), "serve", *options]
    process = servers.start(command, port, folder / "served", cwd=Path(__file__).parent.parent)
    try:
        with pmkv_client.connect(f"pmkv://127.0.0.1:{port}") as client:
            yield lambda ids: np.stack(list(client.gather(dict(zip(NAMES, ids))).values()))
    finally:
        servers.stop(process)


@contextlib.contextmanager
def _lmdb(folder: Path, rows: int) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    firsts = (np.arange(TABLES) * rows)[:, None]
    with lmdb.open(str(folder / "lmdb"), readonly=True, readahead=False, lock=False) as tree:
        get = tree.begin(buffers=True).get

        def lookup(ids: np.ndarray) -> np.ndarray:
            found = b"".join([get(KEY.pack(number)) for number in (ids + firsts).ravel().tolist()])
            return np.frombuffer(bytearray(found), "f4").reshape(*ids.shape, WIDTH)

        yield lookup


def _open_rocksdb(folder: Path, cache_bytes: int | None) -> Any:
    """Return RocksDB, to be filled (cache_bytes is None) or to be read."""
    import rocksdict

    options, blocks = rocksdict.Options(raw_mode=True), rocksdict.BlockBasedOptions()
    blocks.set_bloom_filter(10, False)
    options.set_compression_type(rocksdict.DBCompressionType.none())
    if cache_bytes is None:
        options.prepare_for_bulk_load()
    else:
        blocks.set_block_cache(rocksdict.Cache(cache_bytes))
        options.set_advise_random_on_open(True)
    options.set_block_based_table_factory(blocks)
    return rocksdict.Rdict(str(folder / "rocksdb"), options)


@contextlib.contextmanager
def _rocksdb(folder: Path, rows: int, limit: int) -> Iterator[Callable[[np.ndarray], np.ndarray]]:
    firsts = (np.arange(TABLES) * rows)[:, None]
    rocks = _open_rocksdb(folder, limit // ROCKS_CACHE_SHARE)
    try:

        def lookup(ids: np.ndarray) -> np.ndarray:
            found = rocks.get([KEY.pack(number) for number in (ids + firsts).ravel().tolist()])
            return np.frombuffer(bytearray(b"".join(found)), "f4").reshape(*ids.shape, WIDTH)

        yield lookup
    finally:
        rocks.close()
