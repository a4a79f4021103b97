"""A store's checkpoints and folds in the background: when they are taken, and what an end leaves to the log."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import pmkv
from pmkv.errors import ClosedError
from pmkv.maintenance.compaction_policy import TIER
from pmkv.maintenance.scheduler import MAX_THROTTLE_S, RETRY_S, MaintenanceScheduler

SMALL = "8MiB"


def closing_seconds(store: pmkv.Store) -> float:
    begun = time.monotonic()
    store.close()
    return time.monotonic() - begun


def recovered(path: Path) -> int:
    """Records replayed by an opening, after which all is there."""
    with pmkv.open(path, capacity=SMALL) as store:
        assert len(store.keyspace(0)) == 1000
        store.check()
        return store.stats().recovery_records


@pytest.mark.parametrize(
    ("due", "closing", "wanted", "left"), [(0, 9, True, 0), (9, 9, True, 1000), (0, 0, True, 1000), (0, 9, False, 1000)]
)
def test_a_checkpoint_at_the_end_is_taken_if_it_is_due_wanted_and_quick(
    due: float, closing: float, wanted: bool, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmkv.maintenance.scheduler.DUE_AT_CLOSE_S", due)
    monkeypatch.setattr("pmkv.maintenance.scheduler.CLOSE_LIMIT_S", closing)
    store = pmkv.open(tmp_path, capacity=SMALL)
    store.put_many({b"%d" % i: b"" for i in range(1000)})
    store.close(checkpoint=wanted)
    assert recovered(tmp_path) == left


def test_closing_does_not_wait_for_a_fold(tmp_path: Path) -> None:
    store, steps = pmkv.open(tmp_path, capacity=SMALL), []
    store.put_many({b"%d" % i: b"" for i in range(1000)})

    def endless() -> Iterator[None]:
        try:
            while True:
                steps.append(time.sleep(0.001))
                yield
        finally:
            steps.append("ended")

    store._engine.maintenance.compact = endless
    store.checkpoint()
    while len(steps) < 10:
        time.sleep(0.001)
    assert closing_seconds(store) < 1 and steps[-1] == "ended"
    assert recovered(tmp_path) == 0


def test_closing_gives_up_a_commit_that_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the background, and begun before: it is told at its next step."""
    monkeypatch.setattr("pmkv.maintenance.scheduler.CLOSE_LIMIT_S", 0.05)
    store, begun = pmkv.open(tmp_path, capacity=SMALL), threading.Event()
    store.put_many({b"%d" % i: b"" for i in range(1000)})
    commit = store._engine.maintenance.catalog.commit

    def slow(state: dict, new: object = (), dead: object = (), pause: Callable[[], None] = lambda: None) -> int:
        for _ in range(5000):
            begun.set()
            time.sleep(0.001)
            pause()
        return commit(state, new, dead, pause)

    store._engine.maintenance.catalog.commit = slow

    def ask() -> None:
        with pytest.raises(ClosedError):
            store.checkpoint()

    asking = threading.Thread(target=ask)
    asking.start()
    assert begun.wait(5)
    assert closing_seconds(store) < 2
    asking.join(5)
    assert not asking.is_alive()
    assert recovered(tmp_path) == 1000


def test_maintenance_in_figures(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        assert store.stats().checkpointed_at == store.checkpointed_at == 0
        store.put_many({b"%d" % i: b"" for i in range(1000)})
        before = store.stats()
        assert before.replay_records == 1000 and before.replay_seconds > 0 and before.runs == before.run_bytes == 0
        store.checkpoint()
        after = store.stats()
        assert (after.checkpoints, after.runs, after.replay_records, after.maintenance_error) == (1, 1, 0, None)
        assert after.checkpointed_at == store.checkpointed_at > 0 and not after.is_cold
        sizes = [file.stat().st_size for file in (tmp_path / "runs").iterdir()]
        assert after.run_bytes == after.run_bytes_written == sum(sizes) > 16_000
        assert store.get(b"1") == store.get(b"1") == store.get(b"1") == b""
        assert store.stats().location_cache_misses > 0 and store.stats().location_cache_hits > 0


def test_folds_go_on_beside_checkpoints_that_are_always_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        maintenance, steps = store._engine.maintenance, []

        def fold() -> Iterator[None]:
            if maintenance.is_compacting:
                return
            maintenance.is_compacting = True
            while len(steps) < 100 or steps[-1] == steps[0]:
                steps.append(maintenance.checkpoints)
                time.sleep(0.001)
                yield
            maintenance.is_compacting = False

        maintenance.compact = fold
        monkeypatch.setattr("pmkv.maintenance.scheduler.CHECKPOINT_DUE_S", -1.0)
        store.put(b"k", b"v")
        until(lambda: len(steps) >= 100 and steps[-1] > steps[0])
        monkeypatch.undo()


def test_folds_come_after_the_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warm = MaintenanceScheduler._warm
    monkeypatch.setattr(MaintenanceScheduler, "_warm", lambda self: None)
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        store.put(b"k", b"v")
        store.checkpoint()
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        for number in range(TIER):
            store.put(b"%d" % number, b"v")
            store.checkpoint()
        assert store.is_cold and store.stats().compactions == 0
        warm(store._maintenance)
        deadline = time.monotonic() + 5
        while not store.stats().compactions:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert not store.is_cold


def nothing_is_left_to_replay(store: pmkv.Store) -> bool:
    """Some time soon, although nobody writes."""
    deadline = time.monotonic() + 60
    while store.stats().replay_records and time.monotonic() < deadline:
        time.sleep(0.001)
    return not store.stats().replay_records


def test_what_becomes_due_during_a_checkpoint_is_checkpointed_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pmkv.maintenance.scheduler.CHECKPOINT_DUE_S", 0.001)
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        take = store._maintenance._take_checkpoint

        def writing_meanwhile() -> None:
            with contextlib.closing(store._engine.maintenance.checkpoint()) as steps:
                next(steps)  # it stands for what was written before this
                store._maintenance._take_checkpoint = take
                store.put_many({b"during %d" % i: b"" for i in range(5000)})
                for _ in steps:
                    pass

        store._maintenance._take_checkpoint = writing_meanwhile
        store.put_many({b"before %d" % i: b"" for i in range(5000)})
        assert nothing_is_left_to_replay(store) and store.stats().checkpoints == 2


def test_a_store_at_rest_is_checkpointed_sooner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        store.put_many({b"%d" % i: b"" for i in range(1000)})
        monkeypatch.setattr("pmkv.maintenance.scheduler.CHECKPOINT_DUE_S", 2 * store.stats().replay_seconds)
        assert nothing_is_left_to_replay(store) and store.stats().checkpoints == 1
        monkeypatch.setattr("pmkv.maintenance.scheduler.IDLE_DUE_DIVISOR", 1)
        store.put_many({b"%d" % i: b"" for i in range(1000)})
        deadline = time.monotonic() + 5
        while not store._log.is_idle:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.05)
        assert store.stats().replay_records == 1000, "not before it is due, else"


