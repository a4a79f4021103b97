"""Kernels for rows that are stored narrower than they are read: decode them, pool them, quantise them.

A row of the format INT8 is one byte a number, then scale and bias, f4 each; a row of INT4 is half a byte a number, the
first one of a pair in the low bits, then scale and bias, f2 each (the fused rows of FBGEMM). A number q stands for
q * scale + bias, rounded to f4 after each of the two. HALF (f2) and BFLOAT (bfloat16) are two bytes a number, FLOAT8
(float8_e4m3fn) and FLOAT8_WIDE (float8_e5m2) one. Rows follow one another without gaps.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ..runtime.jit import BOOL, BYTES, I64, IDS, INT, JIT, U8, U64, WORD, kernel
from . import location
from .hashing import check16
from .memory import load16, load64
from .probe import AHEAD
from .reduce import prefetch_row, reduce_row

HALF, BFLOAT, FLOAT8, FLOAT8_WIDE, INT8, INT4 = range(6)  # formats
F4 = types.float32[::1]
F4_2D = types.float32[:, ::1]
F4_READ = types.Array(types.float32, 1, "C", readonly=True)
I4 = types.int32[::1]
I4_READ_2D = types.Array(types.int32, 2, "C", readonly=True)
F4_READ_2D = types.Array(types.float32, 2, "C", readonly=True)
HALF_TO_F4 = np.float32(2.0**112)  # moves the exponent of a half, whose bits were put in place, to that of an f4
FLOAT8_TO_F4 = np.float32(2.0**120)
INFINITY, MINUS = np.int32(0x7F800000), np.int32(-0x80000000)  # bits
ZERO, MOST8, MOST4 = np.float32(0), np.float32(255), np.float32(15)
U = np.uint32

if JIT:

    @intrinsic
    def f4_of(typingctx, bits):
        """Return the f4 with these 32 bits."""

        def codegen(context, builder, signature, args):
            return builder.bitcast(args[0], ir.FloatType())

        return types.float32(types.uint32), codegen

else:

    def f4_of(bits):
        return np.array([bits], np.uint32).view(np.float32)[0]


@njit(inline="always")
def half_to_f4(word):
    """Return the f4 of the 16 bits of an f2. The multiplication is exact, and makes subnormal numbers normal."""
    half = U(word)
    size = f4_of((half & U(0x7FFF)) << U(13)) * HALF_TO_F4
    sign = f4_of(((half & U(0x8000)) << U(16)) | U(0x3F800000))
    special = f4_of(U(0x7F800000) | ((half & U(0x3FF)) << U(13)))
    return (special if (half & U(0x7C00)) == U(0x7C00) else size) * sign


@njit(inline="always")
def float8_to_f4(byte):
    """Return the f4 of a float8_e4m3fn, which has no infinities."""
    size = f4_of((U(byte) & U(0x7F)) << U(20)) * FLOAT8_TO_F4
    sign = f4_of(((U(byte) & U(0x80)) << U(24)) | U(0x3F800000))
    return (f4_of(U(0x7FC00000)) if (U(byte) & U(0x7F)) == U(0x7F) else size) * sign


@njit(inline="always")
def ordered(bits):
    """Return the bits of an f4 as an integer that is greater if the number is. It is its own inverse."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@njit(inline="always")
def decode_row(form, line, row):
    """Set the numbers of a row from the bytes of its line. (Slices start at 0, so that loops over them vectorise.)"""
    size = row.size
    if form == HALF:
        for k in range(size):
            row[k] = half_to_f4(load16(line, 2 * k))
    elif form == BFLOAT:
        for k in range(size):
            row[k] = f4_of(U(load16(line, 2 * k)) << U(16))
    elif form == FLOAT8:
        for k in range(size):
            row[k] = float8_to_f4(line[k])
    elif form == FLOAT8_WIDE:
        for k in range(size):
            row[k] = half_to_f4(U(line[k]) << U(8))
    elif form == INT8:
        word = load64(line, size)
        scale, bias = f4_of(U(word & np.uint64(0xFFFFFFFF))), f4_of(U(word >> np.uint64(32)))
        for k in range(size):
            row[k] = np.float32(line[k]) * scale + bias
    else:
        end = (size + 1) >> 1
        scale, bias = half_to_f4(load16(line, end)), half_to_f4(load16(line, end + 2))
        for k in range(size >> 1):
            row[2 * k] = np.float32(line[k] & 15) * scale + bias
            row[2 * k + 1] = np.float32(line[k] >> 4) * scale + bias
        if size & 1:
            row[size - 1] = np.float32(line[end - 1] & 15) * scale + bias


