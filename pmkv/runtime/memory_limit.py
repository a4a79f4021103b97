"""How much memory this process may use: the limit of its control group, of version 1 or 2, if that is below what the
machine has."""

from __future__ import annotations

import os
from pathlib import Path

DEFAULT_DRAM_BYTES = 1 << 30  # budget where no limit is set
LIMIT_DIVISOR = 2  # where one is set, one part in so many of it


def machine_memory() -> int:
    """Return the bytes of memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_limit(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the lowest limit of this process's control groups, in bytes; None if there is none below what the machine
    has. groups: the list of its groups; root: where they are mounted."""
    try:
        lines = [line.split(":", 2) for line in groups.read_text().splitlines()]
    except OSError:
        return None
    limits = [limit for line in lines if len(line) == 3 for limit in _limits(line[1], line[2], root)]
    lowest = min(limits, default=machine_memory())
    return lowest if lowest < machine_memory() else None


def _limits(controllers: str, path: str, root: Path) -> list[int]:
    """Return the limits of a group and of those above it."""
    if not controllers:
        mount, name = root, "memory.max"
    elif "memory" in controllers.split(","):
        mount, name = root / "memory", "memory.limit_in_bytes"
    else:
        return []
    group = Path(path.lstrip("/"))
    # within a container the path may be that of the host: what is mounted is then the group itself
    files = [mount / part / name for part in (group, *group.parents)]
    return [limit for file in files if (limit := _read(file)) is not None]


def _read(file: Path) -> int | None:
    """Return the number in a file; None if there is no such file, or no number in it."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def default_dram(limit: int | None) -> int:
    """Return the budget of what is cached for a process with this limit of memory."""
    return DEFAULT_DRAM_BYTES if limit is None else limit // LIMIT_DIVISOR
