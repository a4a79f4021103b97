"""Where memory is taken from on a machine with several NUMA nodes: near nodes for what every lookup touches, far ones,
such as a CXL expander or another socket, for the rows of the row cache.

Nodes are named as numactl names them: `0`, `0-3`, `0,2`, `all`, `!1` (all but that one), `+0` (the first of those that
this process may use). What is bound is taken from these nodes only.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InvalidError

MBIND = {"x86_64": 237, "aarch64": 235, "riscv64": 235, "ppc64le": 259, "s390x": 268}  # the number of the system call
BIND, MASK_BITS = 2, 1024  # MPOL_BIND; nodes that a mask has room for
RANGES = re.compile(r"(!?)(\+?)([0-9]{1,4}(?:-[0-9]{1,4})?(?:,[0-9]{1,4}(?:-[0-9]{1,4})?)*)")
PLACE = Path("/sys/devices/system/node")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class MemoryNodes:
    """Binds memory that was reserved and not touched yet. dram: the nodes of what every lookup touches; far: those of
    the rows of the row cache; empty: wherever the system takes memory from."""

    dram: tuple[int, ...] = ()
    far: tuple[int, ...] = ()

    def bind_near(self, memory: np.ndarray) -> np.ndarray:
        """Bind what every lookup touches; return it."""
        return bound(memory, self.dram)

    def bind_far(self, memory: np.ndarray) -> np.ndarray:
        """Bind rows of the row cache; return them."""
        return bound(memory, self.far or self.dram)


ANYWHERE = MemoryNodes()


def memory_nodes(dram: str | int | None, far: str | int | None) -> MemoryNodes:
    """Return the nodes that a user named, once the system has shown that it binds memory to them. InvalidError: it does
    not, or what the user wrote names none."""
    chosen = []
    for name, text in (("dram_nodes", dram), ("far_nodes", far)):
        if text is None:
            chosen.append(())
            continue
        chosen.append(nodes := parse_nodes(str(text), allowed_nodes(), name))
        try:
            bound(np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.uint8), nodes)
        except OSError as error:
            raise InvalidError(f"{name}={text!r}: {_reason(error)}; leave {name} out to take any memory") from error
    return MemoryNodes(*chosen)


def parse_nodes(text: str, allowed: tuple[int, ...], name: str = "nodes") -> tuple[int, ...]:
    """Return the nodes that a text names, in ascending order. allowed: those with memory that this process may use."""
    if text.strip() == "all":
        return allowed
    match = RANGES.fullmatch(text.strip())
    if match is None:
        raise InvalidError(f"{name}={text!r} names no nodes: write them as numactl does: 0, 0-3, 0,2, all, !1 or +0")
    is_inverted, is_relative, ranges = match.groups()
    named: set[int] = set()
    for one in ranges.split(","):
        first, _, last = one.partition("-")
        if int(last or first) < int(first):
            raise InvalidError(f"{name}={text!r}: the range {one} ends before it begins")
        named |= set(range(int(first), int(last or first) + 1))
    if is_relative:
        missing = {number for number in named if number >= len(allowed)}
        named = {allowed[number] for number in named - missing}
    else:
        missing = named - set(allowed)
    if missing:
        raise InvalidError(
            f"{name}={text!r}: there is no node {min(missing)} here; the nodes with memory that this process may use "
            f"are {', '.join(map(str, allowed)) or 'none'}"
        )
    chosen = set(allowed) - named if is_inverted else named
    if not chosen:
        raise InvalidError(f"{name}={text!r} leaves no node: this process may use {', '.join(map(str, allowed))}")
    return tuple(sorted(chosen))


def allowed_nodes(status: Path = Path("/proc/self/status"), place: Path = PLACE) -> tuple[int, ...]:
    """Return the nodes that have memory and that this process may use; none where the system tells of none."""
    try:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        allowed = _numbers(lines.get("Mems_allowed_list", "").strip())
        return tuple(sorted(allowed & _numbers((place / "has_memory").read_text().strip())))
    except OSError:
        return ()


def _numbers(text: str) -> set[int]:
    """Return the numbers of a list of the kernel, such as 0-3,8."""
    pairs = [one.partition("-") for one in text.split(",") if one]
    return {number for first, _, last in pairs for number in range(int(first), int(last or first) + 1)}


def bound(memory: np.ndarray, nodes: tuple[int, ...]) -> np.ndarray:
    """Let the pages of an array that begins on a page be taken from these nodes only, if there are any; return it.
    OSError: the system refuses."""
    if nodes and memory.nbytes:
        call = MBIND.get(platform.machine())
        if call is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        mask = (ctypes.c_ulong * (MASK_BITS // 64))()
        for node in nodes:
            mask[node // 64] |= 1 << node % 64
        at, size = ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(memory.nbytes)
        if _libc.syscall(ctypes.c_long(call), at, size, BIND, mask, ctypes.c_ulong(MASK_BITS + 1), 0):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    return memory


def _reason(error: OSError) -> str:
    """Return why the system does not bind memory to nodes, and what to do."""
    if error.errno == errno.ENOSYS:
        return "this system cannot bind memory to nodes (its kernel has no NUMA)"
    if error.errno == errno.EPERM:
        return "the system forbids to bind memory to nodes: a container needs the right to (Docker: --cap-add SYS_NICE)"
    return f"the system does not bind memory to these nodes: {error.strerror}"
