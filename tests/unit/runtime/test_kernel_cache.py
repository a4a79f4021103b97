"""The fast loader of compiled kernels: it reads less, agrees with numba's own loader, and steps aside for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import pytest
from numba.core.caching import FunctionCache

from pmkv.runtime.jit import JIT
from pmkv.runtime.kernel_cache import SWITCH, KernelCache, cache_of

compiled_only = pytest.mark.skipif(not JIT, reason="under NUMBA_DISABLE_JIT=1 kernels are plain functions")

KERNELS = """
import os
import sys
import numpy as np
from numba import types
from pmkv.runtime.jit import kernel
from pmkv.runtime.kernel_cache import LoadedKernel

if "BROKEN" in os.environ:  # as if a release of numba had changed what the loader relies on
    LoadedKernel._finalize_final_module = lambda self: self.gone

@kernel(types.int64[::1])
def total(numbers):
    sum = 0
    for number in numbers:
        sum += number
    return sum

@kernel(types.int64[::1], types.int64)
def scaled(numbers, by):
    return total(numbers) * by

print(scaled(np.arange(5), 3), "numba.np.linalg" in sys.modules)
"""


class Cached:
    """Runs the kernels above in a process of its own, with one cache for all of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder / "kernels.py"
        self.source.write_text(KERNELS)

    def run(self, **switches: str) -> str:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(self.folder / "cache")} | switches
        done = subprocess.run(
            [sys.executable, self.source], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()


@pytest.fixture
def cached(tmp_path: Path) -> Cached:
    return Cached(tmp_path)


@compiled_only
def test_what_is_in_the_cache_needs_nothing_that_only_compiling_needs(cached: Cached) -> None:
    assert cached.run() == "30 True"
    assert cached.run() == "30 False"
    (lost,) = cached.folder.rglob("kernels.scaled-*.nbi")
    lost.unlink()
    assert cached.run() == "30 True", "compiled beside a kernel that was loaded"


@compiled_only
def test_the_loader_of_numba_gives_the_same_results(cached: Cached) -> None:
    assert cached.run(**{SWITCH: "off"}) == cached.run(**{SWITCH: "off"}) == "30 True"
    assert cached.run() == "30 False", "both read the same files"
    assert cached.run(**{SWITCH: "off"}) == "30 True"


@compiled_only
def test_a_loader_that_fails_steps_aside(cached: Cached) -> None:
    cached.run()
    assert cached.run(BROKEN="yes") == "30 True"


@pytest.mark.parametrize(
    ("switch", "version", "expected"),
    [
        ("", (0, 60), KernelCache),
        ("on", (0, 68), KernelCache),
        ("off", (0, 61), FunctionCache),
        ("OFF", (0, 61), FunctionCache),
        ("", (0, 59), FunctionCache),
        ("", (0, 69), FunctionCache),
        ("", (1, 0), FunctionCache),
    ],
)
def test_only_versions_that_it_was_tried_with_are_loaded_fast(
    switch: str, version: tuple[int, int], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, switch)
    monkeypatch.setattr(numba, "version_info", numba.version_info._replace(short=version))
    assert type(cache_of(test_only_versions_that_it_was_tried_with_are_loaded_fast)) is expected
