"""The decorator of every kernel, and the names of array types that signatures use.

Assumes: numba keys its cache by source file, name and CPU; `nogil=True` lets kernels run beside Python. Kernels make no
arrays, and callers hold those that they hand in: so references are not counted (`_nrt=False`), which cost a kernel that
calls another one more than the work itself (two atomic operations a row, where a row's check takes 25 ns).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numba
from numba import types
from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys

INT, WORD, BOOL = types.int64, types.uint64, types.boolean
U8 = types.uint8[::1]
BYTES = types.Array(types.uint8, 1, "C", readonly=True)  # takes writable arrays too
I64 = types.int64[::1]
IDS = types.Array(types.int64, 1, "C", readonly=True)  # what callers hand in: read-only where it came over the network
I64_2D = types.int64[:, ::1]
U64 = types.uint64[::1]
WORDS = types.Array(types.uint64, 1, "C", readonly=True)  # likewise

JIT = not numba.config.DISABLE_JIT
CHECKED = bool(numba.config.BOUNDSCHECK)


# Elements up to which a call keeps the interpreter. It takes some ten microseconds; who hands the interpreter over
# meanwhile waits a hundred to get it back, if another thread wants it, too.
FEW = 512
FEW_ON_DISK = 16  # of a kernel that may have to wait for the disk
UNCOUNTED = {"_nrt": False}


def kernel(
    *arguments: Any, brief: int | None = None, few: int = FEW, held: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile at import, once, for these argument types alone; several signatures are given as lists of types.

    brief: the argument, an array, that says by its length how much there is to do, of a kernel that Python alone calls.
    It is compiled twice: a call with few of them keeps the interpreter.
    held: every call keeps it."""
    signatures = [tuple(one) for one in arguments] if isinstance(arguments[0], list) else [arguments]

    def compiled(function: Callable[..., Any]) -> Any:
        if not JIT:
            return function
        free = ready(numba.njit(function, nogil=not held, **UNCOUNTED), signatures)
        if brief is None:
            return free

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            return (call.held if len(arguments[brief]) <= few else call.free)(*arguments)

        call.free, call.held = free, ready(numba.njit(renamed(function), **UNCOUNTED), signatures)
        return call

    return compiled


class KernelCache(FunctionCache):  # type: ignore[misc]  # numba is untyped
    """numba's cache, without the quarter of a second that every process pays for numba's own implementations (of
    linear algebra, random numbers, typed lists, ...). They are for compiling, which asks for them itself."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)  # what a kernel that was compiled calls: counting references
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


def ready(dispatcher: Any, signatures: list[tuple[Any, ...]]) -> Any:
    """Compile or load for these signatures, and for no others ever."""
    dispatcher._cache = KernelCache(dispatcher.py_func)
    for signature in signatures:
        dispatcher.compile(signature)
    dispatcher.disable_compile()
    return dispatcher


def renamed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy with a name of its own: it is by the name that the cache tells kernels apart."""
    copy = FunctionType(function.__code__, function.__globals__, f"{function.__name__}_held", function.__defaults__)
    copy.__qualname__, copy.__module__ = copy.__name__, function.__module__
    return copy
