"""When passes are due, and how long writers wait."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pmkv.log.segments import LogSpeed, Reserve
from pmkv.maintenance.cleaning_policy import MIN_WIN
from pmkv.maintenance.cleaning_schedule import FIRST_GAIN, MAX_PACE_S, REST_WIN, CleaningSchedule, Due

SEGMENT = 1 << 20
BESIDE_WRITERS = Due(8, MIN_WIN)


class Situation:
    """A pool of 103 segments of which some live, and a schedule for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free: int, live: int = 40) -> None:
        self.now = 1000.0
        monkeypatch.setattr("pmkv.maintenance.cleaning_schedule.time.monotonic", lambda: self.now)
        self.pool = SimpleNamespace(count=100 + Reserve.WRITE, free=free + Reserve.WRITE, segment_size=SEGMENT)
        self.pool.speed = LogSpeed()
        self.log = SimpleNamespace(pool=self.pool, is_idle=False, appended=(0, 0, 0))
        self.written = 0, 0
        self.cleaner = SimpleNamespace(is_possible=True, awaits_checkpoint=False, manifest=SimpleNamespace(runs=[]))
        self.cleaner.live = np.array([live * SEGMENT])
        self.schedule = CleaningSchedule(self.log, self.cleaner, lambda: self.written)  # type: ignore[arg-type]


def test_beside_writers_a_pass_is_due_when_a_sixth_of_the_slack_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Situation(monkeypatch, free=8).schedule.due() is None
    assert Situation(monkeypatch, free=7).schedule.due() == BESIDE_WRITERS
    assert Situation(monkeypatch, free=2, live=80).schedule.due() == Due(3, MIN_WIN)
    assert Situation(monkeypatch, free=3, live=80).schedule.due() is None


