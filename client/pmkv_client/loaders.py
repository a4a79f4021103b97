"""Files into tables and tables into files, in batches: npy, npz, safetensors, state dicts, Parquet, Arrow and CSV.

An import goes on where an interrupted one broke off. What was put is noted in a *state file*, together with what it is
true of: the files, the table, and the version of its view; if any of these is another one, the import begins anew.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pmkv_client.requests as requests

from .file_formats.batches import ROW_COLUMN, Batch, FileError, Source, checksum, rows_per_batch
from .file_formats.column_files import ColumnSource
from .file_formats.raw_files import (
    NpzSource,
    RawSource,
    npy_extent,
    one_tensor,
    safe_extents,
    safe_parts,
    torch_extents,
)
from .file_formats.writers import ORDERED, open_sink, whole_file
from .row_codecs import QUANTISING, is_near
from .sync import Client, Table

STATE_SECONDS = 1.0  # between two notes of how far an import is
CHECKSUM_MASK = (1 << 64) - 1
BATCHES_AT_ONCE = 2  # batches that are put, or compared with the table, each by a connection of its own

Progress = Callable[[int, "int | None"], None]  # rows so far, and rows in all if that is known


@dataclass(frozen=True)
class FileOptions:
    """How rows are found in files.

    id_column, columns: names of columns, or of the arrays of an .npz; without a column of ids, rows are numbered from
    `first_id` on over all files. A column of text gives ids by `table.ids_of`. tensor: its name in a file of tensors.
    dtype: of the elements of a table that is created; dense: give it a bound of rows; codec: how it stores rows."""

    id_column: str | None = None
    columns: tuple[str, ...] | None = None
    tensor: str | None = None
    dtype: str | None = None
    first_id: int = 0
    dense: bool = False
    codec: str | None = None


@dataclass(frozen=True)
class Transferred:
    """The outcome of an import or export. resumed: rows that an interrupted import had put. checksum: of ids and rows,
    whatever their order."""

    rows: int
    bytes: int
    checksum: str
    resumed: int
    seconds: float


@dataclass(frozen=True)
class Place:
    """A place in files: `row` of file number `file`, before which all files together have `before` rows."""

    file: int = 0
    row: int = 0
    before: int = 0


@dataclass(frozen=True)
class Piece:
    """Holds rows as the table stores them. behind: the place after them; checksum: of these ids and rows."""

    ids: NDArray[np.int64]
    rows: NDArray[Any]
    behind: Place
    checksum: int


@dataclass
class _State:
    """How far an import is."""

    of: dict[str, Any]
    place: Place = Place()
    rows: int = 0
    bytes: int = 0
    checksum: int = 0
    path: Path | None = field(default=None, compare=False)

    @classmethod
    def read(cls, path: Path, of: dict[str, Any]) -> _State:
        """Return the state in a file, or the beginning, if the file is of another import or there is none."""
        try:
            found = cls(**json.loads(path.read_text()))
            found.place = Place(**found.place)  # type: ignore[arg-type]
        except (OSError, ValueError, TypeError):
            return cls(of, path=path)
        found.path = path
        return found if found.of == of else cls(of, path=path)

    def write(self) -> None:
        """Write the state file."""
        assert self.path is not None
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(json.dumps({name: value for name, value in asdict(self).items() if name != "path"}))
        part.replace(self.path)

    def add(self, piece: Piece) -> None:
        """Note that a piece was put."""
        self.place, self.rows = piece.behind, self.rows + len(piece.ids)
        self.bytes, self.checksum = self.bytes + piece.rows.nbytes, (self.checksum + piece.checksum) & CHECKSUM_MASK

    def remove(self) -> None:
        """Remove the state file, as the import is complete."""
        assert self.path is not None
        self.path.unlink(missing_ok=True)


def open_source(path: Path, options: FileOptions) -> Source:
    """Return the reader of a file, by its suffix. FileError: no format is known by it."""
    columns = list(options.columns) if options.columns else None
    if options.tensor is not None and path.suffix not in (".safetensors", ".pt", ".pth", ".bin"):
        raise FileError(f"{path}: only safetensors and state dicts have tensors by name")
    match path.suffix:
        case ".npy":
            return RawSource(npy_extent(path), options.id_column, columns)
        case ".npz":
            return NpzSource(path, options.id_column, columns)
        case ".safetensors":
            return RawSource(one_tensor(path, safe_extents(path), options.tensor), options.id_column, columns)
        case ".pt" | ".pth" | ".bin":
            return RawSource(one_tensor(path, torch_extents(path), options.tensor), options.id_column, columns)
        case ".parquet" | ".pq":
            return ColumnSource(path, "parquet", options.id_column, columns)
        case ".arrow" | ".feather":
            return ColumnSource(path, "arrow", options.id_column, columns)
        case ".csv":
            return ColumnSource(path, "csv", options.id_column, columns)
    raise FileError(
        f"{path}: no format is known by {path.suffix!r}; there are .npy .npz .safetensors .pt .parquet .arrow .csv"
    )


def open_sources(paths: Sequence[Path | str], options: FileOptions) -> list[Source]:
    """Return the readers of several files, whose rows are one after another.

    Of an index of safetensors, and of several files of tensors, those that have the tensor are read."""
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_file():
            raise FileError(f"{path}: there is no such file")
        found += safe_parts(path) if path.name.endswith(".safetensors.index.json") else [path]
    if options.tensor is not None and len(found) > 1 and all(path.suffix == ".safetensors" for path in found):
        holding = [path for path in found if options.tensor in safe_extents(path)]
        if not holding:
            raise FileError(f"none of {len(found)} files has a tensor {options.tensor!r}")
        found = holding
    return [open_source(path, options) for path in found]


def import_files(
    client: Client,
    table: str,
    paths: Sequence[Path | str],
    options: FileOptions | None = None,
    *,
    state: Path | str | None = None,
    progress: Progress | None = None,
) -> Transferred:
    """Put the rows of files into a table of the client's view, which is created if there is none.

    state: the state file, by default beside the first file, named `<file>.<table>.import`. FileError: a file is damaged
    or does not fit; what was put before stays, and the next import goes on behind it."""
    options, began = options or FileOptions(), time.monotonic()
    sources = open_sources(paths, options)
    target = _target(client, table, sources, options)
    first = Path(paths[0])
    note = _State.read(
        Path(state) if state is not None else first.with_name(f"{first.name}.{table}.import"),
        _identity(client, target, sources, options),
    )
    counts = [source.count for source in sources]
    total = None if None in counts else sum(filter(None, counts))
    resumed, noted = note.rows, time.monotonic()

    def note_put(piece: Piece) -> None:
        nonlocal noted
        note.add(piece)
        if progress is not None:
            progress(note.rows, total)
        if time.monotonic() - noted > STATE_SECONDS:
            note.write()
            noted = time.monotonic()

    try:
        _put_all(target, prepared(target, sources, options, note.place), note_put)
    except BaseException:  # Ctrl-C, too
        if note.rows:
            note.write()
        raise
    note.remove()
    return Transferred(note.rows, note.bytes, f"{note.checksum:016x}", resumed, time.monotonic() - began)


def _put_all(target: Table, pieces: Iterator[Piece], is_put: Callable[[Piece], None]) -> None:
    """Put pieces, several at once where no id can be in two of them, and tell of each in order.

    While one is made durable, the next is on its way, and the one after that is read."""
    under_way: deque[tuple[Piece, Future[Any]]] = deque()
    last = -(1 << 63)
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(BATCHES_AT_ONCE) as putters:
        for piece in _ahead(reader, pieces):
            ids = piece.ids
            is_behind = len(ids) and int(ids[0]) > last and bool((ids[1:] > ids[:-1]).all())
            while under_way and (len(under_way) == BATCHES_AT_ONCE or not is_behind):
                _end(under_way, is_put)
            last = int(ids[-1]) if is_behind else (1 << 63) - 1
            under_way.append((piece, putters.submit(target.put, ids, piece.rows)))
        while under_way:
            _end(under_way, is_put)


def _end(under_way: deque[tuple[Piece, Future[Any]]], is_put: Callable[[Piece], None]) -> None:
    """Wait for the first of the pieces that are under way."""
    piece, put = under_way.popleft()
    put.result()
    is_put(piece)


def _ahead(reader: ThreadPoolExecutor, items: Iterator[Any]) -> Iterator[Any]:
    """Yield the items of an iterator, of which the next one is made in another thread meanwhile.

    PMKV_READ_AHEAD=off in the environment leaves the thread out."""
    if os.environ.get("PMKV_READ_AHEAD") == "off":
        yield from items
        return
    end = object()
    following = reader.submit(next, items, end)
    while (item := following.result()) is not end:
        following = reader.submit(next, items, end)
        yield item


def _identity(client: Client, target: Table, sources: list[Source], options: FileOptions) -> dict[str, Any]:
    """Return what identifies an import: the files, the table, the version of its view, and the options."""
    files = [[str(source.path.resolve()), *_stamp(source.path)] for source in sources]
    settings = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(options).items()}
    view = client.view_info(client.view_name)
    switches = client.version[0] if view.kind == "main" else 0
    return {"table": target.id, "view": [view.name, view.lsn, switches], "files": files, "options": settings}


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _target(client: Client, table: str, sources: list[Source], options: FileOptions) -> Table:
    """Return the table, created for the rows of the first file if there is none."""
    if table in client.tables():
        return client.table(table)
    batch = next((batch for source in sources for batch in source.batches(0)), None)
    if batch is None:
        raise FileError(f"{sources[0].path}: it has no rows, and there is no table {table!r}")
    counts = [source.count for source in sources]
    if options.dense and (batch.ids is not None or None in counts):
        raise FileError("a dense table has the ids 0 to n - 1: only rows without a column of ids have these")
    rows = options.first_id + sum(filter(None, counts)) if options.dense else None
    return client.create_table(table, _row_dtype(batch, options, sources[0].path), rows, codec=options.codec)


def _row_dtype(batch: Batch, options: FileOptions, path: Path) -> Any:
    text = next((name for name, column in batch.columns.items() if column.dtype.hasobject), None)
    if text is not None:
        raise FileError(f"{path}: column {text!r} is text: create the table first, with S<n> for it, or leave it out")
    columns = list(batch.columns.values())
    if options.dtype is not None or len(columns) == 1:
        row = _plain(columns, path)
        return (row.dtype if options.dtype is None else np.dtype(options.dtype), row.shape[1:])
    return np.dtype([(name, column.dtype, column.shape[1:]) for name, column in batch.columns.items()])


def _plain(columns: list[NDArray[Any]], path: Path) -> NDArray[Any]:
    """Return one column, or several of one number each side by side, as rows without fields."""
    if len(columns) == 1:
        return columns[0]
    if any(column.ndim != 1 for column in columns):
        raise FileError(f"{path}: only columns of single numbers can be put side by side: name one by --columns")
    return np.stack(columns, axis=1)


def prepared(
    target: Table,
    sources: list[Source],
    options: FileOptions,
    place: Place = Place(),
    with_checksums: bool = True,
) -> Iterator[Piece]:
    """Yield the rows of files from a place on, as the table stores them. with_checksums: else that of a piece is 0."""
    for number in range(place.file, len(sources)):
        source = sources[number]
        for batch in source.batches(place.row):
            ids = _ids(target, batch, options.first_id + place.before + batch.start, source.path)
            rows = _rows(target, batch, source.path)
            place = Place(number, batch.start + batch.count, place.before)
            yield Piece(ids, rows, place, checksum(ids, rows) if with_checksums else 0)
        place = Place(number + 1, 0, place.before + place.row)


def _ids(target: Table, batch: Batch, number: int, path: Path) -> NDArray[np.int64]:
    if batch.ids is None:
        return np.arange(number, number + batch.count)
    if batch.ids.dtype.kind in "OSU":
        return target.ids_of(batch.ids)
    if batch.ids.dtype.kind not in "iu" or batch.ids.ndim != 1:
        raise FileError(f"{path}: the column of ids is {batch.ids.dtype}: ids are integers, or text")
    return np.ascontiguousarray(batch.ids, np.int64)


def _rows(target: Table, batch: Batch, path: Path) -> NDArray[Any]:
    """Return rows in the dtype and shape of the table."""
    fields = target.dtype.names
    if fields is None:
        given: Any = _plain(list(batch.columns.values()), path)
    elif list(batch.columns) == [ROW_COLUMN] and batch.columns[ROW_COLUMN].dtype.names:
        given = batch.columns[ROW_COLUMN]
    else:
        given = batch.columns
    try:
        return requests.as_rows(target._info.of_given(given, (batch.count,)), np.arange(batch.count), given)
    except ValueError as error:
        raise FileError(f"{path}, row {batch.start:,} and following: {error}") from error


def verify(
    client: Client,
    table: str,
    paths: Sequence[Path | str],
    options: FileOptions | None = None,
    *,
    sample: int | None = None,
    progress: Progress | None = None,
) -> int:
    """Compare the rows of files with those of the table, and return how many were compared. sample: about so many,
    evenly from all batches of files; None: all.

    FileError: a row is missing or another one; where an id comes several times, its last row counts."""
    options = options or FileOptions()
    target, sources = client.table(table), open_sources(paths, options)
    counts = [source.count for source in sources]
    total = None if None in counts else sum(filter(None, counts))
    share = 1.0 if sample is None or not total else min(1.0, sample / total)
    chosen, compared, seen = np.random.default_rng(total), 0, 0
    under_way: deque[Future[int]] = deque()
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(BATCHES_AT_ONCE) as comparers:
        for piece in _ahead(reader, prepared(target, sources, options, with_checksums=False)):
            ids, rows = piece.ids, piece.rows
            seen += len(ids)
            if share < 1:
                some = np.flatnonzero(chosen.random(len(ids)) < share)
                ids, rows = ids[some], rows[some]
            under_way.append(comparers.submit(_compare, target, ids, rows))
            if len(under_way) == BATCHES_AT_ONCE:
                compared += under_way.popleft().result()
            if progress is not None:
                progress(seen, total)
        return compared + sum(one.result() for one in under_way)


def _compare(target: Table, ids: NDArray[np.int64], rows: NDArray[Any]) -> int:
    """Return how many rows were compared. FileError: one is missing, or another one."""
    same, found = _compared(target, ids, rows)
    if not same.all():
        _complain(target, ids, same, found)
    return len(ids)


def _compared(target: Table, ids: NDArray[np.int64], rows: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each id whether its row is the given one, or what the table's codec makes of it; and whether it is
    there."""
    is_encoded = target.codec is not None and rows.dtype != target.dtype
    if target.codec is None or is_encoded:
        stored, found = target.get(ids, return_found=True, encoded=is_encoded)
        return found & (_bytes(stored) == _bytes(rows)).all(axis=1), found
    encoded, found = target.get(ids, return_found=True, encoded=True)
    if target.codec not in QUANTISING:
        with np.errstate(over="ignore"):
            return found & (_bytes(encoded) == _bytes(rows.astype(encoded.dtype))).all(axis=1), found
    lines = (len(ids), -1)
    return found & is_near(target.codec, rows.reshape(lines), encoded, target.get(ids).reshape(lines)), found


