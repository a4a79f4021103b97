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
    """Holds consecutive batches of new keys of a counter. first: the number of the first of them."""

    first: int
    batches: list[LookupBatch]


@dataclass(frozen=True)
class CountResult:
    """How many keys of a batch are live in older indexes too, and the expiries of those that have one, in no order."""

    count: int
    expiries: list[int]


class LiveCounter:
    """Counts what a memtable changes in the number of live keys of its stack.

    It is told of the keys that are new to the memtable. covered: how many of them are live in older indexes, too."""

    def __init__(self) -> None:
        self.covered = 0
        self.expiries = ExpiryCounter()  # of all its records that have one
        self.gone = ExpiryCounter()  # of the records that these hide: its own, and those of older indexes
        self.is_unknown = False  # damage kept some keys from being counted
        self.uncounted = 0  # keys in batches not looked up yet
        self._batches: list[LookupBatch] = []  # not looked up yet, in order
        self._first = 0  # number of the first batch in `_batches`

    def record(self, new: LookupBatch) -> None:
        """Record keys that were nowhere in this memtable before."""
        self._batches.append(new)
        self.uncounted += new.key64s.size

    def next_batch(self, most: int = LOOKED_UP) -> CountBatch | None:
        """Return the batches to look up next, about `most` keys; None if there are none."""
        # read in this order: if another thread applies results meanwhile, `apply` ignores this batch
        first, batches = self._first, self._batches[:]
        ends = accumulate(one.key64s.size for one in batches)
        count = next((i for i, end in enumerate(ends, 1) if end >= most), len(batches))
        return CountBatch(first, batches[:count]) if count else None

    def apply(self, batch: CountBatch, covered: CountResult) -> None:
        """Apply the result of a batch, once: a second result for it changes nothing. The caller holds locks.state."""
        if self._pop(batch):
            self.covered += covered.count
            self.gone.add(covered.expiries)

    def give_up(self, batch: CountBatch) -> None:
        """Drop a batch that cannot be looked up as something below is damaged. The caller holds locks.state."""
        self._pop(batch)
        self.is_unknown = True

    def _pop(self, batch: CountBatch) -> bool:
        """Remove the batches of a batch; return whether they were still there."""
        if batch.first != self._first:
            return False
        del self._batches[: len(batch.batches)]
        self._first += len(batch.batches)
        self.uncounted -= sum(one.key64s.size for one in batch.batches)
        return True
