"""Rows as Arrow IPC streams. pyarrow is optional: without it Arrow is refused with status 415.

A row is one value, a fixed-size list of values (the row's shape flattened) or, in a structured table, a struct of
these. For pooling, `ids` is a column of lists, one per bag, and `weights` a column of lists of the same lengths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .jsonrows import fixed
from .problems import Problem, invalid

Array = NDArray[Any]


def pyarrow() -> Any:
    """Return the module pyarrow. Raises Problem 415 where it is not installed."""
    try:
        import pyarrow  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        detail = (
            "this server has no pyarrow and so no Arrow: pip install pyarrow there, or send and accept .npz or JSON"
        )
        raise Problem(415, "format", detail) from None
    return pyarrow


def read_arrow(body: bytes) -> dict[str, Any]:
    """Return the columns of a stream by name, each a pyarrow.Array. Raises Problem 400."""
    pa = pyarrow()
    try:
        table = pa.ipc.open_stream(pa.py_buffer(body)).read_all()
        table.validate(full=True)
        return {name: table.column(name).combine_chunks() for name in table.column_names}
    except (pa.ArrowException, ValueError, OSError, KeyError) as error:
        raise invalid(f"the body is not an Arrow IPC stream: {error}") from None


def write_arrow(columns: Mapping[str, Array]) -> bytes:
    """Return arrays of equal length as a stream of one record batch. Raises Problem 406."""
    pa = pyarrow()
    try:
        arrays = [_column(pa, array) for array in columns.values()]
        batch = pa.record_batch(arrays, names=list(columns))
    except (pa.ArrowException, ValueError) as error:
        raise Problem(406, "format", f"these rows have no form in Arrow ({error}): accept .npz") from None
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue().to_pybytes())


def _column(pa: Any, array: Array) -> Any:
    if array.dtype.names is not None and array.ndim == 1:
        names = list(array.dtype.names)
        return pa.StructArray.from_arrays([_column(pa, array[name]) for name in names], names)
    flat = array.reshape(-1)
    values = _column(pa, flat) if array.dtype.names is not None else pa.array(_plain(flat))
    size = math.prod(array.shape[1:])
    return values if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(values, size)


def _plain(flat: Array) -> Any:
    """Return values in the form that pyarrow takes: contiguous and in native byte order, or a list of bytes."""
    if flat.dtype.kind in "SV":
        return flat.tolist()
    return np.ascontiguousarray(flat, flat.dtype.newbyteorder("="))


def to_array(column: Any, dtype: np.dtype[Any], shape: tuple[int, ...], what: str) -> Array:
    """Return a column as an array (n, *shape) of `dtype`. Raises Problem 400."""
    pa = pyarrow()
    if column.null_count:
        raise invalid(f"column '{what}' has {column.null_count} nulls")
    count = len(column)
    try:
        values = _flat(pa, column, count * math.prod(shape), what) if shape else column
        return _elements(pa, values, dtype, what).reshape(count, *shape)
    except (pa.ArrowException, ValueError, TypeError, AttributeError) as error:
        raise invalid(f"column '{what}' ({column.type}) does not fit {dtype} of shape {shape}: {error}") from None


def _flat(pa: Any, column: Any, size: int, what: str) -> Any:
    values = column.flatten()
    if len(values) != size:
        raise invalid(f"column '{what}' has {len(values)} values instead of {size}")
    if values.null_count:
        raise invalid(f"column '{what}' has nulls in its lists")
    return values


def _elements(pa: Any, values: Any, dtype: np.dtype[Any], what: str) -> Array:
    if dtype.names is None:
        if dtype.kind in "SVU":
            return fixed([_same_kind(item, dtype) for item in values.to_pylist()], dtype)
        plain = _numbers(pa, values)
        if not np.can_cast(plain.dtype, dtype, "same_kind"):
            raise ValueError(f"it holds {plain.dtype}")
        return plain.astype(dtype)
    found = {field.name for field in values.type}
    if found != set(dtype.names):
        raise ValueError(f"it has the fields {sorted(found)}")
    array = np.zeros(len(values), dtype)
    for name in dtype.names:
        element, shape = dtype[name].subdtype or (dtype[name], ())
        array[name] = to_array(values.field(name), element, shape, f"{what}.{name}")
    return array


def _numbers(pa: Any, values: Any) -> Array:
    """Return an Arrow array without nulls as an array: integers and floats as they stand, as `to_numpy` looks at each
    number."""
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)) or not len(values):
        return values.to_numpy(zero_copy_only=False)
    dtype = np.dtype(kind.to_pandas_dtype())
    return np.frombuffer(values.buffers()[1], dtype, len(values), values.offset * dtype.itemsize)


def _same_kind(item: Any, dtype: np.dtype[Any]) -> Any:
    """Encode a string for a field of bytes as UTF-8; return other values unchanged."""
    return item.encode() if isinstance(item, str) and dtype.kind != "U" else item


def is_lists(column: Any) -> bool:
    """Tell whether a column holds lists."""
    types = pyarrow().types
    return bool(types.is_list(column.type) or types.is_large_list(column.type))


def lists(column: Any, what: str) -> tuple[Any, Array]:
    """Return a column of lists as (all values, the offset at which each list begins). Raises Problem 400."""
    if not is_lists(column) or column.null_count:
        raise invalid(f"column '{what}' is {column.type}; a bag is a list without nulls")
    ends = np.cumsum(column.value_lengths().to_numpy(), dtype=np.int64)
    return column.flatten(), np.concatenate([np.zeros(1, np.int64), ends])[: len(column)]
