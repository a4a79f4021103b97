"""Servers to measure: pmkv and redis-server as processes of their own, each in a fresh folder on the same disk."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

START_LIMIT_S = 60.0  # until a server must answer


class BenchError(Exception):
    """The reason why a section cannot be measured, in words for the user."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def filesystem(path: Path) -> str:
    """Return the type of the filesystem that holds `path`: that of the mount with the longest matching prefix."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, found, *_ = line.split()
        if path.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, found
    return kind


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Make a folder that is removed when the section ends. BenchError: it is on tmpfs, where a sync costs nothing."""
    parent.mkdir(parents=True, exist_ok=True)
    if filesystem(parent) == "tmpfs":
        raise BenchError(f"{parent} is on tmpfs, where a sync costs nothing: name a folder on a disk with --dir")
    folder = Path(tempfile.mkdtemp(prefix="pmkv-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def pong(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


def wait_for_pong(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while not pong(port):
        if process.poll() is not None or time.monotonic() > deadline:
            what = "ended" if process.poll() is not None else f"gave no PONG in {START_LIMIT_S:.0f} s"
            raise BenchError(f"{process.args[0]} {what}:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.002)


def start(command: Sequence[str], port: int, folder: Path, cwd: Path | None = None) -> subprocess.Popen[bytes]:
    """Run `command` until it answers PING on `port`; its output goes to a file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "output.txt"
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, start_new_session=True)
    try:
        wait_for_pong(port, process, log)
    except BaseException:
        process.kill()
        raise
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def pmkv_command(folder: Path, port: int, *options: str) -> list[str]:
    pmkv = Path(sys.executable).parent / "pmkv"
    return [str(pmkv), "serve", "--data", str(folder / "data"), "--port", str(port), "--rest-port", "0", *options]


@contextlib.contextmanager
def pmkv(folder: Path, *options: str) -> Iterator[int]:
    """Run a pmkv server, and yield its port."""
    port = free_port()
    process = start(pmkv_command(folder, port, *options), port, folder)
    try:
        yield port
    finally:
        stop(process)


@contextlib.contextmanager
def redis(folder: Path, appendfsync: str) -> Iterator[int]:
    """Run a redis-server, and yield its port. Its append-only file is never rewritten, which would cost a fork."""
    program = shutil.which("redis-server")
    if program is None:
        raise BenchError("redis-server is not installed, so there is nothing to compare with; Debian: redis-server")
    port = free_port()
    settings = {"port": port, "bind": "127.0.0.1", "dir": folder, "save": "", "appendonly": "yes",
                "appendfsync": appendfsync, "auto-aof-rewrite-percentage": 0}  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    options = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    process = start([program, *options], port, folder)
    try:
        yield port
    finally:
        stop(process)