@kernel(INT, BYTES, INT, F4_2D, size_argument=3)
def decode_rows(form, raw, width, out):
    """Set out[i] to the numbers of the row at raw[i * width]."""
    for i in range(len(out)):
        decode_row(form, raw[i * width : (i + 1) * width], out[i])


@kernel(INT, BYTES, INT, U8, F4_READ, INT, IDS, F4, F4_2D, size_argument=3)
def pool_narrow_rows(form, raw, width, found, weights, mode, offsets, row, out):
    """Set out[b] to the reduction of bag b of rows, as `reduce.pool_rows` does of decoded ones, to the last bit.

    row: memory for one decoded row; weights: one for each row, or empty; out: zeros."""
    for b in range(offsets.size):
        stop = offsets[b + 1] if b + 1 < offsets.size else found.size
        taken, bag = 0, out[b]
        for j in range(offsets[b], stop):
            if not found[j]:
                continue
            decode_row(form, raw[j * width : (j + 1) * width], row)
            weight = weights[j] if weights.size else np.float32(1)
            reduce_row(row, 0, weight, mode, taken, bag)
            taken += 1
        if mode == 1 and taken:
            for k in range(row.size):
                bag[k] = bag[k] / taken


@kernel(
    INT, BYTES, BYTES, INT, U64, I64, IDS, INT, WORD, BOOL, F4_READ, INT, IDS, F4, F4_2D, size_argument=6,
    hold_gil_below=None,
)  # fmt: skip
def pool_narrow_in_place(
    form, data, cached, stride, found, slots, ids, width, owner, verify, weights, mode, offsets, row, out
):
    """Do as `pool_narrow_rows` with rows where they stand, and verify those of the log against their locations.

    As `reduce.pool_in_place`, which says what the arguments are. Return the first damaged i, or -1."""
    for b in range(offsets.size):
        stop, taken, bag = offsets[b + 1] if b + 1 < offsets.size else ids.size, 0, out[b]
        for i in range(offsets[b], stop):
            prefetch_row(data, cached, found, slots, stride, width, i + AHEAD)
            if not location.lives(found[i]):
                continue
            if found[i] == location.CACHED:
                decode_row(form, cached[slots[i] * stride : slots[i] * stride + width], row)
            else:
                at = location.offset_of(found[i])
                if at + width > data.size:
                    return i
                if verify and check16(data, at, width, owner, np.uint64(ids[i])) != location.check_of(found[i]):
                    return i
                decode_row(form, data[at : at + width], row)
            weight = weights[i] if weights.size else np.float32(1)
            reduce_row(row, 0, weight, mode, taken, bag)
            taken += 1
        if mode == 1 and taken:
            for k in range(row.size):
                bag[k] = bag[k] / taken
    return -1


@kernel(I4_READ_2D, I4, I4, size_argument=0)
def row_ranges(bits, lows, highs):
    """Set lows[i] and highs[i] to the least and greatest number of a row, as `ordered` gives their bits.

    bits: of rows of f4. Return the first row that holds NaN or an infinity, or -1."""
    for i in range(len(bits)):
        low, high = np.int32(0x7FFFFFFF), np.int32(-0x7FFFFFFF)
        for k in range(bits.shape[1]):
            word = ordered(bits[i, k])
            low, high = min(low, word), max(high, word)
        lows[i], highs[i] = low, high
        if high >= ordered(INFINITY) or low <= ordered(INFINITY | MINUS):
            return i
    return -1


@njit(inline="always")
def level_of(number, low, inverse, most):
    """Return the whole number of steps from `low`, at most `most`."""
    return np.uint8(max(ZERO, min(np.rint((number - low) * inverse), most)))


@kernel(INT, F4_READ_2D, F4_READ, F4_READ, U8, INT, size_argument=1)
def quantise_rows(form, rows, lows, inverses, raw, width):
    """Write the quantised numbers of each row to raw[i * width]; scale and bias are the caller's to write.

    lows: the bias of each row; inverses: 1 / scale."""
    size = rows.shape[1]
    for i in range(len(rows)):
        row, line, low, inverse = rows[i], raw[i * width : (i + 1) * width], lows[i], inverses[i]
        if form == INT8:
            for k in range(size):
                line[k] = level_of(row[k], low, inverse, MOST8)
            continue
        for k in range(size >> 1):
            first = level_of(row[2 * k], low, inverse, MOST4)
            line[k] = first | (level_of(row[2 * k + 1], low, inverse, MOST4) << 4)
        if size & 1:
            line[size >> 1] = level_of(row[size - 1], low, inverse, MOST4)
