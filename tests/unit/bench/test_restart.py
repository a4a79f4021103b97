"""What the section `restart` counts as right, and how it asks, without a server."""

from __future__ import annotations

import os
import threading
from multiprocessing import Pipe

import numpy as np
import pytest

from bench import maintenance, runs
from bench.measure import Comparison
from bench.report import compared
from bench.restart import Ledger, rows_of
from bench.servers import BenchError


def acknowledged(ledger: Ledger, *ids: int) -> None:
    ledger.begin(np.array(ids))
    ledger.acknowledge()


def rows(ids: list[int], batches: list[int]) -> np.ndarray:
    return rows_of(np.array(ids), np.array(batches, np.int32))


def test_rows_tell_their_id_and_their_batch() -> None:
    one, other = rows([3, 3], [1, 2])
    assert one[:2].tolist() == [3, 1] and (one[1:] != other[1:]).all()


def test_what_was_acknowledged_must_be_there() -> None:
    ledger = Ledger(10)
    acknowledged(ledger, 1, 2)
    acknowledged(ledger, 2, 3)
    ids = np.array([1, 2, 3, 4])
    ledger.check(ids, rows([1, 2, 3, 4], [1, 2, 2, 0]))
    for wrong in ([1, 1, 2, 0], [0, 2, 2, 0], [1, 2, 2, 1], [1, 2, 2, 3]):
        with pytest.raises(BenchError, match="not the one that was acknowledged"):
            ledger.check(ids, rows([1, 2, 3, 4], wrong))
    damaged = rows([1, 2, 3, 4], [1, 2, 2, 0])
    damaged[3, 15] ^= 1
    with pytest.raises(BenchError, match="the row of id 4"):
        ledger.check(ids, damaged)


@pytest.mark.parametrize("arrived", [True, False])
def test_the_batch_under_way_arrives_whole_or_not_at_all(arrived: bool) -> None:
    ledger = Ledger(10)
    acknowledged(ledger, 1, 2)
    ledger.begin(np.array([2, 3]))
    found = rows([2, 3], [2, 2] if arrived else [1, 0])
    ledger.check(np.array([2, 3]), found)
    ledger.settle(found)
    assert ledger.batches[[1, 2, 3]].tolist() == ([1, 2, 2] if arrived else [1, 1, 0])
    assert not ledger.doubtful.size
    ledger.begin(np.array([2, 3]))
    with pytest.raises(BenchError, match="half of the batch"):
        ledger.settle(rows([2, 3], [3, 0]))


def test_an_updater_answers_with_seconds_and_bytes(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.setswitchinterval", lambda seconds: None)  # of all threads here
    ours, theirs = Pipe()
    worker = threading.Thread(target=maintenance.update_when_asked, args=(tmp_path, 5_000, theirs))
    worker.start()
    assert ours.recv() == 0.0
    ours.send(3)
    assert 0 < ours.recv() < 30
    ours.send(None)
    assert ours.recv() > 1, "the log alone is as much as was acknowledged"
    worker.join()


def test_four_runs_beside_one(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "FEW", 1_000)
    monkeypatch.setattr(runs, "REQUESTS", 2)
    for module, name in ((runs.scheduler, "CHECKPOINT_DUE_S"), (runs.fold, "compactable")):
        monkeypatch.setattr(module, name, getattr(module, name))  # what the section changes in its processes comes back
    ours, theirs = Pipe(duplex=False)
    runs.load(tmp_path / "data", 10_000, theirs)
    assert ours.recv() is None
    runs.compare(tmp_path / "data", 10_000, 1, theirs)
    for one in ours.recv():
        assert len(one.ours) == len(one.theirs) == 2 and one.bar
    runs.squeezed(tmp_path / "data", 10_000, 0, 2, theirs)
    assert min(ours.recv()) > 0
    runs.fold_all(tmp_path / "data", 10_000, theirs)
    size, files = ours.recv()
    assert 16 <= size <= 24 and files > 16


def test_a_control_group_is_there_or_is_not(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "CGROUPS", [(str(tmp_path / "no" / "such"), "memory.max"), (str(tmp_path), "memory.max")])
    assert not runs.limits_are_possible()
    assert not (tmp_path / f"pmkv-bench-{os.getpid()}").exists()


def test_sides_have_names() -> None:
    one = Comparison("x", "u", [1.0], [2.0], bar=0.4, sides=("10 ids", "5 ids"))
    assert [column.header for column in compared("t", [one], *one.sides).columns][2:4] == ["10 ids", "5 ids"]
