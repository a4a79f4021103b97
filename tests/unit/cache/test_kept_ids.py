"""The file of ids that the row cache had: what is read is what was written, or nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pmkv.cache import kept_ids
from pmkv.cache.kept_ids import KeptIds

TABLES = {3: np.array([1, -5, 1 << 62]), 4: np.empty(0, np.int64), 9: np.arange(1000)}


def shown(tables: dict[int, np.ndarray]) -> dict[int, list[int]]:
    return {number: ids.tolist() for number, ids in tables.items()}


@pytest.fixture
def kept(tmp_path: Path) -> KeptIds:
    return KeptIds(tmp_path / "row_ids")


def test_what_is_written_is_read(kept: KeptIds) -> None:
    for tables in (TABLES, {}, {1: np.arange(3)}):
        kept.write(tables)
        assert shown(kept.read()) == shown(tables)
    assert [file.name for file in kept.path.parent.iterdir()] == ["row_ids"]
    assert kept.path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_missing_cut_or_damaged_has_nothing(kept: KeptIds) -> None:
    assert kept.read() == {}
    kept.write(TABLES)
    whole = kept.path.read_bytes()
    for damaged in (b"", whole[:-8], whole[:-3], whole[:8], b"x" + whole[1:], whole[:100] + b"x" + whole[101:]):
        kept.path.write_bytes(damaged)
        assert kept.read() == {}


def test_an_error_leaves_what_was_there(kept: KeptIds) -> None:
    kept.write(TABLES)
    kept.path.with_suffix(".new").mkdir()
    kept.write({})
    assert shown(kept.read()) == shown(TABLES)


def test_they_are_due_once_a_minute(kept: KeptIds, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(kept_ids.time, "monotonic", lambda: now[0])
    assert kept.is_due
    kept.write({})
    assert not kept.is_due
    now[0] += kept_ids.KEEP_EVERY_S
    assert kept.is_due
