"""What is made ready to be stored to."""

from __future__ import annotations

import pytest

from pmkv.log.prefault import PREFAULT_MAX_BYTES, PREFAULT_MIN_BYTES, Prefault

MIB = 1 << 20


@pytest.mark.parametrize(
    ("group", "handed", "length"),
    [
        ([(0, 100)], 0, PREFAULT_MIN_BYTES),
        ([(0, MIB)], 0, 4 * MIB),
        ([(0, MIB), (2 * MIB, 2 * MIB + MIB // 2)], 0, 6 * MIB),
        ([(0, 64 * MIB)], 0, PREFAULT_MAX_BYTES),
        ([(0, 2 * MIB)], MIB, 4 * MIB),
        ([(0, MIB)], 600 << 10, 0),
    ],
)
def test_the_next_groups_are_taken_to_be_as_the_last_one(
    group: list[tuple[int, int]], handed: int, length: int
) -> None:
    ahead = Prefault(0)
    ahead.follow(group, handed)
    assert ahead.length == length


def test_it_is_due_when_half_of_it_is_used() -> None:
    ahead = Prefault(4096)
    assert ahead.is_due(4096, MIB)
    assert ahead.next(4096, MIB) == (4096, 4096 + PREFAULT_MIN_BYTES)
    assert not ahead.is_due(4096, MIB) and not ahead.is_due(4096 + PREFAULT_MIN_BYTES // 2 - 1, MIB)
    assert ahead.is_due(4096 + PREFAULT_MIN_BYTES // 2, MIB)
    assert ahead.next(4096 + PREFAULT_MIN_BYTES // 2, MIB) == (4096 + PREFAULT_MIN_BYTES, 4096 + 2 * PREFAULT_MIN_BYTES)


def test_nothing_is_made_ready_behind_the_segment_or_what_was_stored_to() -> None:
    ahead = Prefault(0)
    assert ahead.next(MIB, MIB + 100) == (MIB, MIB + 100)
    assert not ahead.is_due(MIB + 50, MIB + 100)
    ahead.follow([(0, MIB)], MIB)
    assert not ahead.is_due(MIB, 2 * MIB), "none of it will be stored to"


def test_a_segment_at_a_lower_offset_is_begun_anew() -> None:
    ahead = Prefault(0)
    ahead.next(8 * MIB, 9 * MIB)
    assert ahead.is_due(MIB, 2 * MIB)
    assert ahead.next(MIB, 2 * MIB) == (MIB, MIB + PREFAULT_MIN_BYTES)
