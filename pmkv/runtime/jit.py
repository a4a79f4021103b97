"""The decorator of every kernel, and the names of the array types that signatures use.

numba keys its cache by source file, name and CPU; `nogil=True` lets other threads run Python meanwhile. Kernels make
no arrays, and callers hold the arrays that they pass, so references are not counted (`_nrt=False`): a kernel that calls
another kernel for each row would spend more time on atomic operations than on its work.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numba
import numpy as np
from numba import types

from .kernel_cache import cache_of

INT, WORD, BOOL = types.int64, types.uint64, types.boolean
U8 = types.uint8[::1]
BYTES = types.Array(types.uint8, 1, "C", readonly=True)  # takes writable arrays too
I64 = types.int64[::1]
IDS = types.Array(types.int64, 1, "C", readonly=True)  # from callers: read-only if it came over the network
I64_2D = types.int64[:, ::1]
U64 = types.uint64[::1]
WORDS = types.Array(types.uint64, 1, "C", readonly=True)  # takes writable arrays too

JIT = not numba.config.DISABLE_JIT
CHECKED = bool(numba.config.BOUNDSCHECK)


# Elements up to which a call keeps the GIL: it then takes some ten microseconds. A thread that releases the GIL for
# that long waits a hundred to get it back if another thread wants it, and may make that one wait anew (see
# `scheduling.FairShare`).
FEW_ELEMENTS = 512
FEW_ON_DISK = 16  # elements of a kernel that may fault in pages: every thread would wait for the disk with it
UNCOUNTED = {"_nrt": False}
SCALARS: dict[Any, Callable[[Any], Any]] = {INT: int, WORD: np.uint64, BOOL: bool}


class Limits:
    """Batch size up to which a kernel that may fault in pages keeps the GIL, in this process.

    A server whose one thread reads sets it to FEW_ELEMENTS: while that thread waits, no client is served anyway."""

    on_disk = FEW_ON_DISK


def kernel(
    *arguments: Any, size_argument: int | None = None, hold_gil_below: int | None = FEW_ELEMENTS, hold_gil: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function at import, once, for these argument types alone; several signatures are given as lists.

    size_argument: position of the array whose length tells how much there is to do, for a kernel that only Python
    calls. The kernel is compiled twice, and a call with at most `hold_gil_below` elements (None: `Limits.on_disk`)
    keeps the GIL. hold_gil: every call keeps it."""
    signatures = [tuple(one) for one in arguments] if isinstance(arguments[0], list) else [arguments]

    def compiled(function: Callable[..., Any]) -> Any:
        if not JIT:
            return interpreted(function, signatures[0])
        releasing = ready(numba.njit(function, nogil=not hold_gil, **UNCOUNTED), signatures)
        if size_argument is None:
            return releasing

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            limit = Limits.on_disk if hold_gil_below is None else hold_gil_below
            return (call.holding if len(arguments[size_argument]) <= limit else call.releasing)(*arguments)

        call.releasing, call.holding = releasing, ready(numba.njit(renamed(function), **UNCOUNTED), signatures)
        return call

    return compiled


def interpreted(function: Callable[..., Any], signature: tuple[Any, ...]) -> Callable[..., Any]:
    """Return the plain function with the types at its edges that the compiled kernel would have, for a debugger.

    Scalars are converted to what the signature says (uint64 wraps around, as LLVM's does), and results to int."""
    converters = [SCALARS.get(type) for type in signature]

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        with np.errstate(over="ignore"):
            result = function(*[to(one) if to else one for to, one in zip(converters, arguments, strict=True)])
        if isinstance(result, tuple):
            return tuple(int(one) for one in result)
        return int(result) if isinstance(result, np.integer) else result

    return call


def ready(dispatcher: Any, signatures: list[tuple[Any, ...]]) -> Any:
    """Compile or load a kernel for these signatures, and refuse any other."""
    dispatcher._cache = cache_of(dispatcher.py_func)
    for signature in signatures:
        dispatcher.compile(signature)
    dispatcher.disable_compile()
    return dispatcher


def renamed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy with a name of its own: the cache tells kernels apart by their names."""
    copy = FunctionType(function.__code__, function.__globals__, f"{function.__name__}_held", function.__defaults__)
    copy.__qualname__, copy.__module__ = copy.__name__, function.__module__
    return copy
