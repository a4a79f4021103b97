"""A faster loader of numba's cache of compiled kernels: half the time, a third of a second of each start.

It relies on internals of numba and llvmlite. So it is used for the versions alone with which it was tried, falls back
to numba's own loader on any exception, and PMKV_KERNEL_CACHE=off switches it off.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core.caching import FunctionCache
from numba.core.codegen import JITCodeLibrary

TRIED_VERSIONS = (0, 60), (0, 69)  # numba, from the first of these to below the second
SWITCH = "PMKV_KERNEL_CACHE"


def is_enabled() -> bool:
    """Return whether the fast loader may be used: numba is a version that it knows, and nobody switched it off."""
    first, stop = TRIED_VERSIONS
    return os.environ.get(SWITCH, "").lower() != "off" and first <= tuple(numba.version_info.short) < stop


def cache_of(function: Callable[..., Any]) -> FunctionCache:
    """Return the cache of one kernel."""
    return KernelCache(function) if is_enabled() else FunctionCache(function)


class LoadedKernel(JITCodeLibrary):  # type: ignore[misc]  # numba is untyped
    """A kernel from the cache: machine code, and the LLVM bitcode that kernels which call it need.

    The bitcode is parsed only if another kernel has to be compiled, which halves the time of a load."""

    @classmethod
    def _unserialize(cls, codegen: Any, state: tuple[str, str, Any]) -> LoadedKernel:
        name, _, (code, bitcode) = state
        self = cls(codegen, name)
        self.enable_object_caching()
        self._set_compiled_object(code)
        self._finalize_final_module()
        self._bitcode = bitcode
        return self

    def get_pointer_to_function(self, name: str) -> int:
        """Return the address of a function of this library."""
        return int(self._codegen._engine.get_function_address(name))

    def _get_module_for_linking(self) -> Any:
        if self._shared_module is None:
            self._shared_module = llvm.parse_bitcode(self._bitcode)
            self._codegen._engine._load_defined_symbols(self._shared_module)
        return super()._get_module_for_linking()


class KernelCache(FunctionCache):  # type: ignore[misc]
    """numba's cache of a function, loaded without the parts that only compiling needs.

    These are numba's implementations (linear algebra, random numbers, typed lists, ...), its reference counting, the
    bitcode of kernels, and an event for each of some thousand LLVM calls."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled function of a signature, None if the cache has none."""
        try:
            with fast_loading(target_context.codegen()), self._guard_against_spurious_io_errors():
                return self._load_overload(sig, target_context)
        except Exception:
            return super().load_overload(sig, target_context)


@contextmanager
def fast_loading(codegen: Any) -> Iterator[None]:
    """Make numba load kernels as `LoadedKernel`, and llvmlite report no events."""
    lock = llvm.ffi.lib._lock
    callbacks, lock._cblist, codegen._library_class = lock._cblist, [], LoadedKernel
    try:
        yield
    finally:
        lock._cblist = callbacks
        del codegen._library_class
