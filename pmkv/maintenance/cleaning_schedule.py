"""When the cleaner runs, and how writers are paced while free space gets short.

Beside writers a pass is due when few segments are left, and it gains a few. At rest it is due when something has
changed, and cleans until dead bytes are a small part of the pool. What a pass found to be in vain is not looked for
again before the time that looking took has passed ten times over.

Pacing is a token bucket: from the time when few segments are left, a group of writes costs its bytes, divided by a
rate that falls with the free space to what the cleaner gains. So latency bends before the pool is full.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..log.log import Log
from ..log.segments import Reserve
from .cleaning import Cleaner
from .cleaning_policy import MIN_WIN

SHORT_SHARE = 6  # space is short when less than one segment in so many of those that nobody needs is free
MIN_SHORT = 2  # segments
STALE_SHARE = 32  # a checkpoint goes before a pass if more than one slack segment in so many may be dead without it
REST_WIN = 0.2  # of a segment: at rest, segments are emptied that are dead to at least this part
VAIN_FACTOR = 10  # after a pass in vain, so many times its duration go by before the next one
MIN_VAIN_S = 0.2  # at least
MAX_DEBT_S = 2.0  # seconds of waiting that are remembered, where a group waits for less
MAX_PACE_S = 0.5  # a group of writes waits no longer, when no segment is left; the more there are, the less
# Writers may be so many times as fast as the cleaner when no segment is left, and so many more when space begins to be
# short. They are as fast when more than half of the short segments are left: a pass that may fill some gains more for
# what each pass costs, so that writers who leave it none are slower in the end.
LEAST_FACTOR, SPARE_FACTOR = 0.25, 1.25
FIRST_GAIN = 16 << 20  # bytes a second that the cleaner is thought to gain before the first pass


SinceCheckpoint = Callable[[], tuple[int, int]]  # records and bytes that were written since the last checkpoint


@dataclass(frozen=True)
class Due:
    """A pass that is due: the arguments of `Cleaner.clean`."""

    wanted: int | None
    min_win: float


class CleaningSchedule:
    """Decides when the passes of one store's cleaner run. share: of the background thread's time, at most, that passes
    take beside writers (1: all of it)."""

    def __init__(self, log: Log, cleaner: Cleaner, since_checkpoint: SinceCheckpoint, share: float = 1.0) -> None:
        self._log, self._cleaner, self._since_checkpoint, self.share = log, cleaner, since_checkpoint, share
        self._not_before = 0.0  # by the monotonic clock
        self._clean_at_rest: object = None  # the manifest that left nothing to do at rest
        self._gain_rate = float(FIRST_GAIN)  # bytes a second
        self._short_since: float | None = None  # the end of the last pass, if space was still short then
        self._written, self._paced_until, self._pacing = 0, 0.0, threading.Lock()
        self.is_demanded = False  # a writer has found no room since the last pass
        self._vain = 0  # passes in vain since the last that gave something

    # when a pass is due

    @property
    def short(self) -> int:
        """Free segments, beyond those kept back, below which space is short."""
        return max(MIN_SHORT, self._slack // SHORT_SHARE)

    @property
    def _slack(self) -> int:
        """Segments that would be free if nothing dead were kept, beyond those kept back: by the last count."""
        pool, live = self._log.pool, self._cleaner.live
        needed = 0 if live is None else int(live.sum()) // pool.segment_size
        return min(max(0, pool.count - needed - Reserve.WRITE), pool.count // 2)

    @property
    def spare(self) -> int:
        """Free segments beyond those kept back."""
        return max(0, self._log.pool.free - Reserve.WRITE)

    @property
    def is_vain(self) -> bool:
        """Return whether waiting for the cleaner is no use: it found nothing to gain, and again after a checkpoint."""
        return self._vain > 1

    @property
    def awaits_checkpoint(self) -> bool:
        """Return whether a pass would be due if a checkpoint had been taken."""
        return self._cleaner.awaits_checkpoint and (self.is_demanded or self.spare < self.short)

    @property
    def needs_checkpoint(self) -> bool:
        """Return whether a checkpoint should go before the next pass, which else does not know what is dead by now."""
        stale = self._unaccounted // self._log.pool.segment_size
        return self._vain > 0 or self.spare < self.short // 2 or stale > self._slack // STALE_SHARE

    @property
    def is_pressing(self) -> bool:
        """Return whether space is so short that nothing else should go before a pass."""
        return self.spare < self.short // 2 and not self.is_vain

    @property
    def _unaccounted(self) -> int:
        """Bytes that writes since the last checkpoint may have made dead: their own, and for each record another of the
        mean size."""
        manifest, (records, length) = self._cleaner.manifest, self._since_checkpoint()
        infos = [run.info for _, run in manifest.runs] if manifest is not None else []
        live, entries = sum(sum(info.segments.values()) for info in infos), sum(info.count for info in infos)
        return length + records * live // max(1, entries)

    @property
    def is_worth_checkpoint(self) -> bool:
        """Return whether a pass at rest may gain a segment more by a checkpoint first."""
        return self._unaccounted >= self._log.pool.segment_size

    def due(self) -> Due | None:
        """Return the pass that is due now, None if none is."""
        cleaner = self._cleaner
        if not cleaner.is_possible:
            return None
        if (self.is_demanded or self.spare < self.short) and time.monotonic() >= self._not_before:
            return Due(max(MIN_SHORT, self._slack // SHORT_SHARE), MIN_WIN)
        if self._log.is_idle and self._clean_at_rest is not cleaner.manifest:
            return Due(None, REST_WIN)
        return None

    def expect_gain(self) -> None:
        """Note that a checkpoint takes in what may have died: passes that were in vain say nothing any more."""
        self._vain, self._not_before = 0, 0.0

    def note(self, due: Due, gained: int, segments: int, seconds: float) -> None:
        """Note what a pass gave: bytes freed less bytes moved, and segments freed less segments filled."""
        now = time.monotonic()
        is_gain = gained >= MIN_WIN * self._log.pool.segment_size  # less is lost again at the ends of segments
        self._vain, self.is_demanded = 0 if is_gain else self._vain + 1, False
        if is_gain:
            busy = seconds if self._short_since is None else now - self._short_since
            self._gain_rate += (gained / max(busy, 1e-3) - self._gain_rate) / 2
            self._not_before = now + seconds * (1 / self.share - 1)
        else:
            self._not_before = now + max(MIN_VAIN_S, VAIN_FACTOR * seconds)
        self._short_since = now if self.spare < self.short else None
        if segments <= 0 and due.wanted is None:  # records that fill segments badly would be moved again and again
            self._clean_at_rest = self._cleaner.manifest

    # pacing

    def pace(self) -> float:
        """Return how many seconds a thread that flushes waits now, so that writers do not outrun the cleaner. All that
        flush at a time wait until the same moment."""
        now, spare, short = time.monotonic(), self.spare, self.short
        with self._pacing:
            written = self._log.appended[2]
            new, self._written = written - self._written, written
            self._log.pool.speed.is_paced = spare < short and not self.is_vain
            if not self._log.pool.speed.is_paced:
                self._paced_until = now
                return 0.0
            rate = self._gain_rate * (LEAST_FACTOR + SPARE_FACTOR * spare / short)
            self._paced_until = min(max(self._paced_until, now) + new / rate, now + MAX_DEBT_S)
            return min(self._paced_until - now, MAX_PACE_S * (1 - spare / short))
