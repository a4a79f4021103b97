"""No request waits for a compiler: every kernel is compiled, or loaded, before the server says that it is ready."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from pmkv.runtime.jit import JIT
from tests.served import Served

WATCH = """
import os, sys
from numba.core import event
class Listener(event.Listener):
    def on_start(self, e): sys.stderr.write("COMPILING %s\\n" % (e.data,)); sys.stderr.flush()
    def on_end(self, e): pass
event.register("numba:compile", Listener())
if os.environ.get("PMKV_TEST_CONTROL"):
    import threading, time, numba
    threading.Timer(float(os.environ["PMKV_TEST_CONTROL"]), lambda: numba.njit(lambda x: x + 1)(1)).start()
"""


def after_ready(tmp_path: Path, **environment: str) -> str:
    """What the server wrote once it was ready and had been asked for a bit of everything."""
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["PYTHONPATH"], before = path, os.environ.get("PYTHONPATH")
    try:
        server = Served("--pool", ":memory:", "--capacity", "64MiB", "--rest-port", "0", wait=60, **environment)
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
    try:
        raw, ids, rows = server.raw(), (1).to_bytes(8, "little"), bytes(8)
        for words in (
            ("SET", "a", "1"), ("GET", "a"), ("MSET", "b", "1", "c", "2"), ("MGET", "a", "none"), ("DEL", "b"),
            ("SET", "e", "1", "EX", "9"), ("KEYS", "[ac]*"), ("SCAN", "0", "MATCH", "a*"), ("RANDOMKEY",),
            ("WATCH", "a"), ("MULTI",), ("INCR", "a"), ("EXEC",), ("DBSIZE",), ("SET", "long", b"x" * (2 << 20)),
            ("TABLE.CREATE", "t", "DTYPE", "f4", "DIM", "2"), ("TABLE.PUT", "t", ids, rows),
            ("TABLE.ADD", "t", ids, rows), ("TABLE.GET", "t", ids, "FOUND"), ("TABLE.EXISTS", "t", ids),
            ("TABLE.POOL", "t", ids, bytes(8), "MODE", "max"), ("TABLE.MGET", "1", "t", ids),
            ("TABLE.SCAN", "t", "0"), ("TABLE.DEL", "t", ids), ("FLUSHALL",),
        ):  # fmt: skip
            assert raw(*words)[0] != "-", words[0]
        rest = re.search(r"REST on \S+?:(\d+)", server.log)[1]
        urllib.request.urlopen(f"http://127.0.0.1:{rest}/v1/stats", timeout=10).read()
        if environment:
            time.sleep(float(environment["PMKV_TEST_CONTROL"]))
        raw.close()
        server.stop()
    finally:
        server.kill()
    return server.log.partition("Ready to accept connections")[2]


def test_nothing_is_compiled_after_ready(tmp_path: Path) -> None:
    assert "COMPILING" not in after_ready(tmp_path)


def test_the_watch_would_see_it(tmp_path: Path) -> None:
    assert "COMPILING" in after_ready(tmp_path, PMKV_TEST_CONTROL="5")


@pytest.mark.skipif(not JIT, reason="under NUMBA_DISABLE_JIT=1 nothing is compiled")
def test_a_start_does_not_load_what_only_compiling_needs() -> None:
    """It takes a quarter of a second. So no kernel may use np.cumsum, which numba has in a module that needs SciPy."""
    look = "import sys, pmkv_server.server, pmkv.store; print('numba.np.linalg' in sys.modules)"
    for _ in range(2):  # the first may find kernels that were never compiled
        done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
