"""The decorator of every kernel, and the names of array types that signatures use.

Assumes: `cache=True` keys the cache by source file, name and CPU; `nogil=True` lets kernels run beside Python.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
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


# Elements up to which a call keeps the interpreter. It takes some ten microseconds; who hands the interpreter over
# meanwhile waits a hundred to get it back, if another thread wants it, too.
FEW = 512
FEW_ON_DISK = 16  # of a kernel that may have to wait for the disk


def kernel(
    *arguments: Any, brief: int | None = None, few: int = FEW
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile at import, once, for these argument types alone; several signatures are given as lists of types.

    brief: the argument, an array, that says by its length how much there is to do, of a kernel that Python alone calls.
    It is compiled twice: a call with few of them keeps the interpreter."""
    signatures = [tuple(one) for one in arguments] if isinstance(arguments[0], list) else [arguments]

    def compiled(function: Callable[..., Any]) -> Any:
        free = numba.njit(signatures, cache=True, nogil=True)(function)
        if brief is None or not JIT:
            return free

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            return (call.held if len(arguments[brief]) <= few else call.free)(*arguments)

        call.free, call.held = free, numba.njit(signatures, cache=True)(renamed(function))
        return call

    return compiled


def renamed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy with a name of its own: it is by the name that the cache tells kernels apart."""
    copy = FunctionType(function.__code__, function.__globals__, f"{function.__name__}_held", function.__defaults__)
    copy.__qualname__, copy.__module__ = copy.__name__, function.__module__
    return copy
