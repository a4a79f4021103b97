"""Deltas: files of the rows that one view changed and deleted since another, which are applied in order or not at all.

A delta names the state that it begins from and the state that it leads to, each by a digest of the table and view that
it was read from. A table that deltas are applied to keeps the name of its state in the table `<name>.state` beside; a
delta that does not begin there (one is missing, was applied already, or comes out of order) is refused. A delta of a
whole table begins from nothing, and begins a chain.

A file is a line of magic, a header in JSON, and blocks: kind, count, ids, rows (none of deleted ids), and a CRC-32 that
goes on from the block before. The last block has no ids; a file without it was cut off.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .file_formats.batches import FileError, rows_per_batch
from .file_formats.writers import whole_file
from .loaders import Progress
from .requests import TableInfo, descr_dtype, descr_json
from .sync import Client, Table

MAGIC = b"pmkv delta 1\n"
SUFFIX = ".delta"
STATE_SUFFIX = ".state"
STATE_DTYPE = "S32"  # the digest of a state, as hexadecimal digits
BLOCK = struct.Struct("<BQ")  # kind, count
CHANGED, DELETED, END = 1, 2, 0

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Header:
    """The facts that a delta states of itself. begins, leads: digests of states, "" for nothing; since, at: names of
    views; dtype, shape: of a row as the table reads it; codec, stored: how it stores rows, which the blocks have as
    they are stored."""

    table: str
    dtype: Any
    shape: list[int]
    since: str
    at: str
    begins: str
    leads: str
    codec: str | None = None
    stored: int = 0


@dataclass(frozen=True)
class DeltaReport:
    """The outcome of an export or import of a delta. at: the view to which the next one begins."""

    changed: int
    deleted: int
    at: str
    seconds: float


class _Writer:
    """Writes blocks to a file."""

    def __init__(self, file: IO[bytes], header: Header) -> None:
        self._file, self._crc = file, 0
        head = json.dumps(asdict(header)).encode()
        self._write(MAGIC, struct.pack("<Q", len(head)), head)

    def _write(self, *parts: bytes | memoryview) -> None:
        for part in parts:
            self._crc = zlib.crc32(part, self._crc)
            self._file.write(part)
        self._file.write(struct.pack("<I", self._crc))

    def block(self, kind: int, ids: Ids, rows: NDArray[Any] | None = None) -> None:
        """Append one block."""
        parts = [BLOCK.pack(kind, len(ids)), np.ascontiguousarray(ids, "<i8").tobytes()]
        self._write(*parts, b"" if rows is None else np.ascontiguousarray(rows).tobytes())


class DeltaFile:
    """Reads a delta. FileError: it is none, is damaged, or was cut off."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            self.header = self._head(file)[0]

    def _head(self, file: IO[bytes]) -> tuple[Header, int]:
        """Return the header, and the CRC so far."""
        start = file.read(len(MAGIC) + 8)
        if not start.startswith(MAGIC) or len(start) < len(MAGIC) + 8:
            raise FileError(f"{self.path}: it is no delta of pmkv")
        (size,) = struct.unpack("<Q", start[len(MAGIC) :])
        head = self._exactly(file, min(size, 1 << 20))
        crc = self._checked(file, zlib.crc32(head, zlib.crc32(start)))
        return Header(**json.loads(head)), crc

    def _exactly(self, file: IO[bytes], size: int) -> bytes:
        if size > os.fstat(file.fileno()).st_size - file.tell():
            raise FileError(f"{self.path}: it ends within the block at byte {file.tell():,}: it was cut off")
        return file.read(size)

    def _checked(self, file: IO[bytes], crc: int) -> int:
        place = file.tell()
        if struct.unpack("<I", self._exactly(file, 4))[0] != crc:
            raise FileError(f"{self.path}: it is damaged before byte {place:,}: a checksum does not hold")
        return crc

    @property
    def row_dtype(self) -> np.dtype[Any]:
        return np.dtype((descr_dtype(json.dumps(self.header.dtype)), tuple(self.header.shape)))

    def blocks(self) -> Iterator[tuple[Ids, NDArray[Any] | None]]:
        """Yield ids with their rows, or with None where they are deleted."""
        layout = TableInfo("", 0, self.row_dtype.base, tuple(self.header.shape), None, None, self.header.codec,
                           self.header.stored).as_stored(True)  # fmt: skip
        row, element, shape = layout.row_dtype, layout.dtype, layout.shape
        with open(self.path, "rb") as file:
            _, crc = self._head(file)
            while True:
                head = self._exactly(file, BLOCK.size)
                kind, count = BLOCK.unpack(head)
                ids = self._exactly(file, 8 * count if kind != END else 0)
                rows = self._exactly(file, count * row.itemsize if kind == CHANGED else 0)
                crc = self._checked(file, zlib.crc32(rows, zlib.crc32(ids, zlib.crc32(head, crc))))
                if kind == END:
                    return
                found = np.frombuffer(ids, "<i8")
                yield found, np.frombuffer(rows, element).reshape(count, *shape) if kind == CHANGED else None

    def verify(self) -> int:
        """Read the whole file, and return how many ids it has."""
        return sum(len(ids) for ids, _ in self.blocks())


