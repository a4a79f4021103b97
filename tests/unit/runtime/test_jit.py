"""The decorator: explicit signatures, nothing compiled later."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from numba import types
from numba.core.errors import NumbaError

import pmkv.kernels
from pmkv.kernels.hashing import check16
from pmkv.kernels.probe import find_ids, pick_new
from pmkv.kernels.records import read_records
from pmkv.runtime.jit import FEW_ELEMENTS, FEW_ON_DISK, JIT, Limits, kernel

compiled_only = pytest.mark.skipif(not JIT, reason="under NUMBA_DISABLE_JIT=1 kernels are plain functions")


def kernels() -> Iterator[tuple[str, Any]]:
    for module in pkgutil.iter_modules(pmkv.kernels.__path__):
        if module.name != "__main__":
            loaded = importlib.import_module(f"pmkv.kernels.{module.name}")
            for name, value in vars(loaded).items():
                kernel = getattr(value, "releasing", value)
                if hasattr(kernel, "nopython_signatures") and not kernel._can_compile:
                    yield f"{module.name}.{name}", kernel


@compiled_only
def test_a_kernel_is_compiled_for_its_signatures_and_no_others() -> None:
    found = dict(kernels())
    assert {"hashing.check16", "probe.find_ids", "records.gather_rows", "reduce.pool_rows"} <= set(found)
    for name, function in found.items():
        assert function.nopython_signatures, name
        assert function.targetoptions["nogil"], name
        assert not function.targetoptions["_nrt"], f"{name} counts references"


@compiled_only
def test_a_brief_call_keeps_the_interpreter() -> None:
    assert not find_ids.holding.targetoptions.get("nogil") and not find_ids.holding._can_compile
    assert find_ids.holding.nopython_signatures == find_ids.releasing.nopython_signatures
    for count, which in (FEW_ELEMENTS, "holding"), (FEW_ELEMENTS + 1, "releasing"):
        with patch.object(pick_new, which, return_value=-1):
            assert pick_new(*[np.zeros(count, np.uint64)] * 5) == -1


@compiled_only
def test_how_many_may_wait_for_the_disk_with_the_interpreter_is_for_the_process_to_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    for which in ("holding", "releasing"):
        monkeypatch.setattr(read_records, which, lambda *_, which=which: calls.append(which))
    for most in (FEW_ON_DISK, FEW_ELEMENTS):
        monkeypatch.setattr(Limits, "on_disk", most)
        for count in (most, most + 1):
            read_records(None, np.zeros(count, np.uint64))
    assert calls == ["holding", "releasing"] * 2


@compiled_only
def test_other_types_are_refused_rather_than_compiled() -> None:
    with pytest.raises(TypeError, match="No matching definition"):
        check16(np.zeros(4, np.float32), 0, 4, np.uint64(0), np.uint64(0))


def test_read_only_bytes_are_taken() -> None:
    assert check16(np.frombuffer(b"abcd", np.uint8), 0, 4, np.uint64(0), np.uint64(0)) >= 0


@compiled_only
def test_a_kernel_that_makes_an_array_is_refused() -> None:
    with pytest.raises(NumbaError):

        @kernel(types.int64)
        def zeros(count: int) -> int:
            return np.zeros(count, np.int64).size
