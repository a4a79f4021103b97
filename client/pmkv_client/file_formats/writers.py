"""Files written in batches: npy, npz, safetensors and state dicts of torch; Parquet, Arrow and CSV by pyarrow.

A file is written beside its place and renamed when it is whole, so that nobody meets half of one.
"""

from __future__ import annotations

import contextlib
import glob
import io
import json
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .batches import ID_COLUMN, ROW_COLUMN, FileError
from .column_files import arrow

SAFE_NAMES = {"f8": "F64", "f4": "F32", "f2": "F16", "i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8",
              "u8": "U64", "u4": "U32", "u2": "U16", "u1": "U8", "b1": "BOOL"}  # fmt: skip
EXTENSION_NAMES = {"bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
ORDERED = (".npy", ".safetensors", ".pt", ".pth")  # of rows alone, so that ids must be 0 to n - 1


class Sink(Protocol):
    """A file to be written."""

    def write(self, ids: NDArray[np.int64], rows: NDArray[Any]) -> None:
        """Append rows, with their ids if the format has them."""
        ...

    def finish(self) -> None:
        """Write what completes the file, and close it."""
        ...


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a name to write to, which becomes `path` at the end, durably; an exception leaves what was there before."""
    part = path.with_name(path.name + ".part")
    try:
        yield part
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        for left in path.parent.glob(f"{glob.escape(part.name)}*"):
            left.unlink()


class RawSink:
    """Writes the rows of an .npy or .safetensors file."""

    def __init__(self, path: Path, head: bytes) -> None:
        self._file = open(path, "wb")
        self._file.write(head)

    def write(self, ids: NDArray[np.int64], rows: NDArray[Any]) -> None:
        """Append rows, with their ids if the format has them."""
        self._file.write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data if rows.nbytes else b"")

    def finish(self) -> None:
        """Close the file."""
        self._file.close()


def npy_head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the header of an .npy file."""
    buffer = io.BytesIO()
    layout = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    try:
        np.lib.format.write_array_header_1_0(buffer, layout)
    except ValueError:  # many fields
        np.lib.format.write_array_header_2_0(buffer, layout)
    return buffer.getvalue()


def safe_head(name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the header of a .safetensors file with one tensor. FileError: the format has no such dtype."""
    kind = EXTENSION_NAMES.get(dtype.name) or SAFE_NAMES.get(dtype.str[1:])
    if kind is None:
        raise FileError(f"safetensors has no tensors of {dtype}: export to .npz or .parquet")
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    header = json.dumps({name: {"dtype": kind, "shape": list(shape), "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header


class NpzSink:
    """Writes `ids` and `rows` of an .npz file: each to a file of its own first, as an archive has one after another."""

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._path, self._dtype, self._shape, self._count = path, dtype, shape, 0
        self._parts = {name: path.with_name(f"{path.name}.{name}") for name in ("ids", "rows")}
        self._files = {name: open(part, "wb") for name, part in self._parts.items()}

    def write(self, ids: NDArray[np.int64], rows: NDArray[Any]) -> None:
        """Append rows, with their ids if the format has them."""
        self._count += len(ids)
        for name, array in (("ids", ids), ("rows", rows)):
            self._files[name].write(np.ascontiguousarray(array).tobytes())

    def finish(self) -> None:
        """Put the archive together."""
        heads = {
            "ids": npy_head(np.dtype("<i8"), (self._count,)),
            "rows": npy_head(self._dtype, (self._count, *self._shape)),
        }
        with zipfile.ZipFile(self._path, "w") as archive:
            for name, part in self._parts.items():
                self._files[name].close()
                with open(part, "rb") as source, archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    entry.write(heads[name])
                    while piece := source.read(1 << 20):
                        entry.write(piece)
                part.unlink()


class TorchSink:
    """Writes a state dict with one tensor, by torch, from a file that it maps."""

    def __init__(self, path: Path, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        try:
            import torch  # noqa: F401 - asked for at the beginning, not at the end
        except ImportError:
            raise FileError("a state dict is written by torch: pip install torch, or export to .safetensors") from None
        self._path, self._name, self._dtype, self._shape = path, name, dtype, shape
        self._raw = path.with_name(f"{path.name}.raw")
        self._rows = RawSink(self._raw, b"")

    def write(self, ids: NDArray[np.int64], rows: NDArray[Any]) -> None:
        """Append rows, with their ids if the format has them."""
        self._rows.write(ids, rows)

    def finish(self) -> None:
        """Save the state dict."""
        import torch

        self._rows.finish()
        kind = getattr(torch, self._dtype.name, None)
        if kind is None:
            raise FileError(f"torch has no tensors of {self._dtype}: export to .npz")
        size = int(np.prod(self._shape, dtype=np.int64))
        rows = torch.from_file(str(self._raw), shared=False, size=size, dtype=kind) if size else torch.empty(0)
        torch.save({self._name: rows.reshape(self._shape)}, self._path)
        self._raw.unlink()


class ColumnSink:
    """Writes a column of ids and one of rows, or one for each field, to a Parquet, Arrow or CSV file."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path, self._kind, self._writer = path, kind, None
        arrow()

    def write(self, ids: NDArray[np.int64], rows: NDArray[Any]) -> None:
        """Append rows, with their ids if the format has them."""
        table = arrow().table(self._columns(ids, rows))
        if self._writer is None:
            self._writer = self._opened(table.schema)
        self._writer.write_table(table)

    def _columns(self, ids: NDArray[np.int64], rows: NDArray[Any]) -> dict[str, Any]:
        names = rows.dtype.names
        columns = {name: rows[name] for name in names} if names else {ROW_COLUMN: rows}
        if ID_COLUMN in columns:
            raise FileError(f"the table has a field {ID_COLUMN!r}, as the column of ids: export to .npz")
        if self._kind == "csv":
            columns = dict(flat for name, column in columns.items() for flat in _flat(name, column))
        return {ID_COLUMN: ids, **{name: _arrow_column(name, column) for name, column in columns.items()}}

    def _opened(self, schema: Any) -> Any:
        if self._kind == "parquet":
            from pyarrow import parquet

            return parquet.ParquetWriter(self._path, schema, use_dictionary=False, write_page_checksum=True)
        if self._kind == "arrow":
            from pyarrow import ipc

            return ipc.new_file(self._path, schema)
        from pyarrow import csv

        return csv.CSVWriter(self._path, schema)

    def finish(self) -> None:
        """Close the file."""
        if self._writer is None:
            raise FileError("the table is empty: there is nothing to export")
        self._writer.close()


def _flat(name: str, column: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield one column for each element, as CSV has no lists."""
    if column.ndim == 1:
        yield name, column
        return
    flat = column.reshape(len(column), -1)
    yield from ((f"{name}_{i}", flat[:, i]) for i in range(flat.shape[1]))


def _arrow_column(name: str, column: NDArray[Any]) -> Any:
    pyarrow = arrow()
    try:
        if column.dtype.kind == "S":
            made = pyarrow.array(column.reshape(-1).tolist(), pyarrow.binary())
        else:
            made = pyarrow.array(np.ascontiguousarray(column).reshape(-1))
        for size in column.shape[:0:-1]:
            made = pyarrow.FixedSizeListArray.from_arrays(made, size)
    except pyarrow.ArrowException as error:
        raise FileError(f"column {name!r} is {column.dtype}, which Arrow cannot hold: export to .npz") from error
    return made


def open_sink(path: Path, suffix: str, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], count: int) -> Sink:
    """Return the writer for a suffix. name: of the tensor; shape: of a row; count: of rows, for an ordered format."""
    whole = (count, *shape)
    match suffix:
        case ".npy":
            return RawSink(path, npy_head(dtype, whole))
        case ".safetensors":
            return RawSink(path, safe_head(name, dtype, whole))
        case ".npz":
            return NpzSink(path, dtype, shape)
        case ".pt" | ".pth":
            return TorchSink(path, name, dtype, whole)
        case ".parquet" | ".pq":
            return ColumnSink(path, "parquet")
        case ".arrow" | ".feather":
            return ColumnSink(path, "arrow")
        case ".csv":
            return ColumnSink(path, "csv")
    raise FileError(f"{path.name}: no format is known by {suffix!r}")
