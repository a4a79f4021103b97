"""Strict parsers of numbers for RESP, REST and the command line.

Python's `int` and `float` also take underscores, spaces, a leading '+' and digits of other scripts; these do not.
"""

from __future__ import annotations

import re
from typing import Any

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,19}")
_FLOAT = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?|nan)", re.IGNORECASE)


def strict_int(text: str) -> int | None:
    """Return a decimal integer in its canonical form: no '+', spaces, underscores or leading zeros. Else None."""
    return int(text) if _INTEGER.fullmatch(text) else None


def strict_float(text: str) -> float | None:
    """Return a decimal floating-point number, an infinity or NaN, without spaces and underscores. Else None."""
    return float(text) if _FLOAT.fullmatch(text) else None


_MEMORY = re.compile(r"([0-9]{1,18})(b|kb?|mb?|gb?)?", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1 << 10, "m": 1000**2, "mb": 1 << 20, "g": 1000**3, "gb": 1 << 30}


def memory_size(text: str) -> int | None:
    """Return bytes as CONFIG SET of Redis takes them: 1048576, 1mb (binary) or 1m (decimal). Else None."""
    found = _MEMORY.fullmatch(text)
    return int(found[1]) * _UNITS[(found[2] or "").lower()] if found else None


SHORT_FLOATS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")  # of ml_dtypes; NumPy knows no description of them


def dtype_name(dtype: Any) -> str:
    """Return the name by which clients know a dtype without fields."""
    return dtype.name if dtype.name in SHORT_FLOATS else dtype.str
