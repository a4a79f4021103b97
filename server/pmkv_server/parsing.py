"""Strict parsers of numbers for RESP, REST and the command line.

Python's `int` and `float` also take underscores, spaces, a leading '+' and digits of other scripts; these do not.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,19}")
_FLOAT = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf(?:inity)?|nan)", re.IGNORECASE)

_HEX_FLOAT = re.compile(r"[+-]?0x(?:[0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)(?:p[+-]?[0-9]+)?", re.IGNORECASE)
_CURSOR = re.compile(r"([+-]?)([0-9]+)(?:\0|\Z)")
UNSIGNED_LIMIT = 1 << 64


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


def strict_long_double(text: str) -> np.longdouble | None:
    """Return what C's strtold makes of a text as Redis uses it: also hexadecimal, without spaces, underscores and NaN.
    None, too, for a finite number that is too large or too close to zero for a long double."""
    if not (_FLOAT.fullmatch(text) or _HEX_FLOAT.fullmatch(text)):
        return None
    with warnings.catch_warnings():  # of overflow
        warnings.simplefilter("ignore")
        value = np.longdouble(text)
    digits = text.lower().partition("p" if "x" in text.lower() else "e")[0]
    if np.isnan(value) or (np.isinf(value) and "i" not in digits) or (value == 0 and re.search("[1-9a-df]", digits)):
        return None
    return value


def strict_cursor(text: str) -> int | None:
    """Return a cursor as C's strtoul reads it, up to a NUL or the end: with leading zeros and a sign, -1 being the
    highest. An empty text is 0."""
    if text == "" or text[0] == "\0":
        return 0
    match = _CURSOR.match(text)
    digits = match[2].lstrip("0") if match is not None else ""
    value = int(digits or "0") if len(digits) <= 20 else UNSIGNED_LIMIT
    if match is None or value >= UNSIGNED_LIMIT:
        return None
    return (-value if match[1] == "-" else value) % UNSIGNED_LIMIT


SHORT_FLOATS = ("bfloat16", "float8_e4m3fn", "float8_e5m2")  # of ml_dtypes; NumPy knows no description of them


def dtype_name(dtype: Any) -> str:
    """Return the name by which clients know a dtype without fields."""
    return dtype.name if dtype.name in SHORT_FLOATS else dtype.str
