"""Codecs of rows, as a client sees them: how rows are stored, and how far what is read may be from what was put.

The server encodes and decodes. "int8" and "int4" are FBGEMM's fused rows: the numbers of a row as whole steps above its
least one, then the step (scale) and the least number (bias), f4 for int8, f2 for int4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTISING = {"int8": np.dtype("<f4"), "int4": np.dtype("<f2")}  # the dtype of scale and bias
CODEC_NAMES = {
    "float16": "f2",
    "<f2": "f2",
    "bf16": "bfloat16",
    "fp8": "float8_e4m3fn",
}  # short ones, and those reported
STEPS = {"int8": 255, "int4": 15}
SMALLEST_STEP = 1e-8  # that the range of a row of int8 is widened by
HALF_PRECISION = 2.0**-10  # of scale and bias of int4, relative
SINGLE_PRECISION = 2.0**-21  # of sums of a few f4, relative

Array = NDArray[Any]


def encoded_row(codec: str, shape: tuple[int, ...], stored: int) -> tuple[Any, tuple[int, ...]]:
    """Return dtype and shape of a row as the codec stores it. stored: its bytes."""
    return ("u1", (stored,)) if codec in QUANTISING else (codec, shape)


def is_near(codec: str, given: Array, encoded: Array, decoded: Array) -> NDArray[np.bool_]:
    """Return for each quantised row whether it is what the codec makes of the given one: no number is further from it
    than half a step and the rounding of scale and bias.

    given, decoded: (n, size); encoded: uint8[n, stored]."""
    real = QUANTISING[codec]
    tail = np.ascontiguousarray(encoded[:, -2 * real.itemsize :]).view(real).astype(np.float64)
    step, bias = np.abs(tail[:, 0]), tail[:, 1]  # of equal numbers the step may be below 0
    spread = step * STEPS[codec]
    reach = np.abs(bias) + spread
    allowed = step / 2 + reach * SINGLE_PRECISION
    allowed += spread * SMALLEST_STEP / (spread + SMALLEST_STEP) if codec == "int8" else reach * HALF_PRECISION
    error = np.abs(given.astype(np.float64) - decoded).max(axis=1, initial=0)
    return np.asarray(error <= allowed)