def _complain(target: Table, ids: NDArray[np.int64], same: NDArray[np.bool_], found: NDArray[np.bool_]) -> None:
    bad = int(np.flatnonzero(~same)[0])
    what = "is another one" if found[bad] else "is missing"
    raise FileError(f"table {target.name!r}: the row of id {ids[bad]} {what} than in the file: import it again")


def _bytes(rows: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8) if len(rows) else np.empty((0, 0), np.uint8)


def export_table(
    client: Client,
    table: str,
    path: Path | str,
    *,
    tensor: str | None = None,
    progress: Progress | None = None,
) -> Transferred:
    """Write a table of the client's view to a file, whose suffix says the format, as it is at this moment.

    tensor: the name of the tensor, by default that of the table. FileError: files of rows alone (.npy, .safetensors,
    .pt) need the ids 0 to n - 1."""
    path, began = Path(path), time.monotonic()
    kind = client.view_info(client.view_name).kind
    frozen = f"export-{time.time_ns():x}" if kind in ("main", "branch") else client.view_name
    if frozen != client.view_name:
        client.snapshot(frozen)
    total, size, mixed = 0, 0, 0
    try:
        with client.view(frozen) as view, whole_file(path) as part:
            source = view.table(table)
            count = len(source)
            sink = open_sink(part, path.suffix, tensor or table, source.dtype, source.shape, count)
            for ids, rows in _in_order(source, count, path) if path.suffix in ORDERED else source.scan(_step(source)):
                sink.write(ids, rows)
                total, size = total + len(ids), size + rows.nbytes
                mixed = (mixed + checksum(ids, rows)) & CHECKSUM_MASK
                if progress is not None:
                    progress(total, count)
            sink.finish()
    finally:
        if frozen != client.view_name:
            client.delete_view(frozen)
    return Transferred(total, size, f"{mixed:016x}", 0, time.monotonic() - began)


def _step(source: Table) -> int:
    return rows_per_batch(source.width)


def _in_order(source: Table, count: int, path: Path) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    step = _step(source)
    for start in range(0, count, step):
        ids = np.arange(start, min(start + step, count))
        rows, found = source.get(ids, return_found=True)
        if not found.all():
            raise FileError(
                f"table {source.name!r} has no row {ids[~found][0]}, and {path.suffix} files hold rows 0 to n - 1 "
                "without ids: export to .npz, .parquet or .arrow"
            )
        yield ids, rows
