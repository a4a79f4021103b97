"""A data directory belongs to one process and one user, keeps its size, and says what to do otherwise."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import pmkv
from pmkv.errors import InvalidError, LockedError

SECOND = """
import sys, pmkv
try:
    pmkv.open(sys.argv[1], capacity="64MiB", pool=sys.argv[2])
except pmkv.errors.LockedError as error:
    print("locked:", error)
"""


def second(folder: Path, pool: str = "auto") -> str:
    command = [sys.executable, "-c", SECOND, str(folder), pool]
    return subprocess.run(command, check=True, timeout=60, capture_output=True, text=True).stdout


def test_a_removed_lock_file_lets_nobody_in(tmp_path: Path) -> None:
    with pmkv.open(tmp_path / "d", capacity="64MiB") as store:
        (tmp_path / "d/lock").unlink()
        assert "locked: the pool" in second(tmp_path / "d")
        store.put(b"k", b"v")
    assert second(tmp_path / "d") == ""


def test_two_directories_cannot_share_a_pool(tmp_path: Path) -> None:
    pool = tmp_path / "values"
    with pmkv.open(tmp_path / "a", capacity="64MiB", pool=pool):
        pass
    with pmkv.open(tmp_path / "a", capacity="64MiB", pool=pool):
        (tmp_path / "b").mkdir()
        (tmp_path / "b/pmkv.json").write_bytes((tmp_path / "a/pmkv.json").read_bytes())
        assert "locked: the pool" in second(tmp_path / "b", str(pool))


def test_a_failed_opening_leaves_no_lock(tmp_path: Path) -> None:
    with pmkv.open(tmp_path / "a", capacity="64MiB") as store, pytest.raises(LockedError):
        pmkv.open(tmp_path / "a")
    assert not store.readonly
    with pmkv.open(tmp_path / "a"):
        pass


def test_the_capacity_stays_unless_it_grows(tmp_path: Path) -> None:
    with pmkv.open(tmp_path / "d", capacity="64MiB") as store:
        assert store.capacity == 64 << 20
    with pmkv.open(tmp_path / "d") as store:
        assert store.capacity == 64 << 20
    with pytest.raises(InvalidError, match="leave the capacity out"):
        pmkv.open(tmp_path / "d", capacity="32MiB")
    with pmkv.open(tmp_path / "d", capacity="96MiB") as store:
        assert store.capacity == 96 << 20
    with pytest.raises(InvalidError, match="too small"):
        pmkv.open(tmp_path / "e", capacity=16)


def test_a_pool_that_is_elsewhere_is_not_made_anew(tmp_path: Path) -> None:
    with pmkv.open(tmp_path / "d", capacity="64MiB", pool=tmp_path / "values") as store:
        store.put(b"k", b"v")
    for wrong in ("auto", tmp_path / "other"):
        with pytest.raises(InvalidError, match="there is no pool at"):
            pmkv.open(tmp_path / "d", pool=wrong)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "values"]
    with pmkv.open(tmp_path / "d", pool=tmp_path / "values") as store:
        assert store.get(b"k") == b"v"


def test_nobody_else_may_read_the_files(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with pmkv.open(tmp_path / "d", capacity="64MiB") as store:
            store.put(b"k", b"v")
            store.checkpoint()
    finally:
        os.umask(before)
    for path in [tmp_path / "d", *(tmp_path / "d").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), (path.name, oct(mode))


COLD = """
import sys, pmkv
store = pmkv.open(sys.argv[1], capacity="256MiB")
assert store.table("t").get([5]).tolist() == [[5] * 64]
raise SystemExit(3)
"""


def test_a_program_may_end_without_closing(tmp_path: Path) -> None:
    """Runs on file stay mapped until the process is gone: a background thread may be reading them."""
    import numpy as np

    with pmkv.open(tmp_path / "d", capacity="256MiB") as store:
        table = store.create_table("t", ("i4", 64))
        table.put(np.arange(400_000), np.repeat(np.arange(400_000, dtype="i4")[:, None], 64, axis=1))
        store.checkpoint()
    for _ in range(3):
        ended = subprocess.run([sys.executable, "-c", COLD, str(tmp_path / "d")], timeout=60, capture_output=True)
        assert (ended.returncode, ended.stderr) == (3, b"")
