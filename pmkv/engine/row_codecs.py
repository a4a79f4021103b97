"""Codecs of rows: how the rows of a table are stored, where that is not as they are read.

A table without a codec stores rows as they are. With one, rows of f4 are stored narrower: "f2", "bfloat16",
"float8_e4m3fn" and "float8_e5m2" round each number; "int8" and "int4" quantise each row between its least and greatest
number, in the fused rows of FBGEMM (pmkv/kernels/narrow_rows.py). The decision that creates a table has the stored
dtype as `descr`, and beside it {"codec": {"name": ..., "descr": the dtype that is read}}.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InvalidError
from ..kernels import narrow_rows
from ..kernels.reduce import MODES, pool_rows
from .casting import cast_values
from .initializer import Initializer
from .row_schema import descr_of, dtype_from, row_dtype

ROUNDING = {"f2": "f2", "bfloat16": "bfloat16", "float8_e4m3fn": "float8_e4m3fn", "float8_e5m2": "float8_e5m2"}
QUANTISING = {"int8": narrow_rows.INT8, "int4": narrow_rows.INT4}
SHORT_NAMES = {"float16": "f2", "<f2": "f2", "bf16": "bfloat16", "fp8": "float8_e4m3fn"}
FORMATS = {
    "float16": narrow_rows.HALF, "bfloat16": narrow_rows.BFLOAT, "float8_e4m3fn": narrow_rows.FLOAT8,
    "float8_e5m2": narrow_rows.FLOAT8_WIDE,
}  # fmt: skip
SMALLEST_STEP = np.float32(1e-8)  # added to the range of a row of int8 before it divides, as FBGEMM does
ENCODED_AT_ONCE_BYTES = 1 << 20  # of rows as read: the passes over them stay in the processor's cache
DRAWN_DEVIATIONS = 8.6  # no number drawn from a normal distribution is further from its mean


class RowCodec:
    """Rows that are stored as they are read. This is the codec of a table without one.

    stored, row_dtype: dtypes of a row as stored and as read; width: bytes of a stored row; size: numbers of a row;
    format: of `kernels.narrow_rows`, None for rows that are pooled without being decoded."""

    name: str | None = None

    def __init__(self, stored: np.dtype, read: np.dtype | None = None) -> None:
        self.stored, self.row_dtype = stored, stored if read is None else read
        self.dtype, self.shape = self.row_dtype.base, self.row_dtype.shape
        self.width, self.size = stored.itemsize, math.prod(self.shape)
        self.format = FORMATS.get(stored.base.name) if stored.names is None else None

    def encode(self, rows: np.ndarray, label: str) -> np.ndarray:
        """Return rows (..., *shape) of any dtype that casts, as they are stored, uint8[n * width].

        label: whose rows they are, for the error. InvalidError: a number cannot be stored."""
        return cast_values(rows, self.dtype, label).reshape(-1).view(np.uint8)

    def decode(self, raw: np.ndarray, shape: tuple[int, ...], into: np.ndarray | None = None) -> np.ndarray:
        """Return stored rows as an array of shape (*shape, *self.shape), in `into` if that is given."""
        return raw.view(self.dtype).reshape((*shape, *self.shape))

    def is_encoded(self, rows: np.ndarray, shape: tuple[int, ...]) -> bool:
        """Return whether rows of ids of this shape are quantised already: they cannot be numbers to quantise."""
        return False

    def refuse_damaged(self, raw: np.ndarray, label: str) -> None:
        """Raise InvalidError if rows that came encoded cannot be decoded to numbers."""

    def pool(
        self, raw: np.ndarray, found: np.ndarray, weights: np.ndarray, mode: str, starts: np.ndarray, real: np.dtype
    ) -> np.ndarray:
        """Return bags of stored rows reduced, as `kernels.reduce.pool_rows` does; shape (bags, numbers of a row)."""
        pooled = np.zeros((starts.size, self.size), real)
        if self.format is not None:
            row = np.empty(self.size, np.float32)
            narrow_rows.pool_narrow_rows(self.format, raw, self.width, found, weights, MODES[mode], starts, row, pooled)
        else:
            rows = raw.view(self.dtype).reshape(found.size, self.size).astype(real, copy=False)
            pool_rows(rows, found, weights, MODES[mode], starts, pooled)
        return pooled


class NarrowCodec(RowCodec):
    """Rows of f4 that are stored as narrower floats, or quantised. name: of the codec."""

    def __init__(self, name: str, stored: np.dtype, read: np.dtype) -> None:
        super().__init__(stored, read)
        self.name = name
        self.format = QUANTISING.get(name, self.format)

    def encode(self, rows: np.ndarray, label: str) -> np.ndarray:
        if rows.dtype == self.stored.base and self.name not in QUANTISING:
            return np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
        numbers = cast_values(rows, self.dtype, label)
        if self.name not in QUANTISING:
            return cast_values(numbers, self.stored.base, label).reshape(-1).view(np.uint8)
        numbers = np.require(numbers, requirements="CA").reshape(-1, self.size)
        raw = np.empty(len(numbers) * self.width, np.uint8)
        step = max(1, ENCODED_AT_ONCE_BYTES // self.row_dtype.itemsize)
        for start in range(0, len(numbers), step):
            piece = numbers[start : start + step]
            self._quantise(piece, raw[start * self.width : (start + len(piece)) * self.width], label)
        return raw

    def _quantise(self, rows: np.ndarray, raw: np.ndarray, label: str) -> None:
        """Write rows, float32[n, size], to `raw`. InvalidError: a row has no finite range."""
        lows, highs = np.empty(len(rows), np.int32), np.empty(len(rows), np.int32)
        bad = narrow_rows.row_ranges(rows.view(np.int32), lows, highs)
        if bad >= 0:
            strange = rows[bad][~np.isfinite(rows[bad])][0]
            raise InvalidError(f"{label}: {strange} cannot be quantised to {self.name}; replace it, or use a table "
                               "without a codec")  # fmt: skip
        low, high = numbers_of(lows), numbers_of(highs)
        scale, bias, inverse = (scales8 if self.name == "int8" else scales4)(low, high)
        bad = np.flatnonzero(~is_finite(scale, bias))
        if bad.size:
            raise InvalidError(f"{label}: a row with numbers from {low[bad[0]]} to {high[bad[0]]} cannot be quantised "
                               f"to {self.name}: the range is too great; clip or scale the rows")  # fmt: skip
        narrow_rows.quantise_rows(self.format, rows, bias.astype(np.float32), inverse, raw, self.width)
        lines, tail = raw.reshape(-1, self.width), self.width - 2 * scale.itemsize
        lines[:, tail:] = np.stack([scale, bias], axis=1).view(np.uint8)

    def decode(self, raw: np.ndarray, shape: tuple[int, ...], into: np.ndarray | None = None) -> np.ndarray:
        if into is not None and not into.flags.aligned:
            into[...] = self.decode(raw, shape).reshape(into.shape)
            return into
        rows = np.empty((*shape, *self.shape), self.dtype) if into is None else into
        narrow_rows.decode_rows(self.format, raw, self.width, rows.reshape(raw.size // self.width, self.size))
        return rows

    def is_encoded(self, rows: np.ndarray, shape: tuple[int, ...]) -> bool:
        wanted = (*shape, *self.stored.shape)
        return rows.dtype == np.uint8 and rows.shape == wanted and self.stored.shape != self.shape

    def refuse_damaged(self, raw: np.ndarray, label: str) -> None:
        if self.name in QUANTISING:
            real = np.float32 if self.name == "int8" else np.float16
            tail = np.ascontiguousarray(raw.reshape(-1, self.width)[:, -2 * np.dtype(real).itemsize :]).view(real)
            if not is_finite(tail[:, 0], tail[:, 1]).all():
                raise InvalidError(f"{label}: scale or bias of an encoded row is not finite: is it {self.name} of "
                                   "FBGEMM, scale first?")  # fmt: skip


def numbers_of(ordered: np.ndarray) -> np.ndarray:
    """Return the float32 of the words that `narrow_rows.row_ranges` sets; zeros without their sign."""
    bits = ordered ^ ((ordered >> 31) & np.int32(0x7FFFFFFF))
    return bits.view(np.float32) + np.float32(0)


def is_finite(scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return for each row whether all its numbers are finite: bias, and the greatest step of int8 above it."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.isfinite(bias) & np.isfinite(scale.astype(np.float32) * np.float32(255) + bias)


def scales8(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scale and bias of rows of int8, and what numbers are multiplied by; each float32[n]."""
    with np.errstate(over="ignore", invalid="ignore"):
        spread = high - low
        return spread / np.float32(255), low, np.float32(255) / (spread + SMALLEST_STEP)


