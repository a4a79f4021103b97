"""Pooling: bags of rows reduced to one row each, as torch.nn.EmbeddingBag (sum, mean, max) does.

`pool_rows` reduces rows that were gathered, `pool_in_place` rows where they stand. Both add in the order of the bag,
from zeros, so their results are equal to the last bit.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from ..runtime.jit import BOOL, BYTES, I64, IDS, INT, U8, U64, WORD, kernel
from . import location
from .hashing import check16
from .memory import prefetch
from .probe import AHEAD

MODES = {"sum": 0, "mean": 1, "max": 2}
PREFETCH_BYTES = 512  # of a row; after these the processor has recognised the pattern
U = np.uint64


@njit(inline="always")
def reduce_bag(rows, found, weights, mode, start, stop, out):
    """Reduce one bag; rows that were not found are left out, an empty bag is zeros."""
    taken = 0
    for j in range(start, stop):
        if not found[j]:
            continue
        for k in range(out.size):
            value = rows[j, k] * weights[j] if weights.size else rows[j, k]
            if mode == 2 and taken:
                out[k] = max(out[k], value)
            else:
                out[k] = out[k] + value
        taken += 1
    if mode == 1 and taken:
        for k in range(out.size):
            out[k] = out[k] / taken


def _signature(real):
    return [real[:, ::1], U8, types.Array(real, 1, "C", readonly=True), INT, IDS, real[:, ::1]]


@kernel(_signature(types.float32), _signature(types.float64))
def pool_rows(rows, found, weights, mode, offsets, out):
    """Set out[b] to the reduction of rows[offsets[b] : offsets[b + 1]]; the last bag ends with the rows.

    out: zeros; weights: one for each row, or empty."""
    for b in range(offsets.size):
        stop = offsets[b + 1] if b + 1 < offsets.size else rows.shape[0]
        reduce_bag(rows, found, weights, mode, offsets[b], stop, out[b])


@njit(inline="always")
def reduce_row(source, at, weight, mode, taken, out):
    """Reduce one more row, which begins at source[at], into a bag that has `taken` rows already.

    mode: as of `MODES`; a weight of 1 changes no bit. Positions are unsigned: of others, each would be tested for being
    negative."""
    if mode == 2 and taken:
        for k in range(U(out.size)):
            out[k] = max(out[k], source[U(at) + k])
    else:
        for k in range(U(out.size)):
            out[k] = out[k] + source[U(at) + k] * weight


@njit(inline="always")
def prefetch_row(data, cached, found, slots, stride, width, i):
    """Prefetch the row of the i-th id, if there is one."""
    if i >= found.size or found[i] == U(0):
        return
    if found[i] == location.CACHED:
        for line in range(0, min(width, PREFETCH_BYTES), 64):
            prefetch(cached, slots[i] * stride + line)
    else:
        for line in range(0, min(width, PREFETCH_BYTES), 64):
            prefetch(data, location.offset_of(found[i]) + line)


def _in_place(real):
    reals = types.Array(real, 1, "C", readonly=True)
    return [BYTES, reals, BYTES, reals, INT, U64, I64, IDS, INT, WORD, BOOL, reals, INT, IDS, real[:, ::1]]


@kernel(_in_place(types.float32), _in_place(types.float64), size_argument=7, hold_gil_below=None)
def pool_in_place(
    data, reals, cached, cached_reals, stride, found, slots, ids, width, owner, verify, weights, mode, offsets, out
):
    """Do as `pool_rows` with rows where they stand, and verify those of the log against their locations.

    data, cached: the bytes of the pool and of the row cache, whose row of slot s begins at s * stride; reals,
    cached_reals: the same memory as numbers; found: locations, CACHED for a row of the row cache, in slots[i]. Return
    the first damaged i, or -1."""
    size = width // out.shape[1] if out.shape[1] else 1
    for b in range(offsets.size):
        stop, taken = offsets[b + 1] if b + 1 < offsets.size else ids.size, 0
        for i in range(offsets[b], stop):
            prefetch_row(data, cached, found, slots, stride, width, i + AHEAD)
            if not location.lives(found[i]):
                continue
            weight = weights[i] if weights.size else out.dtype.type(1)
            if found[i] == location.CACHED:
                reduce_row(cached_reals, slots[i] * stride // size, weight, mode, taken, out[b])
            else:
                at = location.offset_of(found[i])
                if at + width > data.size:
                    return i
                if verify and check16(data, at, width, owner, U(ids[i])) != location.check_of(found[i]):
                    return i
                reduce_row(reals, at // size, weight, mode, taken, out[b])
            taken += 1
        if mode == 1 and taken:
            for k in range(out.shape[1]):
                out[b, k] = out[b, k] / taken
    return -1
