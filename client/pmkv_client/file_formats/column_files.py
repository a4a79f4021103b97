"""Files of columns, by pyarrow: Parquet, Arrow (Feather), and CSV."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .batches import BATCH_BYTES, DAMAGE, Batch, FileError, chosen, damage_named

PAGE_BUFFER_BYTES = 1 << 20  # of a Parquet file, read ahead a column
CSV_BLOCK_BYTES = 2 << 20


def arrow() -> Any:
    """Return pyarrow. FileError: it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise FileError("files of columns need pyarrow: pip install pmkv[arrow]") from None
    return pyarrow


class ColumnSource:
    """Reads the columns of a Parquet, Arrow or CSV file. kind: "parquet", "arrow", "csv"."""

    def __init__(self, path: Path, kind: str, id_column: str | None = None, columns: list[str] | None = None) -> None:
        self.path, self._kind = path, kind
        self.count: int | None = None
        arrow()
        with damage_named(path, f"{kind} file"), self._opened() as (schema, count, _):
            self._id, self._columns = chosen(schema.names, columns, id_column, path)
            self._width = sum(_width(schema.field(name).type) for name in self._names)
            self.count = count

    @property
    def _names(self) -> list[str]:
        return [*self._columns, *([self._id] if self._id else [])]

    def batches(self, skip: int) -> Iterator[Batch]:
        """Yield all rows but the first `skip`."""
        start = 0
        try:
            with self._opened(self._names, skip) as (_, _, batches):
                for first, batch in batches:
                    start = max(first, skip)
                    batch = batch.slice(max(0, skip - first))
                    for at in range(0, batch.num_rows, step := max(1, BATCH_BYTES // max(1, self._width))):
                        yield self._batch(start + at, batch.slice(at, step))
        except (arrow().ArrowException, *DAMAGE) as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"{self.path}: it is damaged behind row {start:,}: {error}") from error

    def _batch(self, start: int, batch: Any) -> Batch:
        columns = {name: column_array(batch.column(name), f"{self.path}, column {name!r}") for name in self._names}
        ids = columns[self._id] if self._id else None
        return Batch(start, ids, {name: columns[name] for name in self._columns})

    @contextlib.contextmanager
    def _opened(self, names: list[str] | None = None, skip: int = 0) -> Iterator[tuple[Any, int | None, Any]]:
        """Yield the schema, the count of rows, and an iterator over (first row, record batch) of these columns."""
        opened = {"parquet": self._parquet, "arrow": self._arrow, "csv": self._csv}[self._kind]
        with opened(names, skip) as found:
            yield found

    @contextlib.contextmanager
    def _parquet(self, names: list[str] | None, skip: int) -> Iterator[tuple[Any, int | None, Any]]:
        from pyarrow import parquet

        arrow()
        with parquet.ParquetFile(
            self.path, buffer_size=PAGE_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True
        ) as file:
            meta = file.metadata

            def batches() -> Iterator[tuple[int, Any]]:
                first = 0
                for group in range(meta.num_row_groups):
                    count = meta.row_group(group).num_rows
                    if first + count > skip:
                        at, step = first, max(1, BATCH_BYTES // max(1, self._width))
                        for batch in file.iter_batches(step, row_groups=[group], columns=names, use_threads=False):
                            yield at, batch
                            at += batch.num_rows
                    first += count

            yield file.schema_arrow, meta.num_rows, batches()

    @contextlib.contextmanager
    def _arrow(self, names: list[str] | None, skip: int) -> Iterator[tuple[Any, int | None, Any]]:
        from pyarrow import ipc

        with open(self.path, "rb") as raw:
            if not raw.seek(0, os.SEEK_END):
                raise FileError(f"{self.path}: it is empty")
            mapped = mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ)  # unmapped with the last array that shows it
        file = ipc.open_file(arrow().BufferReader(arrow().py_buffer(mapped)))

        def batches() -> Iterator[tuple[int, Any]]:
            first = 0
            for number in range(file.num_record_batches):
                batch = file.get_batch(number)
                batch.validate(full=True)  # a damaged one may point behind the file, where a read ends the process
                for at in range(0, batch.num_rows, step := max(1, BATCH_BYTES // max(1, self._width))):
                    if first + min(at + step, batch.num_rows) > skip:
                        yield first + at, batch.slice(at, step)
                        mapped.madvise(mmap.MADV_DONTNEED)  # what was read would count as memory of this process
                first += batch.num_rows

        yield file.schema, None, batches()

    @contextlib.contextmanager
    def _csv(self, names: list[str] | None, skip: int) -> Iterator[tuple[Any, int | None, Any]]:
        from pyarrow import csv

        arrow()
        reading = csv.ReadOptions(block_size=CSV_BLOCK_BYTES, use_threads=False)
        with csv.open_csv(self.path, reading, convert_options=csv.ConvertOptions(include_columns=names)) as reader:

            def batches() -> Iterator[tuple[int, Any]]:
                first = 0
                for batch in reader:
                    if first + batch.num_rows > skip:
                        yield first, batch
                    first += batch.num_rows

            yield reader.schema, None, batches()


def _width(kind: Any) -> int:
    """Return about how many bytes a value of an Arrow type takes."""
    types = arrow().types
    if types.is_fixed_size_list(kind):
        return kind.list_size * _width(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind):
        return 64 * _width(kind.value_type)
    try:
        return max(1, kind.bit_width // 8)
    except ValueError:  # text
        return 32


def column_array(column: Any, label: str) -> NDArray[Any]:
    """Return an Arrow column as an array; lists of one length give two dimensions. FileError: values are missing."""
    types, kind = arrow().types, column.type
    if column.null_count:
        raise FileError(f"{label} has {column.null_count:,} missing values in one batch: fill them first")
    if isinstance(column, arrow().ExtensionArray):
        return column_array(column.storage, label)
    if types.is_dictionary(kind):
        return column_array(column.dictionary_decode(), label)
    if types.is_fixed_size_list(kind) or types.is_list(kind) or types.is_large_list(kind):
        values = column_array(column.flatten(), label)
        lengths = len(values) // max(1, len(column))
        if not types.is_fixed_size_list(kind) and (np.diff(np.asarray(column.offsets)) != lengths).any():
            raise FileError(f"{label} has lists of several lengths")
        return values.reshape((len(column), lengths, *values.shape[1:]))
    if types.is_boolean(kind):
        return column.to_numpy(zero_copy_only=False)
    if (types.is_integer(kind) or types.is_floating(kind)) and len(column):
        dtype = np.dtype(kind.to_pandas_dtype())  # `to_numpy` looks at each number, which takes longer than decoding it
        return np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * dtype.itemsize)
    try:
        return column.to_numpy(zero_copy_only=types.is_primitive(kind))
    except (arrow().ArrowException, ValueError) as error:
        raise FileError(f"{label} is {kind}, which is no column of numbers or text: {error}") from error
