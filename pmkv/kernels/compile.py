"""The decorator of every kernel, and the names of array types that signatures use.

Assumes: `cache=True` keys the cache by source file and CPU; `nogil=True` lets probes and copies run beside Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba import types

INT, WORD, BOOL = types.int64, types.uint64, types.boolean
U8 = types.uint8[::1]
BYTES = types.Array(types.uint8, 1, "C", readonly=True)  # takes writable arrays too
I64 = types.int64[::1]
IDS = types.Array(types.int64, 1, "C", readonly=True)  # what callers hand in: read-only where it came over the network
I64_2D = types.int64[:, ::1]
U64 = types.uint64[::1]

JIT = not numba.config.DISABLE_JIT
CHECKED = bool(numba.config.BOUNDSCHECK)


def kernel(*arguments: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile at import, once, for these argument types alone; several signatures are given as lists of types."""
    signatures = [tuple(one) for one in arguments] if isinstance(arguments[0], list) else [arguments]
    return numba.njit(signatures, cache=True, nogil=True)