def until(is_so: Callable[[], bool]) -> None:
    """Wait, but not for ever."""
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_a_store_at_rest_folds_what_is_left(tmp_path: Path) -> None:
    """Behind its last checkpoint, although none is due; and does not look again and again."""
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        maintenance, looks = store._engine.maintenance, []
        choose = maintenance._compactor._choose
        maintenance._compactor._choose = lambda at_rest: looks.append(at_rest) or choose(at_rest)
        for number in range(TIER - 1):
            store.put(b"%d" % number, b"v")
            store.checkpoint()
        cleaning = store._maintenance.cleaning
        until(lambda: len(store.keyspace(0).stack.runs) <= 2)  # 2 if this machine is slow: some were folded before
        until(lambda: store._log.is_idle and maintenance.cleaner.is_possible and cleaning.due() is None)
        until(lambda: not maintenance.may_compact_at_rest)  # behind what the cleaner committed
        looks.clear()
        store.put(b"more", b"v")  # and a MARK again, when nobody writes
        until(lambda: store._log.is_idle)
        time.sleep(0.05)
        assert not looks


def test_what_a_snapshot_sealed_is_folded(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        for size in (1000, 100, 10):
            store.put_many({b"%d" % i: b"v" for i in range(size)})
            store.checkpoint()
        store.snapshot("kept")
        store.put(b"more", b"v")
        store.checkpoint()
        until(lambda: [run.info.count for run in store.keyspace(0).stack.runs] == [1, 1000])
        assert len(store.view("kept").keyspace(0)) == 1000


def test_writers_are_held_up_only_while_checkpoints_may_catch_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        monkeypatch.setattr("pmkv.maintenance.scheduler.CHECKPOINT_DUE_S", 1e9)  # none is taken
        monkeypatch.setattr(
            "pmkv.maintenance.scheduler.time", SimpleNamespace(sleep=naps.append, monotonic=time.monotonic)
        )
        store.put(b"k", b"v")
        assert not naps
        monkeypatch.setattr("pmkv.maintenance.scheduler.THROTTLE_ABOVE_S", 0.0)
        store.put(b"k", b"v")
        assert naps and 0 < min(naps) <= max(naps) <= MAX_THROTTLE_S
        store._engine.maintenance.error = "there is no room"
        naps.clear()
        store.put(b"k", b"v")
        assert not naps
        monkeypatch.undo()


def test_a_long_replay_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = pmkv.open(tmp_path, capacity=SMALL)
    store.put_many({b"%d" % i: b"" for i in range(1000)})
    store.close(checkpoint=False)
    monkeypatch.setattr("pmkv.maintenance.scheduler.CHECKPOINT_DUE_S", 0.0)
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        assert nothing_is_left_to_replay(store)
    assert recovered(tmp_path) == 0


def test_a_failure_that_comes_again_and_again_is_logged_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A writer that waits for room asks for a pass ten times a second."""
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        scheduler, now = store._maintenance, time.monotonic() + 100
        monkeypatch.setattr("pmkv.maintenance.scheduler.time", SimpleNamespace(monotonic=lambda: now))
        for _ in range(9):
            scheduler._note_failure(OSError("no room"))
        assert caplog.text.count("no room") == 1
        now += RETRY_S
        scheduler._note_failure(OSError("no room"))
        assert caplog.text.count("no room") == 2
        monkeypatch.undo()


def test_what_failed_is_tried_again_although_nobody_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmkv.maintenance.scheduler.RETRY_S", 0.01)
    ran = threading.Event()
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        monkeypatch.setattr(store._maintenance, "_run", ran.set)
        store._maintenance._note_failure(OSError("no room"))
        assert ran.wait(10)
        monkeypatch.setattr("pmkv.maintenance.scheduler.RETRY_S", 100.0)
        ran.clear()
        store._maintenance._note_failure(OSError("no room"))
    assert not ran.is_set() and store._background.has_ended, "a closed store tries nothing again, and waits for nothing"