def scales4(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scale and bias of rows of int4, float16[n], and what numbers are multiplied by, float32[n]."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        bias = low.astype(np.float16)
        spread = high - bias.astype(np.float32)
        scale = np.where(spread == 0, np.float32(1), spread / np.float32(15)).astype(np.float16)
        inverse = np.float32(1) / scale.astype(np.float32)
    is_flat = (scale == 0) | np.isinf(inverse)
    return np.where(is_flat, np.float16(1), scale), bias, np.where(is_flat, np.float32(1), inverse)


def checked_codec(name: Any, dtype: npt.DTypeLike) -> RowCodec:
    """Return the codec of a `create_table`. InvalidError: there is none of this name, or it is not for this dtype."""
    read = row_dtype(dtype)
    if name is None:
        return RowCodec(read)
    known = SHORT_NAMES.get(name, name) if isinstance(name, str) else None
    if known not in ROUNDING and known not in QUANTISING:
        raise InvalidError(f"codec={name!r}: choose one of {', '.join([*ROUNDING, *QUANTISING])}, or None")
    if read.base != np.float32:
        raise InvalidError(f"codec={name!r} stores rows of f4, not of {read}: leave the codec out, or create the table "
                           "with dtype f4")  # fmt: skip
    return NarrowCodec(known, stored_dtype(known, read), read)


def stored_dtype(name: str, read: np.dtype) -> np.dtype:
    """Return the dtype of a stored row of a codec, given the row that is read."""
    if name in ROUNDING:
        return row_dtype((ROUNDING[name], read.shape) if read.shape else ROUNDING[name])
    size = math.prod(read.shape)
    return row_dtype(("u1", (size + 8 if name == "int8" else (size + 1) // 2 + 4,)))


def codec_fields(codec: RowCodec) -> dict[str, Any]:
    """Return what the decision that creates a table says of its rows."""
    if codec.name is None:
        return {"descr": descr_of(codec.stored)}
    return {"descr": descr_of(codec.stored), "codec": {"name": codec.name, "descr": descr_of(codec.row_dtype)}}


def codec_of(decision: dict[str, Any]) -> RowCodec:
    """Return the codec of a table by the decision that created it. InvalidError: they do not fit together."""
    stored = dtype_from(decision["descr"])
    if decision.get("codec") is None:
        return RowCodec(stored)
    codec = checked_codec(decision["codec"]["name"], dtype_from(decision["codec"]["descr"]))
    if codec.stored != stored:
        raise InvalidError(f"rows of {codec.row_dtype} in {codec.name} are not stored as {stored}")
    return codec


def refuse_default(codec: RowCodec, default: dict[str, Any] | None) -> None:
    """Raise InvalidError if rows of a table's default could not be stored. default: as `initializer.normalized`
    returned it."""
    if codec.name is None or default is None:
        return
    if "uniform" in default:
        ends = default["uniform"]
    elif "normal" in default:
        mean, deviation = default["normal"]
        ends = [mean - DRAWN_DEVIATIONS * deviation, mean + DRAWN_DEVIATIONS * deviation]
    else:
        row = Initializer(default, codec.dtype, codec.shape).rows(np.zeros(1, np.int64))
        codec.encode(row, "default=")
        return
    codec.encode(np.resize(np.array(ends), (2, *codec.shape)), "default=")
