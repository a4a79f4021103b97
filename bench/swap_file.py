"""A swap file for a measurement, made and removed by root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .servers import BenchError


@contextlib.contextmanager
def swap_file(path: Path, nbytes: int) -> Iterator[None]:
    """Let the system swap to a new file of this size meanwhile. BenchError: it cannot."""
    for program in ("mkswap", "swapon", "swapoff"):
        if shutil.which(program) is None:
            raise BenchError(f"{program} is not installed; Debian: util-linux and mount")
    try:
        with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            os.posix_fallocate(file.fileno(), 0, nbytes)
        for command in ("mkswap", "swapon"):
            _run(command, path)
    except (OSError, BenchError) as error:
        path.unlink(missing_ok=True)
        raise error if isinstance(error, BenchError) else BenchError(f"no swap file at {path}: {error}") from error
    try:
        yield
    finally:
        with contextlib.suppress(BenchError):
            _run("swapoff", path)
            path.unlink()


def _run(command: str, path: Path) -> None:
    done = subprocess.run([command, str(path)], capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{command} {path} failed: {done.stderr.strip() or done.returncode}: run this as root")
