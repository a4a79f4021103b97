"""The schema of a table: its name, the dtype of its rows as NumPy and as JSON have it, and its bound of rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InvalidError
from .extension_dtypes import is_extension, is_float, with_extensions

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")
MAX_ROW_BYTES = 1 << 16
MAX_DENSE_ROWS = 1 << 47


def check_name(name: Any, kind: str) -> None:
    """Raise InvalidError unless `name` can name a table or a view. kind: "table" or "view", for the message."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidError(
            f"{name!r} cannot name a {kind}: letters, digits, _ . : and -, at most 128, not beginning with . : or -"
        )


def row_dtype(dtype: npt.DTypeLike) -> np.dtype:
    """Return a dtype as rows are stored: fixed size, little-endian, no Python objects; subarrays keep their shape.

    InvalidError: rows cannot have this dtype."""
    try:
        row = np.dtype(with_extensions(dtype)).newbyteorder("<")
        if not is_extension(row.base):
            refuse_unstorable(row)
        if row.base.names is not None:
            np.lib.format.dtype_to_descr(row.base)  # ValueError: fields overlap, or stand in another order
    except (TypeError, ValueError) as error:
        raise InvalidError(f"{dtype!r} is no NumPy dtype for rows: {error}") from error
    if row.hasobject or row.itemsize == 0:
        raise InvalidError(
            f"dtype {row} has no fixed size in bytes: use numbers, booleans, S<n>, U<n>, or structures and "
            "arrays of them"
        )
    if row.itemsize > MAX_ROW_BYTES:
        raise InvalidError(
            f"rows of {row.itemsize:,} bytes are too wide: at most {MAX_ROW_BYTES:,}; use a keyspace for blobs"
        )
    return row


def refuse_unstorable(row: np.dtype) -> None:
    """Raise ValueError for dtypes whose description would not give the same dtype again after a restart."""
    base = row.base
    if base.names is None and not _is_described(base):
        raise ValueError(
            f"{base} comes from an extension of NumPy: store its bits, as 'u2' or 'u1', or convert to 'f4'"
        )
    for name in base.names or ():
        field = base.fields[name]
        if len(field) > 2:
            raise ValueError(f"field {name!r} has a title, {field[2]!r}: leave titles out")
        refuse_unstorable(field[0])


def _is_described(base: np.dtype) -> bool:
    """Return whether NumPy's description of a dtype gives the same dtype again."""
    try:
        return np.dtype(base.str) == base
    except TypeError:
        return False


def descr_of(row: np.dtype) -> Any:
    """Return a row dtype in the form that JSON can carry: a NumPy descr for structures, [base, shape] otherwise."""
    if row.names is not None:
        return np.lib.format.dtype_to_descr(row)
    if row.base.names is not None:
        return [descr_of(row.base), list(row.shape)]
    return [row.base.name if is_extension(row.base) else row.base.str, list(row.shape)]


def dtype_from(descr: Any) -> np.dtype:
    """Return the row dtype that `descr_of` described."""
    base, shape = (descr, ()) if is_structure(descr) else descr
    if is_structure(base):
        base = np.lib.format.descr_to_dtype(as_descr(base))
    return row_dtype((base, tuple(shape)) if shape else base)


def check_bound(rows: Any) -> int | None:
    """Return the number of rows of a dense table, or None for a table of any int64 ids. InvalidError: out of range."""
    if rows is None:
        return None
    if not isinstance(rows, int | np.integer) or not 0 < rows <= MAX_DENSE_ROWS:
        raise InvalidError(f"rows={rows!r}: a dense table has 1 to {MAX_DENSE_ROWS:,} rows; None for any int64 ids")
    return int(rows)


def is_structure(descr: Any) -> bool:
    """Tell a list of fields, each (name, dtype[, shape]), from a dtype's name or [base, shape]."""
    if not isinstance(descr, list | tuple):
        return False
    return all(isinstance(field, list | tuple) and len(field) > 1 and isinstance(field[0], str) for field in descr)


def as_descr(value: Any) -> Any:
    """Convert lists from JSON to the tuples that NumPy wants in a descr."""
    if isinstance(value, dict):
        return value
    return [
        (field[0], as_descr(field[1]) if isinstance(field[1], list) else field[1], *[tuple(s) for s in field[2:]])
        for field in value
    ]


def can_become(given: np.dtype, wanted: np.dtype) -> bool:
    """True if rows of dtype `given` may be stored as `wanted`. Field names must agree: NumPy casts by position."""
    if is_extension(given) and not is_float(wanted):
        return False
    return given.names == wanted.names and np.can_cast(given, wanted, "same_kind")


def packed_fields(dtype: np.dtype, fields: Sequence[str], table: str) -> np.dtype:
    """Return the dtype of these fields, packed. InvalidError: there is no such field. table: its name, for that."""
    if isinstance(fields, str) or not isinstance(fields, Sequence):
        raise InvalidError(f"fields={fields!r:.80}: give a list of names, such as {list(dtype.names or ('name',))[:1]}")
    missing = [field for field in fields if field not in (dtype.names or ())]
    if missing:
        raise InvalidError(
            f"table {table!r} has no field {missing[0]!r}; it has {', '.join(dtype.names or ()) or 'no fields'}"
        )
    return np.dtype([(field, dtype[field]) for field in fields])


def pick_fields(rows: np.ndarray, packed: np.dtype, into: np.ndarray | None = None) -> np.ndarray:
    """Return rows with the fields of `packed` alone, in `into` if that is given."""
    picked = np.empty(rows.shape, packed) if into is None else into
    for field in packed.names or ():
        picked[field] = rows[field]
    return picked
