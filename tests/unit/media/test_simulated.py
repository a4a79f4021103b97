"""The crash machine itself: it loses, tears and forgets, and notices when the engine leans on what does not hold."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.errors import FullError
from pmkv.media.base import Granularity
from pmkv.media.simulated import CrashPoint, SimulatedMedium

CAPACITY = 64 * 1024
every_granularity = pytest.mark.parametrize("granularity", Granularity)


def medium_of(granularity: Granularity = Granularity.PAGE) -> SimulatedMedium:
    medium = SimulatedMedium(CAPACITY, granularity)
    medium.prepare(0, CAPACITY)
    return medium


def words(medium: SimulatedMedium, start: int = 0, stop: int = 8) -> list[int]:
    return medium.data.view(np.uint64)[start:stop].tolist()


def store(medium: SimulatedMedium, unit: int, *values: int) -> tuple[int, int]:
    medium.data.view(np.uint64)[unit : unit + len(values)] = values
    return 8 * unit, 8 * (unit + len(values))


def mask(point: CrashPoint, *present: int) -> np.ndarray:
    return np.isin(np.arange(len(point.units)), present)


@every_granularity
def test_a_power_cut_may_lose_any_subset_of_unflushed_units(granularity: Granularity) -> None:
    medium = medium_of(granularity)
    medium.flush([store(medium, 0, 7)])
    store(medium, 1, 1, 2, 3)
    images = [tuple(words(image, 0, 4)) for image in medium.crash_images(8, np.random.default_rng(1))]
    assert sorted(images) == [(7, a, b, c) for a in (0, 1) for b in (0, 2) for c in (0, 3)]


@every_granularity
def test_what_was_flushed_survives_every_power_cut(granularity: Granularity) -> None:
    medium, rng = medium_of(granularity), np.random.default_rng(2)
    medium.flush([store(medium, 0, *range(1, 200))])
    store(medium, 199, *range(200, 400))
    for _ in range(50):
        assert words(medium.crash(rng), 0, 199) == list(range(1, 200))


@every_granularity
def test_a_flush_makes_nothing_else_durable(granularity: Granularity) -> None:
    medium = medium_of(granularity)
    store(medium, 0, 1)
    medium.flush([store(medium, 1, 2)])
    assert medium.point().units.tolist() == [0]


def test_many_units_are_sampled_with_none_all_and_the_telling_ones() -> None:
    medium = medium_of()
    store(medium, 0, *range(1, 41))
    masks = medium.point().masks(1000, np.random.default_rng(3))
    found = {row.tobytes() for row in masks}
    telling = [np.arange(40) < n for n in range(41)]
    telling += [np.arange(40) != n for n in range(40)] + [np.arange(40) == n for n in range(40)]
    assert len(masks) == 1000 and all(row.tobytes() in found for row in telling)
    assert len(medium.point().masks(10, np.random.default_rng(3))) == 10


def test_pages_are_torn_along_sectors_and_inside_them() -> None:
    medium = medium_of()
    store(medium, 0, *range(1, 1025))  # two pages, 16 sectors
    masks = medium.point().masks(500, np.random.default_rng(4))
    sectors = masks.reshape(-1, 16, 64)
    whole = sectors.all(axis=2) | ~sectors.any(axis=2)
    torn_inside = (~whole).sum(axis=1)
    assert ((torn_inside == 0) & sectors.any(axis=(1, 2)) & ~sectors.all(axis=(1, 2))).any(), "sectors in any order"
    assert (torn_inside == 1).any(), "one torn sector"


def test_the_same_seed_draws_the_same_images() -> None:
    medium = medium_of()
    store(medium, 0, *range(1, 101))
    first, second = (medium.point().masks(50, np.random.default_rng(9)) for _ in range(2))
    assert (first == second).all()


@every_granularity
def test_a_second_flush_after_a_failed_one_proves_nothing(granularity: Granularity) -> None:
    medium = medium_of(granularity)
    span = store(medium, 0, 1, 2, 3)
    medium.fail_flush(reached="none")
    with pytest.raises(OSError):
        medium.flush([span])
    medium.flush([span])
    assert medium.point().units.tolist() == [0, 1, 2], "the second flush wrote nothing back"
    medium.rewrite([span])
    assert not len(medium.point().units)


@pytest.mark.parametrize(("reached", "left"), [("none", 4), ("prefix", 2), ("all", 0)])
def test_a_failed_flush_may_have_reached_the_medium_in_part(reached: str, left: int) -> None:
    medium = medium_of()
    medium.fail_flush(2, reached)  # type: ignore[arg-type]
    medium.flush([store(medium, 0, 9)])
    with pytest.raises(OSError):
        medium.flush([store(medium, 1, 1, 2, 3, 4)])
    assert len(medium.point().units) == left
    medium.flush([store(medium, 8, 5)])  # only that one fails


@pytest.mark.parametrize(("evicted", "shown"), [(False, [1, 2]), (True, [0, 0])])
def test_revert_shows_the_cache_or_what_the_kernel_read_again(evicted: bool, shown: list[int]) -> None:
    medium = medium_of()
    medium.fail_flush(reached="none")
    with pytest.raises(OSError):
        medium.flush([store(medium, 0, 1, 2)])
    store(medium, 2, 3)
    medium.evicted = evicted
    medium.revert()
    assert words(medium, 0, 3) == [*shown, 0]


def test_the_next_process_sees_what_a_power_cut_still_takes() -> None:
    medium = medium_of()
    medium.fail_flush(reached="none")
    with pytest.raises(OSError):
        medium.flush([store(medium, 1, 2)])
    medium.flush([store(medium, 0, 1)], sync=False)
    store(medium, 5, 5)  # in the dead process only
    after = medium.kill()
    assert words(after, 0, 6) == [1, 2, 0, 0, 0, 0]
    assert words(after.point().medium(np.zeros(2, bool)), 0, 2) == [0, 0]
    after.flush([(0, 16)])
    assert after.point().units.tolist() == [1], "the kernel writes back what it knows to be dirty, and nothing else"
    after.rewrite([(0, 16)])
    assert not len(after.point().units)


def test_stores_to_persistent_memory_outlive_the_process() -> None:
    medium = medium_of(Granularity.CACHE_LINE)
    store(medium, 0, 1)
    after = medium.kill()
    assert words(after, 0, 1) == [1] and after.point().units.tolist() == [0]
    after.flush([(0, 8)])
    assert not len(after.point().units)


def test_a_point_gives_what_is_seen_and_what_is_durable_apart() -> None:
    medium = medium_of()
    store(medium, 0, 1, 2)
    point = medium.point()
    image = point.medium(mask(point, 0, 1), reached=mask(point, 1))
    assert words(image, 0, 2) == [1, 2]
    image.flush([(0, 16)])
    assert image.point().units.tolist() == [0]


def test_images_are_apart_from_each_other() -> None:
    medium = medium_of()
    store(medium, 0, 1)
    point = medium.point()
    first, second = point.medium(mask(point, 0)), point.medium(mask(point))
    first.flush([store(first, 1, 2)])
    assert words(second, 0, 2) == [0, 0] and words(medium, 0, 2) == [1, 0]


def test_a_prepare_cut_short_leaves_a_mixture_and_no_reservation() -> None:
    medium, points = medium_of(), []
    medium.flush([store(medium, 0, 1, 2)])
    medium.on_point = lambda stage: points.append((stage, medium.point()))
    medium.prepare(0, 4096)
    [(stage, point)] = points
    assert stage == "prepare" and point.units.tolist() == [0, 1]
    image = point.medium(mask(point, 0))
    assert words(image, 0, 2) == [0, 2]
    with pytest.raises(AssertionError, match="nothing is prepared"):
        image.flush([store(image, 2, 3)])


def test_points_come_before_and_after_every_flush() -> None:
    medium, points = medium_of(), []
    medium.on_point = lambda stage: points.append((stage, len(medium.point().units)))
    medium.flush([store(medium, 0, 1, 2)])
    medium.rewrite([(0, 16)])
    assert points == [("flush", 2), ("flushed", 0), ("rewrite", 0), ("rewritten", 0)]


def test_no_room() -> None:
    medium = SimulatedMedium(CAPACITY, room=8192)
    medium.prepare(0, 4096)
    medium.prepare(0, 4096)  # reserved already
    with pytest.raises(FullError):
        medium.prepare(4096, 16384)
    medium.prepare(4096, 8192)
    with pytest.raises(FullError):
        medium.grow(2 * CAPACITY)


def test_a_store_outside_what_is_prepared_is_told() -> None:
    medium = SimulatedMedium(CAPACITY)
    medium.prepare(0, 64)
    with pytest.raises(AssertionError, match="bytes 64 to 72"):
        medium.flush([store(medium, 8, 1)])


def test_a_second_store_below_what_was_flushed_is_told() -> None:
    medium = medium_of()
    medium.flush([store(medium, 0, 1)])
    medium.flush([store(medium, 1, 2)])
    store(medium, 0, 3)
    with pytest.raises(AssertionError, match="stored again"):
        medium.flush([(64, 128)])
