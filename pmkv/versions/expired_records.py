"""Records that were seen expired: a clock that is set back does not revive them.

A record here is a location with the expiry that stands in it, of one keyspace, in whichever view. What a reader was
told to be absent because it had expired stays absent: that is logged as a decision before the reader is told. A clock
that was ahead once thus costs the keys that were asked for meanwhile, and no others.

The newest EXPIRED_RECORDS_MAX are kept, by expiry. An older one is forgotten; it would come back only if the clock were
set back before the expiries of all that are kept.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence

EXPIRED_RECORDS_MAX = 4096  # of a keyspace; the catalog keeps them as one value of up to 150 KB

Record = tuple[int, int]  # location, expiry in unix ms


class ExpiredRecords:
    """Holds the records of one keyspace that were seen expired. The caller holds locks.state."""

    def __init__(self) -> None:
        self._expiries: dict[int, int] = {}  # by location
        self._oldest: list[tuple[int, int]] = []  # a heap of (expiry, location)
        self.newest = 0  # expiry of all that were added; while the clock is beyond it, none of them matters
        self.lsn = 0  # of the last decision that added some

    def __bool__(self) -> bool:
        return bool(self._expiries)

    def __contains__(self, record: Record) -> bool:
        return self._expiries.get(record[0]) == record[1]

    def add(self, records: Iterable[Sequence[int]], lsn: int = 0) -> None:
        """Add records, which decision `lsn` names. The result does not depend on their order."""
        self.lsn = max(self.lsn, lsn)
        for location, expiry in records:
            if not self.is_news((location, expiry)):
                continue
            self._expiries[location], self.newest = expiry, max(self.newest, expiry)
            heapq.heappush(self._oldest, (expiry, location))
            while len(self._expiries) > EXPIRED_RECORDS_MAX:
                old, place = heapq.heappop(self._oldest)
                if self._expiries.get(place) == old:
                    del self._expiries[place]

    def is_news(self, record: Record) -> bool:
        """Return whether `add` would keep a record that is not here."""
        is_full = len(self._expiries) >= EXPIRED_RECORDS_MAX
        return record not in self and not (is_full and record[::-1] < self._oldest[0])

    def after(self, now: int) -> list[Record]:
        """Return the records that would be alive now: the clock was set back."""
        if self.newest <= now:
            return []
        return [(location, expiry) for location, expiry in self._expiries.items() if expiry > now]

    @property
    def places(self) -> list[int]:
        """Return the locations of all records."""
        return list(self._expiries)

    def move(self, moved: Mapping[int, int]) -> None:
        """Follow records that were moved: old and new locations; 0 for records that nobody needs any more."""
        for old, new in moved.items():
            expiry = self._expiries.pop(old, None)
            if expiry is not None and new:
                self._expiries[new] = expiry
        self._oldest = [(expiry, place) for place, expiry in self._expiries.items()]
        heapq.heapify(self._oldest)

    def to_record(self) -> list[list[int]]:
        """Return the records as the catalog keeps them, in order."""
        return sorted([location, expiry] for location, expiry in self._expiries.items())
