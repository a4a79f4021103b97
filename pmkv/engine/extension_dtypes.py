"""Short floats of the package ml_dtypes: bfloat16, float8_e4m3fn and float8_e5m2. They are kept by name.

NumPy has no description of them that would give the same dtype again, so that a table must name them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidError

EXTENSIONS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def is_extension(dtype: np.dtype) -> bool:
    """Return whether this is one of the short floats."""
    return dtype.names is None and dtype.name in EXTENSIONS


def is_float(dtype: np.dtype) -> bool:
    """Return whether a dtype is a real float, of NumPy or a short one."""
    return dtype.kind == "f" or is_extension(dtype)


def with_extensions(dtype: Any) -> Any:
    """Return what NumPy makes a dtype of, with the names of short floats replaced, also in (name, shape).

    InvalidError: ml_dtypes is needed and not installed."""
    if isinstance(dtype, str) and dtype in EXTENSIONS:
        try:
            import ml_dtypes
        except ImportError:
            raise InvalidError(f"rows of {dtype} need the package ml_dtypes: pip install ml-dtypes") from None
        return np.dtype(getattr(ml_dtypes, dtype))
    if isinstance(dtype, tuple) and len(dtype) == 2 and isinstance(dtype[0], str):
        return with_extensions(dtype[0]), dtype[1]
    return dtype
