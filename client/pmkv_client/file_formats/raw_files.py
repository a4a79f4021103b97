"""Files of plain arrays: npy, npz, safetensors, and the state dicts of torch. Rows are read from where they stand.

A tensor is a range of bytes of its file, and no others are read. A state dict of torch is a pickle in a zip archive:
its names and shapes are read without torch, and nothing that the pickle names is run.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .batches import ID_COLUMN, ROW_COLUMN, Batch, Columns, FileError, chosen, damage_named, rows_per_batch

EXTENSIONS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
SAFE_HEADER_MAX = 100 << 20  # as in the format's own library
SAFE_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
TORCH_DTYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?",
}  # fmt: skip


@dataclass(frozen=True)
class Extent:
    """An array in C order at an offset of a file. dtype: a name of NumPy's, or one of ml_dtypes'."""

    path: Path
    offset: int
    dtype: str | np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def element(self) -> np.dtype[Any]:
        """Return the dtype in which rows are read."""
        return stored_dtype(self.dtype)

    @property
    def width(self) -> int:
        """Bytes of one row in the file."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.element.itemsize

    def check(self) -> None:
        """Raise FileError if the file ends before the array does."""
        size, end = self.path.stat().st_size, self.offset + self.width * self.shape[0]
        if size < end:
            raise FileError(f"{self.path}: it has {size:,} bytes, and the array ends at {end:,}: it was cut off")


