"""A store works under NUMBA_DISABLE_JIT=1 too, where a debugger can step into every kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SESSION = """
import sys
import numpy as np
import pmkv

folder = sys.argv[1]
store = pmkv.open(folder, capacity="192MiB", dram="16MiB")
for number in range(20):
    store.put(b"key %d" % number, b"value %d" % number)
items = store.create_table("items", dtype=("f4", 4))
ids = np.arange(100)
items.put(ids, np.repeat(ids.astype("f4"), 4).reshape(100, 4))
store.checkpoint()
store.delete(b"key 4")
canary = store.branch("canary")
canary.table("items").put(ids[:5], np.full((5, 4), 0.5, "f4"))
store.promote("canary")
store.checkpoint()
store.put(b"after", b"the checkpoint")
store.close()

store = pmkv.open(folder)
items = store.table("items")
print(len(items), items.get(np.array([3, 7, 500]), default=-1.0)[:, 0].tolist())
print(store.get(b"key 3"), store.get(b"key 4"), store.get(b"after"))
print([key for key, _ in store.scan(prefix=b"key 1", limit=3)])
store.close()
"""


def test_a_store_works_without_compiled_kernels(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SESSION, tmp_path / "data"],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "100 [0.5, 7.0, -1.0]",
        "b'value 3' None b'the checkpoint'",
        "[b'key 1', b'key 10', b'key 11']",
    ]
