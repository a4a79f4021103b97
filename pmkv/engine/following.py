"""Following: a readonly engine reads on in the log that another process writes, batch by batch.

New frames are applied by the code that replays them at an opening. Their memtables would grow for ever, so now and then
memory is rebuilt from the manifest that the writer has committed since; that takes as long as an opening does, and
readers wait for it. The mapping of the pool shows what the writer has handed to the system: a batch that is there as a
whole survives the writer, and one that is not is no batch yet.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, Protocol

from ..errors import CorruptionError
from ..log.format import Frame, begins_frame
from ..log.leases import Lease
from ..log.replay import MORE, Replay
from .recovery import Appended, replay_seconds

if TYPE_CHECKING:
    from .engine import Engine

APPLIED_AT_ONCE = 1 << 14  # records that are entered under one hold of the locks, about: readers wait for that
REBUILT_AFTER_SECONDS = 0.25  # of replay: memory is rebuilt from a newer manifest when it has so much more than that
REBUILT_AFTER_SHARE = 16  # likewise, when the writer has written one part in so many of the pool
LOOKED_FOR_AFTER_SECONDS = 0.25  # a newer manifest is not looked for again before
REBUILT_AFTER_IDLE_SECONDS = 30.0  # likewise, so that the writer may use segments again that it has emptied since
MANIFEST_ATTEMPTS = 3  # to read a manifest and its runs, which the writer may just be replacing
log = logging.getLogger("pmkv")


class Place(Protocol):
    """The part of a data directory that a follower uses."""

    def pool_length(self) -> int:
        """Return how long the pool is now, in bytes."""

    def stand_on(self, commit: int) -> None:
        """Tell writers that this store reads the state of a commit of the catalog, and still those of earlier
        commits."""

    def leave_earlier(self) -> None:
        """Tell writers that this store no longer reads the states of commits before the last one named."""


class Follower:
    """Brings the memory of one readonly engine up to what its writer has made. Safe for threads."""

    def __init__(self, engine: Engine, place: Place) -> None:
        self._engine, self._place = engine, place
        self._earlier_leases: list[weakref.ref[Lease]] = []  # of those who may still read by an earlier manifest
        self._rebuilt_at = time.monotonic()
        if engine.maintenance is not None:
            place.stand_on(engine.maintenance.catalog.commits)
            place.leave_earlier()
        self._turn = threading.Lock()  # one thread follows at a time; taken before all locks of the store
        self._read = 0, 0, 0  # frames, records and bytes that memory has beyond the manifest, of those read on
        self._tried_at = 0.0  # when a newer manifest was looked for last, by the monotonic clock

    def has_news(self) -> bool:
        """Return whether the writer has appended anything since the last look; reads only a few bytes."""
        log = self._engine.log
        return not log.lsn or begins_frame(memoryview(log.data), log.position)

    def standing_still(self) -> threading.Lock:
        """Return the lock that keeps `refresh` from changing memory while it is held."""
        return self._turn

    def refresh(self) -> int:
        """Read on to the end of the log; return how many frames there were.

        CorruptionError: the log does not go on from where it was, and memory cannot be rebuilt either."""
        engine = self._engine
        with self._turn:
            engine.log.guard_read()
            if (length := self._place.pool_length()) > engine.log.data.size:
                self._map_again(length)
            before, main_changes = engine.log.lsn, engine.view_set.main_changes
            try:
                count = self._read_on()
            except CorruptionError:  # the log was begun anew, or a frame that was read is no part of it any more
                count = 1
                self._rebuild(always=True)
            if self._is_due() and self._is_time():
                self._rebuild()
            self._release()
            changed = engine.log.lsn != before
        on_switch = engine.versions.on_main_changed
        if changed and engine.view_set.main_changes != main_changes and on_switch is not None:
            with engine.log.locks.append, engine.log.locks.state:
                on_switch()
        return count

    def _is_due(self) -> bool:
        """Return whether memory should be rebuilt from a newer manifest: much was replayed since the present one, or
        the writer may need the segments that it has emptied since."""
        is_old = time.monotonic() - self._rebuilt_at > REBUILT_AFTER_IDLE_SECONDS
        is_much = self._read[2] > self._engine.log.data.size // REBUILT_AFTER_SHARE
        return is_old or is_much or replay_seconds((0, 0, 0), self._read) > REBUILT_AFTER_SECONDS

    def _is_time(self) -> bool:
        """Return whether a newer manifest may be looked for: after a look that found none, not at once again."""
        is_time = time.monotonic() - self._tried_at > LOOKED_FOR_AFTER_SECONDS
        if is_time:
            self._tried_at = time.monotonic()
        return is_time

    def _map_again(self, length: int) -> None:
        """Map the pool again: its writer has made it larger."""
        log = self._engine.log
        with log.locks.append, log.locks.publish, log.locks.state:
            self._engine.pool.grow(length)
            log.appender.map_medium()

    def _read_on(self) -> int:
        """Apply the batches that the writer has appended since; return the number of their frames."""
        replay = Replay(self._engine.pool, start=self._engine.replayer.reached, is_live=True)
        chunk: list[Frame] = []
        size = total = 0
        for frame in replay:
            chunk.append(frame)
            size, total = size + max(1, frame.count), total + 1
            if size >= APPLIED_AT_ONCE and not frame.flags & MORE:
                self._apply(chunk, replay)
                chunk, size = [], 0
        self._apply(chunk, replay)
        return total

    def _apply(self, frames: list[Frame], replay: Replay) -> None:
        """Apply whole batches to memory, and set the end of the log to where the replay is."""
        engine, locks = self._engine, self._engine.log.locks
        with locks.append, locks.publish, locks.state:
            engine.view_set.expect(frames)
            for frame in frames:
                engine.replayer.apply(frame)
            engine.replayer.stand_at(replay)
        self._read = added(self._read, frames)

    def _rebuild(self, always: bool = False) -> None:
        """Rebuild memory from the newest manifest, if memory was made from an older one, or in any case."""
        engine, locks = self._engine, self._engine.log.locks
        with locks.append, locks.publish, locks.state:
            if not self._renew() and not always:
                return
            before = engine.log.lsn
            try:
                engine.replayer.begin_anew(is_live=not always)
                if engine.log.lsn < before:
                    raise CorruptionError(f"the log ends at LSN {engine.log.lsn}, and was read up to {before} before")
            except BaseException as error:
                engine.log.access.unreadable = (
                    f"memory was being rebuilt from a newer state, and that failed ({error}): open the store again"
                )
                raise
            self._read, self._rebuilt_at = (0, 0, 0), time.monotonic()
            if engine.maintenance is not None:
                self._place.stand_on(engine.maintenance.catalog.commits)
                leases = engine.pool.leases
                self._earlier_leases.append(weakref.ref(leases.current))
                leases.current = Lease()

    def _release(self) -> None:
        """Tell the writer that nobody reads the state of an earlier manifest any more, once the last reader has
        ended."""
        if self._earlier_leases and all(lease() is None for lease in self._earlier_leases):
            self._earlier_leases = []
            self._place.leave_earlier()

    def _renew(self) -> bool:
        """Take the manifest that was committed last; return whether it is another one than before."""
        if self._engine.maintenance is None:
            return False
        for attempt in range(MANIFEST_ATTEMPTS):
            try:
                return self._engine.maintenance.renew()
            except CorruptionError as error:
                if attempt + 1 == MANIFEST_ATTEMPTS:
                    log.warning("a newer state of the store cannot be read yet: %s", error)
        return False


def added(read: Appended, frames: list[Frame]) -> Appended:
    """Return the counts of frames, records and bytes, with those of some more frames added."""
    records, length = sum(frame.count for frame in frames), sum(frame.length for frame in frames)
    return read[0] + len(frames), read[1] + records, read[2] + length
