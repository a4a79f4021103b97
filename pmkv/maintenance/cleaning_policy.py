"""Which segments a pass of the cleaner empties: those that give back most for what it has to read and write.

Benefit: dead bytes times the root of age, so that a young segment which is dead to a third goes before an old one that
is dead to a tenth. Cost: the bytes of the segment to read, and the live bytes to write. A segment that
would give back less than a twentieth is left alone, so that a table that is written once is not copied for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIN_WIN = 0.05  # of a segment, or of all that a pass reads: below that nothing is moved

TIGHT_ROOM = 3  # segments that may be filled: below that, age does not count


@dataclass(frozen=True)
class Candidate:
    """A closed segment. live: bytes in it that some view needs; age: how many segments were filled after it."""

    index: int
    live: int
    age: int


def choose_victims(
    candidates: Sequence[Candidate], segment_size: int, room: int, wanted: int | None, min_win: float
) -> list[Candidate]:
    """Return the segments to empty. room: bytes that may be moved; wanted: segments to gain, None for all that is
    worth it; min_win: the part of a segment that must be dead. Those without anything live come first: they cost
    nothing."""
    empty = [one for one in candidates if not one.live]
    victims, gained, moved = empty, len(empty) * segment_size, 0
    worthy = [one for one in candidates if 0 < one.live <= (1 - min_win) * segment_size]
    tight = room < TIGHT_ROOM * segment_size  # then those that give back most, whatever their age
    for one in sorted(worthy, key=lambda one: one.live if tight else -benefit(one, segment_size)):
        if wanted is not None and gained >= wanted * segment_size:
            break
        if moved + one.live <= room:
            victims = [*victims, one]
            moved, gained = moved + one.live, gained + segment_size - one.live
    return victims


def benefit(one: Candidate, segment_size: int) -> float:
    """Return the benefit of emptying a segment, divided by its cost."""
    return (segment_size - one.live) * (1 + one.age) ** 0.5 / (segment_size + one.live)
