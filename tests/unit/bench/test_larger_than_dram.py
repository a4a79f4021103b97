"""The comparison on tables that fit in memory: every side gives the same outputs, and the chart is drawn."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench import larger_than_dram
from bench.larger_than_dram import Result, compare_outputs, comparisons
from bench.servers import BenchError


@contextlib.contextmanager
def nothing(*_: object) -> Iterator[None]:
    yield None


@contextlib.contextmanager
def no_swap(*_: object) -> Iterator[None]:
    raise BenchError("not here")
    yield


def test_all_sides_give_the_same_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch", reason="torch is not installed: make ml")
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(larger_than_dram, "memory_limit", nothing)
    monkeypatch.setattr(larger_than_dram, "swap_file", no_swap)
    monkeypatch.setattr(larger_than_dram, "CHART", tmp_path / "chart.png")
    found = larger_than_dram.section(tmp_path, 1, limit=1 << 20, seconds=0.05, times=(1.0,), exponents=(1.05,))
    others = {one.sides[1] for one in found}
    assert {"all in DRAM", "pmkv served", "LMDB", "memory map, MADV_RANDOM", "memory map, readahead"} <= others
    assert all(one.ours[0] > 0 and one.theirs[0] > 0 and one.sides[0] == "pmkv" for one in found)
    assert (tmp_path / "chart.png").stat().st_size > 1000
    assert "swap is left out: not here" in capsys.readouterr().out


def test_other_outputs_are_refused() -> None:
    compare_outputs("x", [1, 2], [1, 2, 3])
    with pytest.raises(BenchError, match="x gives other outputs than all in DRAM in batch 1"):
        compare_outputs("x", [1, 5], [1, 2, 3])


def test_bars_are_for_one_size_and_exponent() -> None:
    fast, slow = (Result([0.001] * 10, [times * 0.0001] * 10, [1]) for times in (1, 9))
    assert fast.inferences == pytest.approx(128_000) and slow.looked_up == pytest.approx(26 * 128 / 0.0009)
    assert fast.milliseconds(99) == pytest.approx(1.0)
    results = {(size, 1.05, side): one for size in (4.0, 8.0) for side, one in (("pmkv", fast), ("swap", slow))}
    found = {(one.name, one.unit): (one.bar, one.holds) for one in comparisons(results)}
    assert found["4 times the limit, Zipf 1.05", "lookups/s"] == (8.0, True)
    assert found["4 times the limit, Zipf 1.05", "inferences/s"] == (6.0, False)
    assert found["8 times the limit, Zipf 1.05", "lookups/s"] == (None, None)


def test_requests_are_the_same_for_every_side_and_tables_have_other_hot_rows() -> None:
    from bench.dlrm import BATCH, TABLES, Requests, rows_of

    one, other = (next(iter(Requests(1000, 1.2))) for _ in range(2))
    assert (one[0] == other[0]).all() and (one[1] == other[1]).all()
    assert one[0].shape == (TABLES, BATCH) and 0 <= one[0].min() <= one[0].max() < 1000
    hottest = [np.bincount(ids).argmax() for ids in one[0]]
    assert len(set(hottest)) == TABLES
    assert len(np.unique(rows_of(np.arange(20_000)), axis=0)) == 20_000
