"""The decorator of every kernel, and the names of array types that signatures use.

Assumes: numba keys its cache by source file, name and CPU; `nogil=True` lets kernels run beside Python. Kernels make no
arrays, and callers hold those that they hand in: so references are not counted (`_nrt=False`), which cost a kernel that
calls another one for each row atomic operations, and these more time than the work itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

import llvmlite.binding as llvm
import numba
from numba import types
from numba.core.caching import FunctionCache
from numba.core.codegen import JITCodeLibrary

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
# meanwhile waits a hundred to get it back, if another thread wants it, too; if not that long, the other one waits anew
# (see `turns.FairShare`).
FEW_ELEMENTS = 512
FEW_ON_DISK = 16  # of a kernel that may have to wait for the disk: others would wait with it
UNCOUNTED = {"_nrt": False}


class Limits:
    """Up to how many elements a brief call of a kernel that may wait for the disk keeps the interpreter, in this
    process. A server whose one thread reads sets it to FEW: while that thread waits, nobody is served anyway."""

    on_disk = FEW_ON_DISK


def kernel(
    *arguments: Any, brief: int | None = None, few: int | None = FEW_ELEMENTS, held: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile at import, once, for these argument types alone; several signatures are given as lists of types.

    brief: the argument, an array, that says by its length how much there is to do, of a kernel that Python alone calls.
    It is compiled twice: a call with few of them keeps the interpreter. few: None for as many as `Limits` says.
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
            most = Limits.on_disk if few is None else few
            return (call.held if len(arguments[brief]) <= most else call.free)(*arguments)

        call.free, call.held = free, ready(numba.njit(renamed(function), **UNCOUNTED), signatures)
        return call

    return compiled


class Loaded(JITCodeLibrary):  # type: ignore[misc]  # numba is untyped
    """A kernel out of the cache. It holds the machine's code and, for kernels that call this one, LLVM's; the latter is
    not read before another one has to be compiled: half the time of a load."""

    @classmethod
    def _unserialize(cls, codegen: Any, state: tuple[str, str, Any]) -> Loaded:
        name, _, (code, bitcode) = state
        self = cls(codegen, name)
        self.enable_object_caching()
        self._set_compiled_object(code)
        self._finalize_final_module()
        self._bitcode = bitcode
        return self

    def get_pointer_to_function(self, name: str) -> int:
        """Of a function that is in it."""
        return int(self._codegen._engine.get_function_address(name))

    def _get_module_for_linking(self) -> Any:
        if self._shared_module is None:
            self._shared_module = llvm.parse_bitcode(self._bitcode)
            self._codegen._engine._load_defined_symbols(self._shared_module)
        return super()._get_module_for_linking()


class KernelCache(FunctionCache):  # type: ignore[misc]
    """numba's cache, without what costs a start a third of a second and only compiling needs: numba's implementations
    (of linear algebra, random numbers, typed lists, ...), its counting of references, kernels as LLVM has them, and
    events at each of some thousand calls of LLVM."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        codegen, lock = target_context.codegen(), llvm.ffi.lib._lock
        told, lock._cblist, codegen._library_class = lock._cblist, [], Loaded
        try:
            with self._guard_against_spurious_io_errors():
                return self._load_overload(sig, target_context)
        finally:
            lock._cblist = told
            del codegen._library_class


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
