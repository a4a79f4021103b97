"""Optimisations are on unless the environment says otherwise, and results are the same without them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pmkv.runtime.switches import is_on

SWITCHES = (
    "KERNEL_TWINS",
    "LONG_BATCHES",
    "POOL_IN_PLACE",
    "PREFAULT",
    "PREVIOUS_VERSION",
    "ROW_CACHE",
    "SCHED",
    "WAVES",
)
SCRIPT = """
import asyncio
from concurrent.futures import ThreadPoolExecutor
import numpy as np, pmkv
from pmkv_server.net.connection import Connection
from tests.unit.server.stand import Stub, Wire, dispatching

async def main():
    with ThreadPoolExecutor(1) as executor, pmkv.open(pool=":memory:", capacity="64MiB") as store:
        table = store.create_table("t", ("f4", 8))
        table.put(np.arange(3000), np.arange(24000, dtype="f4").reshape(3000, 8))
        store.snapshot("s")
        table.put([7], np.zeros((1, 8), "f4"))
        store.rollback("s")
        server = Stub(store)
        wire = Wire(server, Connection(server, dispatching(server, executor)))
        print(await wire.answers("SET a 1", "INCR a", "MGET a b", "DEL a"), table.pool([7, 8], [0]).sum())

asyncio.run(main())
"""


def test_a_switch_is_off_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_on("WAVES")
    monkeypatch.setenv("PMKV_WAVES", "off")
    assert not is_on("WAVES") and is_on("PREFAULT")


def test_results_are_the_same_without_any_of_them() -> None:
    off = {f"PMKV_{name}": "off" for name in SWITCHES}
    result = subprocess.run([sys.executable, "-c", SCRIPT], env=os.environ | off, capture_output=True, text=True)
    assert result.stdout == "['OK', ':2', '[\"2\", nil]', ':1'] 1016.0\n", result.stderr
