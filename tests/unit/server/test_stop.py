"""How a server process ends: quickly, whatever is under way, and without losing what it acknowledged."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import pmkv
from tests.served import ROOT, Raw, Served, request

AT_ONCE = 5.0  # seconds that an orchestrator gives at least
PORTION = 50
# a checkpoint every few milliseconds, and folds
EAGER = "import pmkv.maintenance.scheduler as s; s.CHECKPOINT_DUE_S = 0.0005; s.DUE_AT_CLOSE_S = 0"
FOLDING = f"""{EAGER}
import time, pmkv.maintenance.compaction as c
fold = c.Compactor._compact
def slow(*arguments):
    for _ in fold(*arguments):
        print("a fold is under way", file=__import__("sys").stderr, flush=True)
        time.sleep(0.02)
        yield
    while True:
        time.sleep(0.02)
        yield
c.Compactor._compact = slow
"""
STUCK = "import time, pmkv.store as s; s.Store.close = lambda *_: time.sleep(60)"


def start(path: Path, changes: str) -> Served:
    """A server in whose process this is run first."""
    (path / "sitecustomize.py").write_text(changes)
    folders = os.pathsep.join([str(path), str(ROOT)])
    return Served("--rest-port", "off", "--data", str(path / "data"), "--capacity", "256MiB", PYTHONPATH=folders)


class Writer(threading.Thread):
    """Writes new keys and rows until the server is gone; `done` portions were acknowledged."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.client, self.done = Raw(port), 0
        self.client("TABLE.CREATE", "t", "DTYPE", "f4", "DIM", "16")

    def run(self) -> None:
        rows = np.ones((PORTION, 16), "f4").tobytes()
        with contextlib.suppress(OSError):
            while True:
                numbers = range(self.done * PORTION, (self.done + 1) * PORTION)
                sets = [request("SET", f"key {i}", i) for i in numbers]
                self.client.send(b"".join(sets) + request("TABLE.PUT", "t", np.array(numbers).tobytes(), rows))
                for _ in range(PORTION + 1):
                    assert self.client.reply() == ("+", b"OK")
                self.done += 1


@pytest.mark.parametrize("changes", [EAGER, FOLDING], ids=["eager", "folding"])
def test_sigterm_under_load(changes: str, tmp_path: Path) -> None:
    server = start(tmp_path, changes)
    writer = Writer(server.port)
    writer.start()
    deadline = time.monotonic() + 20
    while writer.done < 50 or (changes == FOLDING and "a fold is under way" not in server.log):
        assert time.monotonic() < deadline and writer.is_alive()
        time.sleep(0.01)
    begun = time.monotonic()
    assert server.stop(timeout=20) == 0
    assert time.monotonic() - begun < AT_ONCE
    assert "stopped" in server.log and "WARNING" not in server.log
    writer.join(5)
    with pmkv.open(tmp_path / "data", capacity="256MiB") as store:
        expected = range(writer.done * PORTION)
        assert store.get_many([b"key %d" % i for i in expected]) == [b"%d" % i for i in expected]
        assert store.table("t").contains(np.array(expected)).all()
        assert store.stats().recovery_records == 0, "the checkpoint at the end leaves nothing to replay"
        store.check()


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    server = start(tmp_path, STUCK)
    client = server.raw()
    assert client("SET", "a", "1") == ("+", b"OK")
    server.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 10
    while "stopping" not in server.log:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.05)
    assert server.process.poll() is None
    assert server.stop(timeout=2) == -signal.SIGKILL
    with pmkv.open(tmp_path / "data", capacity="256MiB") as store:
        assert store.get(b"a") == b"1"
