"""Rows that stand for those that were never written: zeros, a value, or numbers drawn by id, equal for every reader.

The numbers of a row depend on the seed, the id and the place in the row alone: SplitMix64 counts through them. A table
keeps its choice in the decision that created it, in the form that `normalized` returns.
"""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np

from ..errors import InvalidError
from .casting import cast_default, cast_values
from .extension_dtypes import is_float

DRAWN_AT_ONCE = 1 << 16  # numbers
DRAWN = ("uniform", "normal")
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def normalized(default: Any, dtype: np.dtype, shape: tuple[int, ...]) -> dict[str, Any] | None:
    """Return a `default=` of `create_table` in the form that a decision carries; None for zeros.

    InvalidError: it does not fit rows of this dtype and shape."""
    if default is None or (isinstance(default, str) and default == "zeros"):
        return None
    if isinstance(default, dict) and not default.keys().isdisjoint(DRAWN):
        return _drawn(default, dtype)
    create = {"create": True} if isinstance(default, dict) and default.get("create") else {}
    keys = set(default) - {"create"} if isinstance(default, dict) else set()
    if keys == {"row"}:
        row = base64.b64decode(default["row"])
        if len(row) != dtype.itemsize * math.prod(shape):
            raise InvalidError(f"default={default!r} is no row of {dtype} and shape {shape}")
        return {"row": default["row"], **create}
    value = default["value"] if keys == {"value"} else default
    if isinstance(value, dict):
        raise InvalidError(f"default={default!r}: known are \"zeros\", a value (or {{'value': value}}), and "
                           "{'uniform': (low, high)} or {'normal': (mean, deviation)} with a 'seed'")  # fmt: skip
    filled = cast_default(value, shape, dtype, f"rows of {dtype}")
    if not any(filled.tobytes()) and not create:
        return None
    if isinstance(value, int | float) and math.isfinite(value):
        return {"value": value, **create}
    return {"row": base64.b64encode(filled.tobytes()).decode(), **create}


def _drawn(default: dict[str, Any], dtype: np.dtype) -> dict[str, Any]:
    """Return a distribution with its numbers and seed checked."""
    kind = next(name for name in DRAWN if name in default)
    unknown = sorted(set(default) - {kind, "seed", "create"})
    numbers, seed = default[kind], default.get("seed", 0)
    if unknown or not isinstance(numbers, list | tuple) or len(numbers) != 2 or not all(map(_is_finite, numbers)):
        raise InvalidError(f"default={default!r}: '{kind}' takes two finite numbers, and 'seed' and 'create' beside it")
    if not isinstance(seed, int | np.integer) or not 0 <= seed < 1 << 64:
        raise InvalidError(f"default={default!r}: 'seed' is a number from 0 to 2**64 - 1")
    if not (is_float(dtype) or (kind == "uniform" and dtype.kind in "iu")):
        raise InvalidError(f"default={default!r}: rows of {dtype} cannot be drawn so; give a value")
    low, high = map(float, numbers)
    if kind == "uniform" and not low <= high:
        raise InvalidError(f"default={default!r}: the lower bound comes first")
    cast_values(np.array([low, high]), dtype, f"default={default!r}")
    create = {"create": True} if default.get("create") else {}
    return {kind: [low, high], "seed": int(seed), **create}


def _is_finite(number: Any) -> bool:
    return isinstance(number, int | float | np.number) and math.isfinite(number)


class Initializer:
    """Gives the rows of ids that have none. creates: the first read of such an id writes its row."""

    def __init__(self, spec: dict[str, Any], dtype: np.dtype, shape: tuple[int, ...]) -> None:
        """spec: what `normalized` returned."""
        self.creates = bool(spec.get("create"))
        self._spec, self._dtype, self._shape = spec, dtype, shape
        self._row: np.ndarray | None = None
        if "value" in spec:
            self._row = cast_default(spec["value"], shape, dtype, f"rows of {dtype}")
        elif "row" in spec:
            self._row = np.frombuffer(base64.b64decode(spec["row"]), dtype).reshape(shape)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows of ids, int64[n], as an array of shape (n, *shape)."""
        if self._row is not None:
            return np.broadcast_to(self._row, (ids.size, *self._shape))
        size = math.prod(self._shape)
        rows = np.empty((ids.size, size), self._dtype)
        step = max(1, DRAWN_AT_ONCE // max(1, size))
        for start in range(0, ids.size, step):
            rows[start : start + step] = self._draw(ids[start : start + step], size)
        return rows.reshape((ids.size, *self._shape))

    def _draw(self, ids: np.ndarray, size: int) -> np.ndarray:
        if "uniform" in self._spec:
            low, high = self._spec["uniform"]
            drawn = low + (high - low) * self._unit(ids, size, 0)
            return np.minimum(np.floor(drawn), max(low, high - 1)) if self._dtype.kind in "iu" else drawn
        mean, deviation = self._spec["normal"]
        radius = np.sqrt(-2.0 * np.log1p(-self._unit(ids, size, 0)))
        return mean + deviation * radius * np.cos(2.0 * np.pi * self._unit(ids, size, 1))

    def _unit(self, ids: np.ndarray, size: int, stream: int) -> np.ndarray:
        """Return numbers in [0, 1), float64[n, size]."""
        seed = np.array([self._spec["seed"]], np.uint64)
        begin = _mixed(ids.view(np.uint64) ^ _mixed(seed + _GOLDEN))
        places = np.arange(1 + stream * size, 1 + (stream + 1) * size, dtype=np.uint64) * _GOLDEN
        return (_mixed(begin[:, None] + places) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(words: np.ndarray) -> np.ndarray:
    """Return the finaliser of SplitMix64 of each word."""
    words = (words ^ (words >> np.uint64(30))) * _MIX1
    words = (words ^ (words >> np.uint64(27))) * _MIX2
    return words ^ (words >> np.uint64(31))
