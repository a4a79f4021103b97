"""Arrays as people have them: ids of any shape and integer type, DataFrames, results for NumPy, torch and Arrow.

pandas, polars, pyarrow and torch are recognised by what their objects can do, and imported only where a result of
theirs is asked for. The engine has a module of its own with the same functions, as this package never imports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

InvalidError = ValueError

SHORT_TENSORS = ("torch.bfloat16", "torch.float8_e4m3fn", "torch.float8_e5m2")
FORMS = ("numpy", "torch", "arrow")  # of results, the values of `as_`
ID_MAX = np.iinfo(np.int64).max


def as_array(given: Any, label: str, dtype: npt.DTypeLike = None) -> np.ndarray:
    """Return what was given as a NumPy array, without a copy where its owner shares its memory.

    label: what it is, for the error. InvalidError: it gives no array, such as a tensor on a GPU."""
    try:
        return np.asarray(given, dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        if str(getattr(given, "dtype", "")) in SHORT_TENSORS:
            return _from_short_tensor(given)
        raise InvalidError(f"{label}: {type(given).__name__} gives no NumPy array: {error}") from error


def _from_short_tensor(tensor: Any) -> np.ndarray:
    """Return the memory of a tensor of short floats, which torch does not give to NumPy by itself."""
    import ml_dtypes
    import torch

    name = str(tensor.dtype).removeprefix("torch.")
    bits = tensor.detach().contiguous().view(torch.int16 if name == "bfloat16" else torch.uint8)
    return bits.numpy().view(getattr(ml_dtypes, name))


def as_id_array(ids: npt.ArrayLike, label: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return ids as contiguous int64[n], and the shape that they came in. InvalidError: no integers, or too large."""
    array = as_array(ids, label)
    if array.size == 0:
        return np.empty(0, "<i8"), array.shape
    if array.dtype.kind == "O" and all(_is_integer(one) for one in array.flat):
        array = _from_objects(array, label)
    if array.dtype.kind not in "iu":
        raise InvalidError(f"{label} must be integers, not {array.dtype} of shape {array.shape}")
    if array.dtype.kind == "u" and array.itemsize == 8 and array.max() > np.uint64(ID_MAX):
        raise InvalidError(f"{label} hold {array.max()}: ids are int64, at most {ID_MAX}")
    return np.ascontiguousarray(array, "<i8").reshape(-1), array.shape


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _from_objects(array: np.ndarray, label: str) -> np.ndarray:
    """Convert Python's integers, as pandas' nullable columns give them."""
    try:
        return array.astype("<i8")
    except OverflowError as error:
        raise InvalidError(f"{label} hold {max(array.flat, key=abs)}: ids are int64, at most {ID_MAX}") from error


# rows


def as_row_array(rows: Any, dtype: np.dtype, ids: np.ndarray, label: str) -> np.ndarray:
    """Return rows as an array: of the columns of a DataFrame, if `dtype` has fields, or as NumPy makes it.

    dtype: of one element of the table; ids: a column of a DataFrame that holds just these is no field, and left out."""
    if dtype.names is None or isinstance(rows, np.ndarray):
        return as_array(rows, label)
    columns = columns_of(rows)
    if columns is not None:
        return _from_columns(columns, dtype, ids, label)
    if isinstance(rows, list | tuple):  # NumPy infers no structure from lists
        try:
            return np.asarray(rows, dtype)
        except (TypeError, ValueError) as error:
            raise InvalidError(f"{label}: {error}; rows of several fields are tuples, or columns by name") from error
    return as_array(rows, label)


def columns_of(rows: Any) -> dict[str, Any] | None:
    """Return the columns of a DataFrame of pandas or polars, a pyarrow Table, or a mapping; None if it is none."""
    if isinstance(rows, Mapping):
        return dict(rows)
    if hasattr(rows, "column_names") and hasattr(rows, "column"):  # pyarrow
        return {name: rows.column(name) for name in rows.column_names}
    if hasattr(rows, "columns") and hasattr(rows, "__getitem__"):  # pandas and polars
        return {name: rows[name] for name in rows.columns}
    return None


