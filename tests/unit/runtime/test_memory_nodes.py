"""Memory nodes: what numactl's words name, what is refused and why, and that memory is where it was bound to."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

import pmkv
from pmkv.cache import row_cache
from pmkv.errors import InvalidError
from pmkv.runtime import memory_nodes as module
from pmkv.runtime.memory_nodes import MemoryNodes, allowed_nodes, bound, memory_nodes, parse_nodes

ALLOWED = (0, 1, 2, 3, 8)


@pytest.mark.parametrize(
    ("text", "nodes"),
    [("0", [0]), ("0-3", [0, 1, 2, 3]), ("8,1", [1, 8]), ("all", [0, 1, 2, 3, 8]), ("!1", [0, 2, 3, 8]),
     ("!0-2,8", [3]), ("+0", [0]), ("+3-4", [3, 8]), ("!+4", [0, 1, 2, 3]), (" 2 ", [2]), ("1,1-2", [1, 2])],
)  # fmt: skip
def test_nodes_are_named_as_numactl_names_them(text: str, nodes: list[int]) -> None:
    assert parse_nodes(text, ALLOWED) == tuple(nodes)


@pytest.mark.parametrize(
    ("text", "why"),
    [("", "names no nodes"), ("x", "names no nodes"), ("0,", "names no nodes"), ("0--1", "names no nodes"),
     ("!all", "names no nodes"), ("-1", "names no nodes"), ("0;1", "names no nodes"), ("99999", "names no nodes"),
     ("3-1", "ends before it begins"), ("4", "there is no node 4 here.*are 0, 1, 2, 3, 8"), ("0-9", "no node 4"),
     ("+5", "no node 5"), ("!0-3,8", "leaves no node"), ("\u0663", "names no nodes")],
)  # fmt: skip
def test_what_names_none_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidError, match=why):
        parse_nodes(text, ALLOWED, "far_nodes")


def test_nodes_that_may_be_used_have_memory_and_are_allowed(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nMems_allowed_list:\t0-1,4\n")
    (tmp_path / "has_memory").write_text("1-2,4\n")
    assert allowed_nodes(status, tmp_path) == (1, 4)
    assert allowed_nodes(tmp_path / "missing", tmp_path) == ()


@pytest.mark.parametrize(
    ("code", "why"), [(errno.ENOSYS, "no NUMA"), (errno.EPERM, "SYS_NICE"), (errno.EINVAL, os.strerror(errno.EINVAL))]
)
def test_what_the_system_refuses_is_told_with_the_way_out(
    code: int, why: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> int:
        module.ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(module, "allowed_nodes", lambda: (0,))
    with patch.object(module, "_libc") as libc:
        libc.syscall = refuse
        for name in ("dram_nodes", "far_nodes"):
            with pytest.raises(InvalidError, match=f"{name}='0': .*{why}.*leave {name} out"):
                pmkv.open(tmp_path, **{name: "0"})
    assert not list(tmp_path.iterdir()), "nothing was made"


def test_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "allowed_nodes", lambda: (0,))
    monkeypatch.setattr(module.platform, "machine", lambda: "vax")
    with pytest.raises(InvalidError, match="far_nodes='0': this system cannot bind memory"):
        memory_nodes(None, "0")


def test_nobody_is_bound_who_named_no_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.platform, "machine", lambda: "vax")
    assert memory_nodes(None, None) == MemoryNodes() == module.ANYWHERE
    assert module.ANYWHERE.bind_far(np.zeros(1)).size == 1


@pytest.fixture
def node() -> str:
    """The first node of this machine, if memory can be bound to it."""
    try:
        return str(memory_nodes("+0", None).dram[0])
    except InvalidError as error:
        pytest.skip(f"memory cannot be bound to a node here: {error}")


def test_memory_is_taken_from_the_node(node: str) -> None:
    memory = bound(np.frombuffer(mmap.mmap(-1, 1 << 16), np.uint8), (int(node),))
    memory[:] = 1
    policies = [line for line in Path("/proc/self/numa_maps").read_text().splitlines() if f" bind:{node} " in line]
    assert any(int(line.split()[0], 16) == memory.ctypes.data for line in policies)


def test_rows_are_far_and_all_else_is_near(node: str, tmp_path: Path) -> None:
    asked: list[tuple[int, tuple[int, ...]]] = []

    def note(memory: np.ndarray, nodes: tuple[int, ...]) -> np.ndarray:
        asked.append((memory.nbytes, nodes))
        return memory

    near, far = (int(node),), (77,)
    with patch.object(module, "bound", note), patch.object(module, "parse_nodes", lambda text, *_: (int(text),)):
        with pmkv.open(tmp_path, capacity="64MiB", dram="4MiB", dram_nodes=node, far_nodes=77) as store:
            table, pinned = store.create_table("t", ("f4", 64)), store.create_table("p", "i8", rows=1000, dram="all")
            for one in (table, pinned):
                one.put(np.arange(100), np.zeros((100, *one.shape), one.dtype))
            store.checkpoint()
            assert (table.get(np.arange(100)) == 0).all() and (pinned.get(np.arange(100)) == 0).all()
            rows, meta = table.stack.rows.rows, table.stack.rows.meta
            sizes = {size for size, nodes in asked if nodes == far}
            assert sizes == {mmap.PAGESIZE, rows.nbytes}, "one page to try, and the rows"
            for array in (meta, pinned.stack.rows.rows, pinned.stack.rows.words, store._engine.dram.arena.words):
                assert (array.nbytes, near) in asked
    assert row_cache.RowBudget(1 << 20).nodes is module.ANYWHERE


def test_a_store_on_a_node_works(node: str, tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity="64MiB", dram_nodes=node, far_nodes="all") as store:
        store.create_table("t", "i8").put([1], [5])
        store.checkpoint()
        assert store.table("t").get([1]).tolist() == [5] == store.table("t").get([1]).tolist()
