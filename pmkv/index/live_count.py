"""The exact count of live keys, kept lazily.

A memtable records which keys are new to it (a write must not look below); later they are looked up in the older
indexes, a batch at a time, when somebody counts or a checkpoint writes the memtable.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from .expiry_counter import ExpiryCounter
from .lookup_batch import LOOKED_UP, LookupBatch


@dataclass(frozen=True)
class CountBatch:
    """Consecutive notes of a counter, and the number of the first."""

    first: int
    notes: list[LookupBatch]


@dataclass(frozen=True)
class CountResult:
    """How many keys of a batch are live in older indexes too, and the expiries of those that have one, in no order."""

    count: int
    expiries: list[int]


class LiveCounter:
    """Count what a memtable changes in the number of live keys of its stack.

    `covered`: how many of its keys are live in older indexes too. A note is a batch of keys new to the memtable."""

    def __init__(self) -> None:
        self.covered = 0
        self.expiries = ExpiryCounter()  # of all its records that have one
        self.gone = ExpiryCounter()  # of the records that these hide: its own, and those of older indexes
        self.is_unknown = False  # damage kept some keys from being counted
        self.uncounted = 0  # keys in notes not looked up yet
        self._notes: list[LookupBatch] = []  # not looked up yet, in order
        self._first = 0  # number of the first note in `_notes`

    def note(self, new: LookupBatch) -> None:
        """Record keys that were nowhere in this memtable before."""
        self._notes.append(new)
        self.uncounted += new.words.size

    def portion(self, most: int = LOOKED_UP) -> CountBatch | None:
        """Return the notes to look up next, about `most` keys; None if there are none."""
        # read in this order: if another thread settles notes meanwhile, `settle` ignores this batch
        first, notes = self._first, self._notes[:]
        ends = accumulate(note.words.size for note in notes)
        count = next((i for i, end in enumerate(ends, 1) if end >= most), len(notes))
        return CountBatch(first, notes[:count]) if count else None

    def settle(self, portion: CountBatch, covered: CountResult) -> None:
        """Apply the result of a batch, once: a second result for it changes nothing. The caller holds locks.state."""
        if self._pop(portion):
            self.covered += covered.count
            self.gone.add(covered.expiries)

    def give_up(self, portion: CountBatch) -> None:
        """Drop a batch that cannot be looked up as something below is damaged. The caller holds locks.state."""
        self._pop(portion)
        self.is_unknown = True

    def _pop(self, portion: CountBatch) -> bool:
        """Remove the notes of a batch; return whether they were still there."""
        if portion.first != self._first:
            return False
        del self._notes[: len(portion.notes)]
        self._first += len(portion.notes)
        self.uncounted -= sum(note.words.size for note in portion.notes)
        return True
