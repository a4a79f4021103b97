"""The known ways for a log to die, each by its name, and those that exploration found in this one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pmkv.engine.engine import Engine
from pmkv.errors import CorruptionError, FlushError, FullError, ReadOnlyError
from pmkv.log.format import FRAME_HEADER, Kind
from pmkv.log.segments import Pool
from pmkv.media.base import Granularity
from pmkv.media.simulated import CrashPoint, SimulatedMedium

pytestmark = pytest.mark.crash

NOW = 1_700_000_000_000
SEGMENT = 4096
every_granularity = pytest.mark.parametrize("granularity", Granularity)


class World:
    """An engine on a small simulated medium, and what can happen to it."""

    def __init__(
        self, granularity: Granularity = Granularity.PAGE, segments: int = 14, room: int | None = None
    ) -> None:
        self.medium = SimulatedMedium(4096 + segments * SEGMENT, granularity, room=room)
        Pool.create(self.medium, SEGMENT)
        self.engine = open_engine(self.medium)
        self.space = self.engine.keyspaces[0]

    def pending(self, work: Callable[[], object]) -> CrashPoint:
        """What is at risk just before the flush of this work."""
        with self.engine.log.deferred():
            work()
        return self.medium.point()

    def reopen(self, medium: SimulatedMedium) -> World:
        self.medium, self.engine = medium, open_engine(medium)
        self.space = self.engine.keyspaces[0]
        return self

    def power_cut(self) -> World:
        """Nothing that was not flushed is left."""
        return self.reopen(image(self.medium.point(), 0, 0))

    @property
    def position(self) -> int:
        return self.engine.log.position


def open_engine(medium: SimulatedMedium) -> Engine:
    return Engine(Pool.load(medium), now=lambda: NOW)


def image(point: CrashPoint, start: int, stop: int) -> SimulatedMedium:
    """A power cut: of all units at risk those in these bytes of the pool are there."""
    return point.medium((point.units >= start // 8) & (point.units < stop // 8))


def fill(world: World) -> None:
    """Until the pool takes no more."""
    with pytest.raises(FullError):
        for i in range(10_000):
            world.space.put(b"filler %d" % i, bytes(500))


@every_granularity
def test_a_stale_frame_behind_a_cut_tail_that_fits_again(granularity: Granularity) -> None:
    world = World(granularity)

    def both() -> None:
        world.space.put(b"n", bytes(300))
        world.space.put(b"n + 1", b"stale")

    point = world.pending(both)
    second = world.position - 128
    world.reopen(image(point, second, world.position))  # n was lost, n + 1 is on the medium
    assert world.space.get(b"n") is None and world.space.get(b"n + 1") is None
    lengths = second - world.position  # what is written now ends where n + 1 begins
    world.space.put(b"n", b"x" * (lengths - FRAME_HEADER.itemsize - 16 - 1))
    assert world.position == second
    world.power_cut()
    assert world.space.get(b"n + 1") is None


@every_granularity
def test_a_frame_seen_in_a_cache_served_then_lost(granularity: Granularity) -> None:
    world = World(granularity)
    if granularity is Granularity.PAGE:
        world.medium.fail_flush(reached="none")
        with pytest.raises(FlushError):
            world.space.put(b"key", b"value")
    else:
        world.pending(lambda: world.space.put(b"key", b"value"))
    world.reopen(world.medium.kill())
    assert world.space.get(b"key") == b"value"
    assert world.power_cut().space.get(b"key") == b"value"


@pytest.mark.parametrize("size", [8, 64, 512, 4096])
def test_a_zeroed_page_over_a_durable_frame(size: int) -> None:
    world = World()
    for i in range(30):
        world.space.put(b"%d" % i, bytes([i]) * 200)
    for frame in (5, 15, 25):
        damaged = image(world.medium.point(), 0, 0)
        start = (4096 + 64 + 128 + frame * 300) // size * size
        damaged.data[start : start + size] = 0
        with pytest.raises(CorruptionError, match="damaged"):
            open_engine(damaged)


def test_a_zeroed_page_over_the_last_durable_frame_is_found_behind_a_mark() -> None:
    world = World()
    start = world.position
    world.space.put(b"key", b"value")
    stop = world.position
    world.engine.log.mark()
    damaged = image(world.medium.point(), 0, 0)
    damaged.data[start:stop] = 0
    with pytest.raises(CorruptionError, match="damaged at offset"):
        open_engine(damaged)


def test_a_frame_copied_inside_a_value() -> None:
    """Where the log ends, the search for frames further on meets the copy. It must not count."""
    world = World()
    start = world.position
    world.space.put(b"a", b"original")
    world.space.put(b"b", b"original")
    raw = world.medium.data[start : world.position].tobytes()
    at = world.position
    pad = -(at + 64 + 16 + 4) % 64
    point = world.pending(lambda: world.space.put(b"copy", bytes(pad) + raw))
    assert raw in world.medium.data[at:].tobytes()
    world.reopen(image(point, at + 64, world.position))  # the header of the frame that holds it is lost
    assert world.space.get(b"copy") is None and world.space.get(b"a") == b"original"
    world.space.put(b"copy", bytes(pad) + raw)
    assert world.power_cut().space.get(b"copy") == bytes(pad) + raw


@every_granularity
def test_a_batch_whose_last_frame_is_torn(granularity: Granularity) -> None:
    world = World(granularity)
    world.space.put(b"a", b"before")

    def batch() -> None:
        with world.engine.batch():
            for key in (b"a", b"b", b"c"):
                world.space.put(key, b"in the batch")

    start = world.position
    point = world.pending(batch)
    end = world.position
    for stop in range(start, end, 8):
        world.reopen(image(point, start, stop))
        whole = world.space.get(b"c") is not None
        assert world.space.get_many([b"a", b"b"]) == ([b"in the batch"] * 2 if whole else [b"before", None])
        assert not whole or stop > end - 64, "only padding is missing"


def test_a_full_pool_in_the_middle_of_a_batch() -> None:
    world = World(segments=5)
    fill(world)
    before = len(world.space)
    with pytest.raises(FullError), world.engine.batch(20 * 1000):
        raise AssertionError("the batch began without room for all of it")
    with world.engine.batch():
        world.space.delete(b"filler 0")
        with pytest.raises(FullError):
            for i in range(20):
                world.space.put(b"new %d" % i, bytes(900))
    shown = dict(world.space.scan())
    assert len(shown) < before + 20
    assert dict(world.power_cut().space.scan()) == shown


@every_granularity
def test_a_crash_in_the_first_frame_of_a_new_segment(granularity: Granularity) -> None:
    world = World(granularity)
    while world.position < 4096 + SEGMENT - 700:
        world.space.put(b"filler", bytes(300))
    start, shown = world.position, dict(world.space.scan())
    point = world.pending(lambda: world.space.put(b"key", bytes(600)))
    assert world.position > 4096 + SEGMENT
    for unit in point.units:
        world.reopen(point.medium(point.units != unit))
        found = dict(world.space.scan())
        assert found == shown, f"byte {unit * 8} of the pool is missing, and the frame was taken (it began at {start})"
        world.space.put(b"other", bytes(600))
        assert world.power_cut().space.get(b"other") == bytes(600)


# --- found by exploration


@every_granularity
@pytest.mark.parametrize("empty", [True, False], ids=["first segment", "a segment in reserve"])
def test_a_segment_header_seen_in_a_cache_is_made_durable_before_use(granularity: Granularity, empty: bool) -> None:
    medium, points = SimulatedMedium(4096 + 14 * SEGMENT, granularity), []
    Pool.create(medium, SEGMENT)
    engine = None if empty else open_engine(medium)
    medium.on_point = lambda stage: points.append((stage, medium.point()))
    if engine is None:
        open_engine(medium)
    else:
        engine.pool.make_ready(1, 0)
    header = next(point for stage, point in points if stage == "flush")
    present = np.ones(len(header.units), bool)
    world = World().reopen(header.medium(present, reached=~present))
    for i in range(12):
        world.space.put(b"%d" % i, bytes(600))
    assert len(world.power_cut().space) == 12


def test_a_disk_error_while_a_segment_is_prepared_ends_writing() -> None:
    world = World()
    world.space.put(b"key", b"value")
    told = []
    world.engine.log.on_durable = lambda: told.append(world.engine.log.failed)
    world.medium.fail_flush()
    with pytest.raises(FlushError):
        world.engine.log.reserve([900] * 10)
    assert told and told[-1] is not None
    with pytest.raises(ReadOnlyError):
        world.space.put(b"key", b"other")
    assert world.space.get(b"key") == b"value"
    assert world.reopen(world.medium.kill()).space.get(b"key") == b"value"


def test_a_full_disk_leaves_room_to_open_and_to_delete() -> None:
    """The pool may have room where the disk has none; what is kept back must not be a promise only."""
    world = World(room=4096 + 6 * SEGMENT)
    fill(world)
    for _ in range(10):  # each opening takes a frame
        world.reopen(world.medium.kill())
        world.medium.room = 4096 + 6 * SEGMENT
    assert world.space.delete(b"filler 0")
    assert world.power_cut().space.get(b"filler 0") is None


def test_what_is_kept_back_is_not_written_to_by_others() -> None:
    """Opening a full pool takes a segment that was kept back; its room is for the log's own frames, not for writes."""
    world = World(segments=5)
    for opening in range(25):
        for size in (500, 50, 0):
            with pytest.raises(FullError):
                while True:
                    world.space.put(b"filler", bytes(size))
        world.power_cut()
        assert world.space.get(b"filler") is not None, f"at opening {opening}"


def test_a_full_disk_filled_again_after_each_opening_can_still_be_opened() -> None:
    """There is room for 12 of 14 segments. An opening takes the last one that is ready: writes must not fill it."""
    room = 13 * SEGMENT
    world = World(room=room)
    for opening in range(25):
        for size in (500, 50, 0):
            with pytest.raises(FullError):
                while True:
                    world.space.put(b"filler", bytes(size))
        medium = world.medium.kill()
        medium.room = room
        world.reopen(medium)
        assert world.space.get(b"filler") is not None, f"at opening {opening}"
    assert world.space.delete(b"filler")


def test_growing_waits_for_a_segment_that_is_being_prepared() -> None:
    pool, seen = World().engine.pool, []
    pool.medium.grow = lambda capacity: seen.append(pool._lists.locked())  # type: ignore[method-assign]
    pool.grow(1 << 20)
    assert seen == [True]


def test_a_mark_frame_is_the_last_of_an_idle_log() -> None:
    world = World()
    world.space.put(b"key", b"value")
    world.engine.log.mark()
    before = world.position
    world.engine.log.mark()
    assert world.position == before
    assert int(world.medium.data[before - 64 + 10]) == Kind.MARK
