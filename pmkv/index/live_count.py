"""The exact count of live keys, kept lazily: a memtable records its new keys, and they are looked up below later."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from sortedcontainers import SortedList

from .lookup_batch import LOOKED_UP, LookupBatch


@dataclass(frozen=True)
class CountBatch:
    """Consecutive notes of a tally, and the number of the first."""

    first: int
    notes: list[LookupBatch]


@dataclass(frozen=True)
class CountResult:
    """How many words of a portion live below, too, and the expiries of those that have one, in no order."""

    count: int
    expiries: list[int]


class LiveCounter:
    """What a mutable run changes in the count of its chain. `covered`: words of it that live below, too.

    What is new is noted, and looked for below later, a portion at a time, by whoever counts or writes the run."""

    def __init__(self) -> None:
        self.covered = 0
        self.expiries = SortedList()  # of its live records that have one
        self.gone = SortedList()  # those of the records below that it hides
        self.is_unknown = False  # damage kept some from being counted
        self.uncounted = 0  # words
        self._notes: list[LookupBatch] = []  # not looked at yet, in order
        self._first = 0  # the number of the first of these

    def note(self, new: LookupBatch) -> None:
        """These words stood nowhere in this run before."""
        self._notes.append(new)
        self.uncounted += new.words.size

    def portion(self, most: int = LOOKED_UP) -> CountBatch | None:
        """What is to be looked at next, about so many words; None if there is nothing."""
        first, notes = self._first, self._notes[:]  # in this order: whoever settles some meanwhile makes this late
        ends = accumulate(note.words.size for note in notes)
        count = next((i for i, end in enumerate(ends, 1) if end >= most), len(notes))
        return CountBatch(first, notes[:count]) if count else None

    def settle(self, portion: CountBatch, covered: CountResult) -> None:
        """It was looked for below. Under the lock; whoever is second changes nothing."""
        if self._pop(portion):
            self.covered += covered.count
            self.gone.update(covered.expiries)

    def give_up(self, portion: CountBatch) -> None:
        """It cannot be looked for: something below is damaged. Under the lock."""
        self._pop(portion)
        self.is_unknown = True

    def _pop(self, portion: CountBatch) -> bool:
        if portion.first != self._first:
            return False
        del self._notes[: len(portion.notes)]
        self._first += len(portion.notes)
        self.uncounted -= sum(note.words.size for note in portion.notes)
        return True
