"""A memory limit for some processes: a control group of version 1 or 2, made and removed by root."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from .servers import BenchError

ROOT = Path("/sys/fs/cgroup")
REMOVE_ATTEMPTS = 25


@contextlib.contextmanager
def memory_limit(nbytes: int, root: Path = ROOT) -> Iterator[Path]:
    """Yield the file to which a process writes its number to be limited. BenchError: no limit can be set here."""
    group, setting = _group_of(root)
    try:
        group.mkdir()
    except OSError as error:
        raise BenchError(f"no control group can be made at {group} ({error.strerror}): run this as root") from error
    try:
        try:
            (group / setting).write_text(f"{nbytes}\n")
        except OSError as error:
            raise BenchError(f"{group / setting} cannot be written: {error.strerror}") from error
        yield group / "cgroup.procs"
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    """Remove a group. A process that has just ended may still be in it, for some milliseconds."""
    for _ in range(REMOVE_ATTEMPTS):
        with contextlib.suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.02)


def _group_of(root: Path) -> tuple[Path, str]:
    """Return where to make the group, and the file of its limit."""
    name = f"pmkv-bench-{os.getpid()}"
    if (root / "memory").is_dir():
        return root / "memory" / name, "memory.limit_in_bytes"
    enabled = root / "cgroup.subtree_control"
    if enabled.exists() and "memory" in enabled.read_text().split():
        return root / name, "memory.max"
    raise BenchError(
        f"there is no memory controller in {root}: version 1, or version 2 with `memory` in {enabled.name}"
    )
