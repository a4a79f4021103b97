"""The comparison on a table that fits in memory: every side returns the right rows, and the chart is drawn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import larger_than_dram


@contextlib.contextmanager
def no_limit(nbytes: int) -> Iterator[None]:
    yield None


def test_all_sides_look_up_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(larger_than_dram, "memory_limit", no_limit)
    monkeypatch.setattr(larger_than_dram, "has_swap", lambda nbytes: False)
    folder = tmp_path / "data"
    folder.mkdir()
    found = larger_than_dram.section(folder, 1, table=1 << 20, limit=1 << 18, seconds=0.1, exponents=(1.05,))
    assert [one.sides for one in found] == [("pmkv", "memmap"), ("pmkv", "LMDB"), ("pmkv", "DRAM")]
    assert all(one.ours[0] > 0 and one.theirs[0] > 0 for one in found)
    assert (tmp_path / "larger_than_dram.png").stat().st_size > 1000