def test_a_writer_that_found_no_room_makes_a_pass_due(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Situation(monkeypatch, free=50)
    one.schedule.is_demanded = True
    assert one.schedule.due() is not None
    one.schedule.note(BESIDE_WRITERS, 3 * SEGMENT, 3, 1.0)
    assert one.schedule.due() is None


def test_at_rest_a_pass_is_due_until_one_was_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Situation(monkeypatch, free=50)
    one.log.is_idle = True
    assert one.schedule.due() == Due(None, REST_WIN)
    one.schedule.note(Due(None, REST_WIN), 5 * SEGMENT, 5, 1.0)
    assert one.schedule.due() is not None
    one.schedule.note(Due(None, REST_WIN), 0 * SEGMENT, 0, 1.0)
    assert one.schedule.due() is None
    one.cleaner.manifest = SimpleNamespace(runs=[])
    assert one.schedule.due() is not None, "something has changed"


def test_at_rest_records_that_fill_segments_badly_are_not_moved_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Situation(monkeypatch, free=50)
    one.log.is_idle = True
    one.schedule.note(Due(None, REST_WIN), SEGMENT, 0, 1.0)  # as many segments were filled as freed
    assert one.schedule.due() is None


def test_a_checkpoint_goes_first_if_much_may_be_dead_by_now(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Situation(monkeypatch, free=7)
    assert not one.schedule.is_worth_checkpoint and not one.schedule.needs_checkpoint
    one.written = 1, SEGMENT
    assert one.schedule.is_worth_checkpoint and not one.schedule.needs_checkpoint
    one.written = 1, 2 * SEGMENT
    assert one.schedule.needs_checkpoint


def test_a_delete_counts_as_much_as_a_record_that_it_makes_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Situation(monkeypatch, free=50)
    info = SimpleNamespace(segments={0: 1000 * 1024}, count=1000)
    one.cleaner.manifest = SimpleNamespace(runs=[("rows", SimpleNamespace(info=info))])
    one.written = 1023, 1023  # a byte and another of 1,024
    assert not one.schedule.is_worth_checkpoint
    one.written = 1024, 1024
    assert one.schedule.is_worth_checkpoint


def test_after_a_pass_in_vain_the_next_one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Situation(monkeypatch, free=3)
    one.schedule.note(BESIDE_WRITERS, 0 * SEGMENT, 0, 1.0)
    assert one.schedule.due() is None and one.schedule.needs_checkpoint and not one.schedule.is_vain
    one.now += 10.5
    assert one.schedule.due() is not None
    one.schedule.note(BESIDE_WRITERS, 0 * SEGMENT, 0, 1.0)
    assert one.schedule.is_vain and not one.schedule.is_pressing


def test_a_share_leaves_time_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Situation(monkeypatch, free=3)
    one.schedule.share = 0.25
    one.schedule.note(BESIDE_WRITERS, 2 * SEGMENT, 2, 1.0)
    one.now += 2.9
    assert one.schedule.due() is None
    one.now += 0.2
    assert one.schedule.due() is not None


def test_writers_wait_longer_the_less_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    for free in (50, 7, 4, 1, 0):
        one = Situation(monkeypatch, free)
        one.log.appended = (1, 1, 1 << 20)
        waits.append(one.schedule.pace())
    assert waits[0] == 0 and waits == sorted(waits) and waits[1] < 0.06 < waits[-1] <= MAX_PACE_S


def test_writers_are_as_fast_as_the_cleaner_when_half_of_the_short_segments_are_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So a pass may fill some, and gains more for what it costs."""
    one = Situation(monkeypatch, free=5)
    one.log.appended = (1, 1, FIRST_GAIN // 16)
    assert one.schedule.pace() == pytest.approx(1 / 16, rel=0.1)
    assert one.pool.speed.is_paced, "the disk is needed for more than zeros"


def test_all_that_flush_at_a_time_wait_until_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Situation(monkeypatch, free=4)
    one.log.appended = (1, 1, 1 << 20)
    wait = one.schedule.pace()
    assert one.schedule.pace() == wait > 0
    one.now += wait / 2
    assert one.schedule.pace() == pytest.approx(wait / 2)
    one.pool.free = 50
    assert one.schedule.pace() == 0 and not one.pool.speed.is_paced


def test_what_passes_gain_is_measured_from_one_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """While space is short: checkpoints between passes take time, too."""
    waits = []
    for pause in (0, 10):
        one = Situation(monkeypatch, free=4)
        for _ in range(4):
            one.now += 1 + pause
            one.schedule.note(BESIDE_WRITERS, 4 * SEGMENT, 4, 1.0)
        one.log.appended = (1, 1, 1 << 20)
        waits.append(one.schedule.pace())
    assert waits[0] < waits[1]


def test_writers_do_not_wait_for_what_is_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Situation(monkeypatch, free=0)
    for _ in range(2):
        one.schedule.note(BESIDE_WRITERS, 0 * SEGMENT, 0, 1.0)
    one.log.appended = (1, 1, 1 << 20)
    assert one.schedule.pace() == 0


def test_what_has_died_since_gives_new_hope(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Situation(monkeypatch, free=0)
    for _ in range(2):
        one.schedule.note(BESIDE_WRITERS, 0, 0, 1.0)
    assert one.schedule.is_vain and one.schedule.due() is None
    one.schedule.expect_gain()
    assert not one.schedule.is_vain and one.schedule.due() == BESIDE_WRITERS


def test_a_gain_that_is_lost_at_the_ends_of_segments_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Situation(monkeypatch, free=0)
    for _ in range(2):
        one.schedule.note(BESIDE_WRITERS, int(MIN_WIN * SEGMENT) - 1, 0, 1.0)
    assert one.schedule.is_vain
    one.schedule.note(BESIDE_WRITERS, int(MIN_WIN * SEGMENT) + 1, 0, 1.0)
    assert not one.schedule.is_vain


def test_a_full_pool_without_a_checkpoint_waits_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Situation(monkeypatch, free=3)
    assert not one.schedule.awaits_checkpoint
    one.cleaner.awaits_checkpoint = True
    assert one.schedule.awaits_checkpoint
    one.pool.free = 50
    assert not one.schedule.awaits_checkpoint
