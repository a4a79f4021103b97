"""How a server process ends: quickly, whatever is under way, and without losing what it acknowledged."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import pmkv
from tests.served import ROOT, Raw, Served, request, served

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


def test_repeated_signals_stop_cleanly_and_others_are_ignored(tmp_path: Path) -> None:
    """As shells, `timeout` and systemd send them."""
    server = Served("--rest-port", "0", "--data", str(tmp_path / "data"), "--capacity", "256MiB")
    assert server.raw()("SET", "a", "1") == ("+", b"OK")
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        server.process.send_signal(number)
    time.sleep(0.1)
    assert server.raw()("GET", "a") == ("$", b"1")
    modes = {path.name: path.stat().st_mode & 0o777 for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]}
    assert set(modes.values()) == {0o600, 0o700}, modes
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        server.process.send_signal(number)
    assert server.process.wait(10) == 0
    assert "stopped" in server.log


def test_a_signal_during_the_start_ends_it_cleanly(tmp_path: Path) -> None:
    """Whatever the start is at: no half of it, no traceback."""
    command = [sys.executable, "-m", "pmkv_server", "serve", "--port", "0", "--rest-port", "0", "--data", str(tmp_path)]
    for delay in (0.15, 0.3, 0.5, 0.7):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, cwd=ROOT)
        time.sleep(delay)
        for _ in range(2):
            process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
        assert process.returncode in (0, -signal.SIGTERM), said  # before Python runs this code, it is the system's
        assert b"Traceback" not in said


def test_few_descriptors_are_shared_out_and_said_aloud(tmp_path: Path) -> None:
    """Connections take what is for clients, those beyond are refused, and a checkpoint still finds descriptors."""
    wrapper = ("sh", "-c", 'ulimit -n 80; exec "$@"', "sh")
    with served("--data", str(tmp_path), "--capacity", "256MiB", wrapper=wrapper) as server:
        assert "max-clients is 32 instead of 10000: at most 80 files may be open" in server.log
        clients = [server.raw() for _ in range(60)]
        replies = []
        for client in clients:
            with contextlib.suppress(OSError):
                replies.append(client("PING"))
        assert replies.count(("+", b"PONG")) == 32
        assert clients[0]("SET", "a", "1") == ("+", b"OK")
        assert clients[0]("SAVE") == ("+", b"OK")


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    server = start(tmp_path, STUCK)
    client = server.raw()
    assert client("SET", "a", "1") == ("+", b"OK")
    server.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 10
    while "stopping" not in server.log:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(1.1)  # within a second it would be the same request
    assert server.process.poll() is None
    assert server.stop(timeout=2) == -signal.SIGKILL
    with pmkv.open(tmp_path / "data", capacity="256MiB") as store:
        assert store.get(b"a") == b"1"
