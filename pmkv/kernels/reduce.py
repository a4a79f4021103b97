"""Pooling: bags of rows reduced to one row each, as torch.nn.EmbeddingBag (sum, mean, max) does."""

from __future__ import annotations

from numba import njit, types

from ..runtime.jit import IDS, INT, U8, kernel

MODES = {"sum": 0, "mean": 1, "max": 2}


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