def is_extension(dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype is one of ml_dtypes."""
    return dtype.name in EXTENSIONS


def stored_dtype(name: str | np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of a name, of NumPy or ml_dtypes. FileError: ml_dtypes is needed, and not installed."""
    if name in EXTENSIONS:
        try:
            import ml_dtypes
        except ImportError:
            raise FileError(f"rows of {name} need the package ml_dtypes: pip install ml-dtypes") from None
        return np.dtype(getattr(ml_dtypes, str(name)))
    return np.dtype(name)


class RawSource:
    """Reads an array at an offset of a file; structured rows are columns, one of which may be the ids."""

    def __init__(self, extent: Extent, id_column: str | None = None, columns: list[str] | None = None) -> None:
        if not extent.shape:
            raise FileError(f"{extent.path}: it holds one value and no rows")
        extent.check()
        self.path, self.count, self._extent = extent.path, extent.shape[0], extent
        names = extent.element.names
        self._id, self._columns = chosen(names, columns, id_column, self.path) if names else (None, None)
        if names is None and (id_column or columns):
            raise FileError(f"{self.path}: its rows are {extent.element}, without names, and it has no columns")

    def batches(self, skip: int) -> Iterator[Batch]:
        """Yield all rows but the first `skip`."""
        extent, step = self._extent, rows_per_batch(self._extent.width)
        with open(self.path, "rb", buffering=0) as file:
            file.seek(extent.offset + skip * extent.width)
            for start in range(skip, self.count, step):
                rows = np.empty((min(step, self.count - start), *extent.shape[1:]), extent.element)
                read_into(file, rows, self.path)
                yield self._batch(start, rows)

    def _batch(self, start: int, rows: NDArray[Any]) -> Batch:
        if is_extension(rows.dtype):  # tables hold NumPy's own dtypes; f4 holds all of these values
            rows = rows.astype(np.float32)
        if self._columns is None:
            return Batch(start, None, {ROW_COLUMN: rows})
        return Batch(start, rows[self._id] if self._id else None, {name: rows[name] for name in self._columns})


def read_into(file: IO[bytes], rows: NDArray[Any], path: Path) -> None:
    """Fill an array from a file. FileError: it ends too early."""
    left = memoryview(rows.reshape(-1).view(np.uint8)) if rows.nbytes else memoryview(b"")
    while left:
        count = file.readinto(left)  # type: ignore[attr-defined]
        if not count:
            raise FileError(f"{path}: it ends {len(left):,} bytes too early: it was cut off")
        left = left[count:]


# npy and npz


def npy_extent(path: Path) -> Extent:
    """Return where the rows of an .npy file stand."""
    with open(path, "rb") as file:
        shape, dtype = npy_header(file, path)
        return Extent(path, file.tell(), dtype, shape)


def npy_header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the header of an array. FileError: it is none, in Fortran's order, or of Python's objects."""
    with damage_named(path, ".npy array"):
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
    if is_fortran and len(shape) > 1:
        raise FileError(f"{path}: it is in Fortran's order: save np.ascontiguousarray(array)")
    if dtype.hasobject:
        raise FileError(f"{path}: it holds Python's objects, which cannot be rows")
    return shape, dtype


class NpzSource:
    """Reads columns from the arrays of an .npz file, compressed or not: `ids` and `rows`, or as they are named."""

    def __init__(self, path: Path, id_column: str | None = None, columns: list[str] | None = None) -> None:
        self.path = path
        with damage_named(path, ".npz file"), zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            id_column = id_column or next((name for name in ("ids", ID_COLUMN) if name in names), None)
            self._id, self._columns = chosen(names, columns, id_column, path)
            self._layouts = {name: self._layout(archive, name) for name in self._names}
        lengths = {shape[:1] for shape, _ in self._layouts.values()}
        if len(lengths) != 1 or lengths == {()}:
            lengths = {name: shape for name, (shape, _) in self._layouts.items()}
            raise FileError(f"{path}: its arrays have no common length: {lengths}; name those to be read by --columns")
        self.count = int(next(iter(lengths))[0])

    @property
    def _names(self) -> list[str]:
        return [*self._columns, *([self._id] if self._id else [])]

    def _layout(self, archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        with archive.open(f"{name}.npy") as file:
            return npy_header(file, self.path)

    def batches(self, skip: int) -> Iterator[Batch]:
        """Yield all rows but the first `skip`."""
        widths = {name: dtype.itemsize * int(np.prod(shape[1:])) for name, (shape, dtype) in self._layouts.items()}
        step = rows_per_batch(sum(widths.values()))
        with damage_named(self.path, ".npz file"), zipfile.ZipFile(self.path) as archive:
            files = {name: archive.open(f"{name}.npy") for name in self._names}
            for name, file in files.items():
                npy_header(file, self.path)
                file.seek(skip * widths[name], io.SEEK_CUR)
            for start in range(skip, self.count, step):
                parts: Columns = {}
                for name, (shape, dtype) in self._layouts.items():
                    parts[name] = np.empty((min(step, self.count - start), *shape[1:]), dtype)
                    read_into(files[name], parts[name], self.path)
                yield Batch(start, parts.get(self._id), {name: parts[name] for name in self._columns})


# safetensors


def safe_extents(path: Path) -> dict[str, Extent]:
    """Return the tensors of a .safetensors file by name. FileError: its header is damaged, or of no known dtype."""
    with open(path, "rb") as file:
        head = file.read(8)
        size = struct.unpack("<Q", head)[0] if len(head) == 8 else SAFE_HEADER_MAX + 1
        if size > SAFE_HEADER_MAX:
            raise FileError(f"{path}: it is no safetensors file, or was cut off")
        with damage_named(path, "safetensors file"):
            header = json.loads(file.read(size))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            return {name: _safe_extent(path, 8 + size, name, entry) for name, entry in entries.items()}


def _safe_extent(path: Path, start: int, name: str, entry: dict[str, Any]) -> Extent:
    if entry["dtype"] not in SAFE_DTYPES:
        raise FileError(f"{path}: tensor {name!r} is {entry['dtype']}, which tables cannot hold")
    begin, end = entry["data_offsets"]
    extent = Extent(path, start + begin, SAFE_DTYPES[entry["dtype"]], tuple(entry["shape"]))
    expected = int(np.prod(extent.shape, dtype=np.int64)) * extent.element.itemsize
    if end - begin != expected:
        raise FileError(f"{path}: tensor {name!r} has {end - begin:,} bytes, and its shape takes {expected:,}")
    return extent


def safe_parts(path: Path) -> list[Path]:
    """Return the files that an index (`model.safetensors.index.json`) names."""
    with damage_named(path, "index of safetensors files"):
        names = json.loads(path.read_text())["weight_map"]
        return [path.parent / name for name in sorted(set(names.values()))]


# state dicts of torch


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def is_contiguous(self) -> bool:
        step, expected = 1, []
        for size in reversed(self.shape):
            expected.append(step)
            step *= size
        return all(size == 1 or a == b for size, a, b in zip(self.shape, self.stride, reversed(expected)))


class _StateUnpickler(pickle.Unpickler):
    """Reads a state dict without running anything of it: tensors become their places."""

    def find_class(self, module: str, name: str) -> Any:
        """Return stand-ins for what a state dict names, and refuse all else."""
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return lambda storage, offset, shape, stride, *_: _Tensor(storage, offset, tuple(shape), tuple(stride))
        if module == "torch._utils" and name.startswith("_rebuild_parameter"):
            return lambda data, *_: data
        if module == "torch" and name in TORCH_DTYPES:
            return TORCH_DTYPES[name]
        if module == "torch" and name == "Size":
            return tuple
        raise FileError(f"it holds a {module}.{name}, which is not part of a state dict: save model.state_dict()")

    def persistent_load(self, pid: Any) -> _Storage:
        """Return the storage that a tensor refers to."""
        _, dtype, key, *_ = pid
        if not isinstance(dtype, str):
            raise FileError(f"storage {key!r} is of no known dtype")
        return _Storage(dtype, key)


def torch_extents(path: Path) -> dict[str, Extent]:
    """Return the tensors of a state dict by name; those of nested dicts have names with dots."""
    with damage_named(path, "state dict saved by torch.save of torch 1.6 or later"), zipfile.ZipFile(path) as archive:
        pickled = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
        if pickled is None:
            raise FileError("it is no state dict saved by torch.save")
        tree = _StateUnpickler(io.BytesIO(archive.read(pickled))).load()
        folder = pickled.removesuffix("data.pkl")
        return {
            name: _torch_extent(path, archive, f"{folder}data/{tensor.storage.key}", tensor)
            for name, tensor in _leaves("", tree)
        }


def _leaves(prefix: str, tree: Any) -> Iterator[tuple[str, _Tensor]]:
    for name, value in tree.items() if isinstance(tree, dict) else ():
        if isinstance(value, _Tensor) and value.is_contiguous and value.shape:
            yield f"{prefix}{name}", value
        elif isinstance(value, dict):
            yield from _leaves(f"{prefix}{name}.", value)


def _torch_extent(path: Path, archive: zipfile.ZipFile, entry: str, tensor: _Tensor) -> Extent:
    info = archive.getinfo(entry)
    if info.compress_type != zipfile.ZIP_STORED:
        raise FileError(f"{entry} is compressed, which torch.save never does")
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)
        name_size, extra_size = struct.unpack("<HH", file.read(4))
    start = info.header_offset + 30 + name_size + extra_size
    return Extent(
        path, start + tensor.offset * stored_dtype(tensor.storage.dtype).itemsize, tensor.storage.dtype, tensor.shape
    )


def one_tensor(path: Path, extents: dict[str, Extent], name: str | None) -> Extent:
    """Return the tensor of this name, or the only one of two dimensions. FileError: which is meant is not said."""
    if name is None:
        matrices = [name for name, extent in extents.items() if len(extent.shape) == 2]
        if len(matrices) != 1:
            raise FileError(f"{path}: say by --tensor which of its tensors is meant: {', '.join(sorted(extents))}")
        name = matrices[0]
    if name not in extents:
        raise FileError(f"{path}: there is no tensor {name!r}; there are {', '.join(sorted(extents))}")
    return extents[name]
