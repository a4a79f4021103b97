"""The limit of memory, from files as the kernel has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmkv.runtime import memory_limit as module
from pmkv.runtime.memory_limit import DEFAULT_DRAM_BYTES, default_dram, machine_memory, memory_limit

MIB = 1 << 20


def limit_of(tmp_path: Path, groups: str, **files: str) -> int | None:
    (tmp_path / "cgroup").write_text(groups)
    for name, content in files.items():
        file = tmp_path / "sys" / name.replace("__", "/").replace("_max", ".max").replace("_limit", ".limit_in_bytes")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return memory_limit(tmp_path / "cgroup", tmp_path / "sys")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "machine_memory", lambda: 1000 * MIB)


def test_version_2(tmp_path: Path) -> None:
    files = {"a__b__memory_max": f"{300 * MIB}\n", "a__memory_max": f"{200 * MIB}\n"}
    assert limit_of(tmp_path, "0::/a/b\n", **files) == 200 * MIB, "the lowest counts"
    assert limit_of(tmp_path, "0::/a/b\n", a__memory_max="max\n") == 300 * MIB


def test_version_1_beside_it(tmp_path: Path) -> None:
    groups = "12:cpu,cpuacct:/x\n5:memory:/x\n0::/\n"
    assert limit_of(tmp_path, groups, memory__x__memory_limit="1048576\n") == MIB
    assert limit_of(tmp_path, "5:cpu:/x\n") is None


def test_in_a_container_the_group_itself_is_mounted(tmp_path: Path) -> None:
    assert limit_of(tmp_path, "0::/of/the/host\n", memory_max=f"{64 * MIB}\n") == 64 * MIB


def test_no_limit(tmp_path: Path) -> None:
    assert limit_of(tmp_path, "0::/a\n", a__memory_max="max\n") is None
    assert limit_of(tmp_path, "5:memory:/a\n", memory__a__memory_limit=f"{1 << 62}\n") is None, "more than there is"
    assert limit_of(tmp_path, "nonsense\n") is None
    assert memory_limit(tmp_path / "nothing") is None


def test_the_default_budget() -> None:
    assert default_dram(None) == DEFAULT_DRAM_BYTES and default_dram(64 * MIB) == 32 * MIB
    assert machine_memory() > 64 * MIB
