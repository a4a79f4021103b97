"""Which segments a cleaner must leave alone because of the chunks of large values in them.

A chunk is written before the record that lists it, and a list may be copied to another record (EXPIRE). Until a
checkpoint has put that record into a run, no run tells that the chunk is needed. So the segments of such chunks are
pinned until then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from .segments import Pool


class ChunkPins:
    """The pinned segments of one log.

    emptying: segments that a cleaner is about to empty: a list that names one of them must not be copied."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.emptying: frozenset[int] = frozenset()
        self._writing: list[list[int]] = []  # for each value being written, the segment in which it begins
        self._named: set[int] = set()  # of lists that were copied since the last checkpoint froze the memtables
        self._frozen: set[int] = set()  # of the same before that, until the checkpoint is committed
        self._kept: set[int] = set()  # of values that were being written when the checkpoint froze the memtables

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Pin the chunks that the body writes until it has entered the record that lists them."""
        token = self._pool.taken[-1:]  # compared by identity: two values may begin in one segment
        self._writing.append(token)
        try:
            yield
        finally:
            self._writing = [one for one in self._writing if one is not token]

    def name(self, segments: Iterable[int]) -> None:
        """Pin the segments of chunks that another record lists from now on. The caller holds locks.append."""
        self._named |= set(segments)

    @property
    def pinned(self) -> set[int]:
        """Return the segments that must not be emptied. The caller holds locks.append."""
        return self._being_written | self._named | self._frozen | self._kept

    @property
    def _being_written(self) -> set[int]:
        """All segments of the log from the first one on in which a value begins that is being written."""
        taken = self._pool.taken
        starts = [taken.index(index) for token in self._writing for index in token if index in taken]
        return set(taken[min(starts) :]) if starts else set()

    def freeze(self) -> set[int]:
        """Note that a checkpoint freezes the memtables; return what stays pinned when it is committed. The caller holds
        locks.append and locks.state."""
        self._frozen |= self._named
        self._named = set()
        return self._being_written

    def committed(self, kept: set[int]) -> None:
        """Release what the checkpoint has put into runs. kept: what `freeze` returned."""
        self._frozen, self._kept = set(), kept