def _from_columns(columns: dict[str, Any], dtype: np.dtype, ids: np.ndarray, label: str) -> np.ndarray:
    names = dtype.names or ()
    missing = [name for name in names if name not in columns]
    if missing:
        raise InvalidError(f"{label}: there is no column {missing[0]!r}; there are {', '.join(map(str, columns))}")
    others = [name for name in columns if name not in names and not _has_just(columns[name], ids)]
    if others:
        raise InvalidError(f"{label}: column {others[0]!r} is no field of the table, which has {', '.join(names)}; "
                           "leave it out")  # fmt: skip
    arrays = {name: _column(columns[name], dtype[name], ids.size, f"{label}, column {name!r}") for name in names}
    made = np.empty(ids.size, [(name, array.dtype, array.shape[1:]) for name, array in arrays.items()])
    for name, array in arrays.items():
        made[name] = array
    return made


def _has_just(column: Any, ids: np.ndarray) -> bool:
    """Return whether a column holds these ids."""
    array = np.asarray(column)
    return array.dtype.kind in "iu" and np.array_equal(array, ids)


def _column(column: Any, field: np.dtype, count: int, label: str) -> np.ndarray:
    """Return one column as an array of the field's shape. InvalidError: another shape, or values are missing."""
    array, wanted = as_array(column, label), (count, *field.shape)
    if array.dtype.kind == "O" or (field.base.kind in "SU" and array.dtype.kind != field.base.kind):
        array = _from_cells(array.tolist(), field.base, label)
    if array.shape != wanted:
        raise InvalidError(f"{label} has shape {array.shape}; the field needs {wanted}")
    return array


def _from_cells(cells: list[Any], dtype: np.dtype, label: str) -> np.ndarray:
    """Convert cells that are Python objects: text, or one list a row."""
    if any(cell is None for cell in cells):
        raise InvalidError(f"{label} has missing values: fill them first")
    try:
        if dtype.kind == "S":
            return np.array([cell.encode() if isinstance(cell, str) else cell for cell in cells], np.bytes_)
        if dtype.kind == "U":
            return np.array(cells, np.str_)
        return np.array([np.asarray(cell) for cell in cells])
    except (TypeError, ValueError) as error:
        raise InvalidError(f"{label}: {error}") from error


# results


def out_array(out: Any, shape: tuple[int, ...], dtype: np.dtype, label: str) -> np.ndarray:
    """Return the memory of `out` as an array to be filled. InvalidError: it has another shape or dtype, or cannot."""
    array = as_array(out, label)
    if array.shape != shape or array.dtype != dtype:
        raise InvalidError(f"{label} has dtype {array.dtype} and shape {array.shape}; needed are {dtype} and {shape}")
    if not array.flags.c_contiguous or not array.flags.writeable:
        raise InvalidError(f"{label} must be contiguous and writable")
    if not isinstance(out, np.ndarray) and not np.shares_memory(array, np.asarray(out)):
        raise InvalidError(f"{label}: {type(out).__name__} does not share its memory with NumPy")
    return array


def in_form(rows: np.ndarray, form: str) -> Any:
    """Return rows as a NumPy array, a torch tensor or an Arrow array. The latter two share its memory where they can.

    InvalidError: there is no such form, or the library cannot hold this dtype."""
    if form == "numpy":
        return rows
    if form == "torch":
        return _tensor(rows)
    if form == "arrow":
        return _arrow(rows)
    raise InvalidError(f"as_={form!r}: choose one of {', '.join(FORMS)}")


def _tensor(rows: np.ndarray) -> Any:
    import torch

    if f"torch.{rows.dtype.name}" in SHORT_TENSORS:
        bits = rows.view(np.int16 if rows.dtype.name == "bfloat16" else np.uint8)
        return torch.from_numpy(bits).view(getattr(torch, rows.dtype.name))
    try:
        return torch.from_numpy(rows)
    except TypeError as error:
        raise InvalidError(f"torch has no tensors of {rows.dtype}: ask for fields one by one, or convert") from error


def _arrow(rows: np.ndarray) -> Any:
    import pyarrow

    names = rows.dtype.names
    if names is not None:
        return pyarrow.table({name: _arrow(np.ascontiguousarray(rows[name])) for name in names})
    try:
        made = pyarrow.array(rows.reshape(-1))
    except (pyarrow.ArrowException, TypeError) as error:
        raise InvalidError(f"Arrow has no arrays of {rows.dtype}: convert it first") from error
    for size in rows.shape[:0:-1]:
        made = pyarrow.FixedSizeListArray.from_arrays(made, size)
    return made
