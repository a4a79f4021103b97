"""What is particular to persistent memory: what is refused, what sysfs tells, what is asked of libpmem."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pmkv.errors import FullError, InvalidError
from pmkv.media import dax
from pmkv.media.base import Granularity
from pmkv.media.dax import DaxMedium, NotDaxError, device_size, probe

pytestmark = pytest.mark.usefixtures("needs_libpmem")

SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMEM_IS_PMEM_FORCE", "1")


class Spy:
    """libpmem, with a list of what was called."""

    def __init__(self, auto_flush: int = 0) -> None:
        self.ffi, self.library = dax.libpmem()
        self.auto_flush, self.calls = auto_flush, []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append((name, *arguments[1:]))
            return getattr(self.library, name)(*arguments)

        return call

    def pmem_has_auto_flush(self) -> int:
        return self.auto_flush


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy()
    monkeypatch.setattr(dax, "libpmem", lambda: (spy.ffi, spy))
    return spy


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    """A sysfs in which /dev/zero, which can be mapped as a device can, is a devdax device of 2 MiB."""
    number = os.stat("/dev/zero").st_rdev
    entry = tmp_path / "sys" / "dev" / "char" / f"{os.major(number)}:{os.minor(number)}"
    entry.mkdir(parents=True)
    (tmp_path / "sys" / "bus" / "dax").mkdir(parents=True)
    (entry / "subsystem").symlink_to(tmp_path / "sys" / "bus" / "dax")
    (entry / "size").write_text("2097152\n")
    return tmp_path / "sys"


@pytest.mark.parametrize("folder", [SHARED_MEMORY, None], ids=["tmpfs", "disk"])
def test_a_plain_file_is_refused(folder: Path | None, tmp_path: Path) -> None:
    path = (folder or tmp_path) / f"pmkv-test-{os.getpid()}"
    try:
        with pytest.raises(NotDaxError, match="MAP_SYNC was refused"):
            DaxMedium(path, 1 << 20)
        assert probe(path) is None and probe(path.parent) is None
    finally:
        path.unlink(missing_ok=True)


def test_a_refused_file_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(NotDaxError):
        DaxMedium(tmp_path / "pool", 1 << 20)
    assert not list(tmp_path.iterdir())


def test_force_is_no_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PMEM_IS_PMEM_FORCE", raising=False)
    with pytest.raises(InvalidError, match="PMEM_IS_PMEM_FORCE"):
        DaxMedium(tmp_path / "pool", 1 << 20, force=True)


def test_without_libpmem_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(ffi: Any, name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("cffi.FFI.dlopen", missing)
    dax.libpmem.cache_clear()
    with pytest.raises(NotDaxError, match="install libpmem1"):
        DaxMedium(tmp_path / "pool", 1 << 20)
    assert probe(tmp_path) is None


def test_one_drain_for_all_ranges_of_a_flush(forced: None, spy: Spy, tmp_path: Path) -> None:
    medium = DaxMedium(tmp_path / "pool", 1 << 20, force=True)
    medium.prepare(0, 8192)
    assert spy.calls == [("pmem_memset_persist", 0, 8192)]
    spy.calls.clear()
    medium.flush([(0, 64), (4096, 4224)])
    assert spy.calls == [("pmem_flush", 64), ("pmem_flush", 128), ("pmem_drain",)]
    spy.calls.clear()
    medium.flush([(0, 64)], sync=False)
    assert spy.calls == [("pmem_flush", 64)]
    medium.close()


@pytest.mark.parametrize("auto_flush", [1, 0, -1])
def test_eadr_is_detected(auto_flush: int, spy: Spy, devices: Path) -> None:
    spy.auto_flush = auto_flush
    assert probe("/dev/zero", os.fspath(devices)) is (Granularity.BYTE if auto_flush == 1 else Granularity.CACHE_LINE)


def test_a_device_is_as_large_as_sysfs_says(forced: None, devices: Path) -> None:
    medium = DaxMedium("/dev/zero", force=True, sysfs=os.fspath(devices))
    assert medium.data.size == 2 << 20 and medium.granularity is Granularity.CACHE_LINE
    medium.prepare(0, 4096)
    medium.data[:5] = 7
    medium.flush([(0, 64)])
    assert medium.data[:6].tolist() == [7] * 5 + [0]
    with pytest.raises(FullError, match="2097152 bytes"):
        medium.grow(4 << 20)
    medium.close()
    smaller = DaxMedium("/dev/zero", 1 << 20, force=True, sysfs=os.fspath(devices))
    assert smaller.data.size == 1 << 20
    smaller.close()


def test_other_character_devices_are_refused(devices: Path) -> None:
    with pytest.raises(NotDaxError, match="no devdax device"):
        device_size("/dev/null", os.fspath(devices))
    assert device_size(__file__) is None


def test_an_empty_file_asks_for_a_capacity(forced: None, tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="capacity"):
        DaxMedium(tmp_path / "pool", force=True)


def test_a_file_is_taken_as_large_as_it_is(forced: None, tmp_path: Path) -> None:
    DaxMedium(tmp_path / "pool", 1 << 20, force=True).close()
    medium = DaxMedium(tmp_path / "pool", force=True)
    assert medium.data.size == 1 << 20
    medium.close()


def test_a_range_beyond_the_end_is_not_prepared(forced: None, tmp_path: Path) -> None:
    medium = DaxMedium(tmp_path / "pool", 1 << 20, force=True)
    with pytest.raises(InvalidError, match="cannot be prepared"):
        medium.prepare(0, 2 << 20)
    medium.close()
