"""The section `versions`, with few rows and little time: what it counts, and that its sides are what they are said to
be."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import versions
from bench.measure import Comparison, Ratio
from bench.servers import BenchError


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (versions, "SMALL", 1_000),
        (versions, "CYCLES", 2),
        (versions, "SECONDS", 0.55),
        (versions, "settle", lambda store: None),
    ):
        monkeypatch.setattr(module, name, value)


def measured(function: Callable[..., None], folder: Path, *arguments: Any) -> list[Any]:
    ours, theirs = Pipe(duplex=False)
    function(folder, *arguments, theirs)
    return ours.recv()


def test_a_ratio_is_judged_by_its_median() -> None:
    assert Ratio("x", "x", [0.9, 1.1, 9.0], 1.2).holds is True
    assert Ratio("x", "x", [0.9, 1.3, 9.0], 1.2).holds is False
    assert Ratio("x", "x", [9.0]).holds is None
    assert Ratio("x", "x", [1.0, 2.0, 9.0], 1.2).asdict()["median"] == 2


def test_operations_in_both_sizes(tmp_path: Path) -> None:
    figures = measured(versions.time_operations, tmp_path, 2, 2_000)
    assert len(figures) == 4 * len(versions.OPERATIONS)
    for figure in figures:
        if figure.unit == "B":
            assert 0 < figure.values[0] <= versions.WRITTEN, figure
        else:
            assert len(figure.values) == 2, figure


def test_operations_by_the_medium_of_persistent_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMEM_IS_PMEM_FORCE", "1")
    monkeypatch.setattr(versions.data_directory, "DaxMedium", versions.data_directory.DaxMedium)
    monkeypatch.setattr(versions, "DRAM", str(tmp_path))
    figures = measured(versions.time_on_dax, tmp_path / "data", 1, 1_000)
    try:
        versions.dax.libpmem()
    except versions.dax.NotDaxError:
        assert figures == []
    else:
        assert [figure.bar for figure in figures] == [versions.ON_DAX] * len(versions.OPERATIONS)


def test_each_operation_has_something_to_do(tmp_path: Path) -> None:
    with versions.filled(tmp_path / "data", 1_000) as store:
        timed = versions.Timed(store, 1_000)
        before = store.main_changes[0]
        timed.cycle()
        assert store.main_changes[0] == before + 2, "promoted and rolled back"
        assert set(store.views()) == {"main", "undo"}
        assert {name: len(taken) for name, taken in timed.taken.items()} == {
            "commit": 4, "snapshot": 1, "branch": 1, "promote": 1, "rollback": 1
        }  # fmt: skip
        assert (store.table("rows").get(np.arange(1_000))[:, 0] == np.arange(1_000)).all()


def test_writes_beside_snapshots(tmp_path: Path) -> None:
    [one] = measured(versions.write_beside_snapshots, tmp_path, 1, 1_000)
    assert one.sides == ("a snapshot a second", "without") and len(one.ours) == 1 and one.bar == versions.THROUGHPUT


def test_reads_of_layers_and_of_kept_snapshots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.runs.REQUESTS", 2)
    for one in (
        *measured(versions.read_layers, tmp_path / "layers", 1, 2_000),
        *measured(versions.read_kept, tmp_path / "kept", 1, 2_000, 5),
    ):
        assert isinstance(one, Comparison) and len(one.ours) == 2 and min(one.ours) > 0 and one.bar


def test_ids_of_a_bulk_load_are_those_of_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "PIECE", 4)
    assert [ids.tolist() for ids in versions.pieces(6 * versions.ROW)] == [[0, 1, 2, 3], [4, 5]]


def test_bulk_loads(tmp_path: Path) -> None:
    [one] = measured(versions.load_branches, tmp_path, 1, 1 << 20)
    assert one.unit == "MB/s" and min(one.ours + one.theirs) > 0
    assert not (tmp_path / "plain").exists()


def test_a_disk_that_is_too_small_is_told(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="see --load"):
        versions.section(tmp_path, 5, load=1 << 60)
