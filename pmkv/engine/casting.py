"""Conversions of what users give into the dtype of a table, without silent loss.

A value is stored only if the table's dtype can represent it: integers must lie in range, finite floats must stay finite
(they are rounded, as f8 to f4 always is), infinities infinite, text must not be cut. Sums are computed in a wide type
and checked likewise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidError
from .extension_dtypes import is_extension

SAFE_SUM = float(1 << 62)  # sums whose terms add up to less, in absolute value, cannot overflow an int64


def cast_values(given: np.ndarray, dtype: np.dtype, label: str) -> np.ndarray:
    """Return `given` as a contiguous array of `dtype`. label: what the values are, for the error.

    InvalidError: a value does not fit."""
    given = np.asarray(given)
    if given.dtype == dtype:
        return np.ascontiguousarray(given)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            stored = np.ascontiguousarray(given, dtype)
        bad = _first_lost(given, stored)
    except OverflowError:  # one of Python's integers
        limits = np.iinfo(dtype)
        bad = next(int(value) for value in given.reshape(-1) if not limits.min <= value <= limits.max)
    if bad is not None:
        raise InvalidError(f"{label}: {bad!r} does not fit dtype {dtype}; convert or clip the values first")
    return stored


def cast_default(default: Any, shape: tuple[int, ...], dtype: np.dtype, label: str) -> np.ndarray:
    """Return an array of `shape` with every element `default`, a scalar or anything that broadcasts.

    InvalidError: `default` does not fit."""
    filled = np.zeros(shape, dtype)
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            filled[...] = default
        given = np.broadcast_to(np.asarray(default), filled.shape) if dtype.names is None else None
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidError(f"default={default!r} does not fit {label}: {error}") from error
    if given is not None and _first_lost(given, filled) is not None:
        raise InvalidError(f"default={default!r} does not fit {label}: it cannot be stored as {dtype}")
    return filled


def add_rows(current: np.ndarray, where: np.ndarray, change: np.ndarray, label: str) -> np.ndarray:
    """Return `current` with `change[i]` added to row `where[i]`; equal targets add up.

    Floats accumulate in float64, complex numbers in complex128, integers exactly; the sum is then rounded once.
    InvalidError: a sum is out of the dtype's range; nothing was changed."""
    if is_extension(current.dtype):
        wide = current.astype(np.float64)
    elif current.dtype.kind in "fc":
        wide = current.astype(np.result_type(current.dtype, np.float64))
    elif max(_magnitude(current) + _total(change), 0.0) < SAFE_SUM:
        wide = current.astype(np.int64)
    else:
        wide, change = current.astype(object), change.astype(object)  # Python's integers do not overflow
    np.add.at(wide, where, change)
    return cast_values(wide, current.dtype, label)


def _magnitude(array: np.ndarray) -> float:
    return float(np.abs(array.astype(np.float64)).max()) if array.size else 0.0


def _total(array: np.ndarray) -> float:
    return float(np.abs(array.astype(np.float64)).sum())


def _first_lost(given: np.ndarray, stored: np.ndarray) -> Any:
    """Return the first value that `stored` does not represent, None if there is none."""
    if stored.dtype.names is not None:
        lost = (_first_lost(given[name], stored[name]) for name in stored.dtype.names)
        return next((value for value in lost if value is not None), None)
    wrong = _is_lost(given, stored)
    if not wrong.any():
        return None
    value = given.reshape(-1)[int(np.flatnonzero(wrong)[0])]
    return value.item() if isinstance(value, np.generic) else value


def _is_lost(given: np.ndarray, stored: np.ndarray) -> np.ndarray:
    source, target = given.dtype.kind, stored.dtype.kind
    if target in "fc" or is_extension(stored.dtype):
        if source not in "iufcO":
            return np.zeros(1, bool)
        if source == "O":
            return (~np.isfinite(stored)).reshape(-1)
        became_nan = np.isinf(given) & np.isnan(stored)  # float8_e4m3fn has no infinities
        return ((np.isfinite(given) & ~np.isfinite(stored)) | became_nan).reshape(-1)
    if target in "iu" and source in "iufO":
        if source in "iu":
            limits = np.iinfo(stored.dtype)
            low, high = int(given.min(initial=0)), int(given.max(initial=0))
            if limits.min <= low and high <= limits.max:
                return np.zeros(1, bool)
            return np.array([not limits.min <= int(value) <= limits.max for value in given.reshape(-1)])
        exact = stored.astype(object) if source == "O" else stored
        return np.asarray(exact != given).reshape(-1)
    if target in "SU" and source in "SU":
        return np.asarray(stored.astype(given.dtype) != given).reshape(-1)
    return np.zeros(1, bool)