def state_of(client: Client, table: Table, view: str) -> str:
    """Return the digest that names the state of a table in a snapshot."""
    info = client.view_info(view)
    if info.kind != "snapshot":
        raise FileError(f"{view!r} is a {info.kind}, and goes on changing: a delta lies between two snapshots")
    said = f"{table.name}\0{table.id}\0{info.name}\0{info.lsn}\0{info.created}"
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


def export_delta(
    client: Client,
    table: str,
    path: Path | str,
    *,
    since: str | None = None,
    at: str | None = None,
    progress: Progress | None = None,
) -> DeltaReport:
    """Write what a table changed between two snapshots. since: None for all rows, which begins a chain; at: None takes
    a snapshot now, whose name is in the report, as the next delta begins there."""
    began, path = time.monotonic(), Path(path)
    if at is None:
        at = f"delta-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}"
        client.snapshot(at)
    with client.view(at) as view, whole_file(path) as part, open(part, "wb") as file:
        source = view.table(table)
        begins = state_of(client, source, since) if since is not None else ""
        header = Header(table, json.loads(descr_json(source.dtype)), list(source.shape), since or "", at, begins,
                        state_of(client, source, at), source.codec, source.stored)  # fmt: skip
        writer, changed, deleted = _Writer(file, header), 0, 0
        for ids, rows, gone in _differences(source, since):
            if len(ids):
                writer.block(CHANGED, ids, rows)
            if len(gone):
                writer.block(DELETED, gone)
            changed, deleted = changed + len(ids), deleted + len(gone)
            if progress is not None:
                progress(changed + deleted, None)
        writer.block(END, np.empty(0, np.int64))
        file.flush()
    return DeltaReport(changed, deleted, at, time.monotonic() - began)


def _differences(source: Table, since: str | None) -> Iterator[tuple[Ids, NDArray[Any], Ids]]:
    step = rows_per_batch(source.width)
    if since is not None:
        yield from source.changes(since, step, encoded=True)
        return
    for ids, rows in source.scan(step, encoded=True):
        yield ids, rows, np.empty(0, np.int64)


def import_delta(
    client: Client, path: Path | str, *, table: str | None = None, progress: Progress | None = None
) -> DeltaReport:
    """Apply a delta to a table of the client's view, which is created for a delta of a whole table.

    The file is read and checked before anything is written; an import that was interrupted is begun again. FileError:
    the file is damaged, or the table is not in the state that the delta begins from."""
    began, delta = time.monotonic(), DeltaFile(Path(path))
    total, header = delta.verify(), delta.header
    name = table or header.table
    target = _target(client, name, delta)
    states = client.create_table(name + STATE_SUFFIX, STATE_DTYPE, exist_ok=True)
    _refuse_out_of_order(delta, states.get(0).item().decode(), name)
    changed = deleted = 0
    for ids, rows in delta.blocks():
        if rows is None:
            target.delete(ids)
            deleted += len(ids)
        else:
            target.put(ids, rows, encoded=True)
            changed += len(ids)
        if progress is not None:
            progress(changed + deleted, total)
    states.put([0], np.array([header.leads.encode()], STATE_DTYPE))
    return DeltaReport(changed, deleted, header.at, time.monotonic() - began)


def _target(client: Client, name: str, delta: DeltaFile) -> Table:
    if name not in client.tables():
        if delta.header.begins:
            raise FileError(f"{delta.path}: there is no table {name!r}, and this delta has only what changed since "
                            f"{delta.header.since!r}: begin with a delta of the whole table")  # fmt: skip
        return client.create_table(name, delta.row_dtype, codec=delta.header.codec)
    target = client.table(name)
    if (target.row_dtype, target.codec) != (delta.row_dtype, delta.header.codec):
        rows = [f"{row}{f' in {codec}' if codec else ''}" for row, codec in (
            (delta.row_dtype, delta.header.codec), (target.row_dtype, target.codec))]  # fmt: skip
        raise FileError(f"{delta.path}: its rows are {rows[0]}, and table {name!r} holds {rows[1]}")
    return target


def _refuse_out_of_order(delta: DeltaFile, state: str, name: str) -> None:
    header = delta.header
    if header.begins == state:
        return
    if header.leads == state:
        raise FileError(f"{delta.path}: table {name!r} has this delta already (up to {header.at!r})")
    if not header.begins:
        raise FileError(f"{delta.path}: it is a whole table, and deltas were applied to {name!r} before: "
                        "import it into a new table, or drop this one")  # fmt: skip
    if not state:
        raise FileError(f"{delta.path}: table {name!r} was not made by deltas: begin with a delta of the whole table")
    raise FileError(f"{delta.path}: it goes on from {header.since!r}, and table {name!r} is in another state: "
                    "a delta between is missing, or this one is out of order")  # fmt: skip
