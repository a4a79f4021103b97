"""Memory limits, on a folder that looks like a control group file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.memory_limit import memory_limit
from bench.servers import BenchError


def test_version_1(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    with memory_limit(4096, tmp_path) as group:
        assert group.name == "cgroup.procs" and group.parent.parent == tmp_path / "memory"
        assert (group.parent / "memory.limit_in_bytes").read_text() == "4096\n"


def test_version_2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory\n")
    with memory_limit(8192, tmp_path) as group:
        assert (group.parent / "memory.max").read_text() == "8192\n"


@pytest.mark.parametrize("enabled", [None, "cpu pids\n"])
def test_without_a_controller_it_says_so(tmp_path: Path, enabled: str | None) -> None:
    if enabled is not None:
        (tmp_path / "cgroup.subtree_control").write_text(enabled)
    with pytest.raises(BenchError, match="there is no memory controller"), memory_limit(4096, tmp_path):
        pass
