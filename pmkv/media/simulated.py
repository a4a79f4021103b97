"""A medium in DRAM that loses, tears and fails as the real ones do, for crash tests. Its fault model:

There are three images. `data` is what the process sees. The *cache* is what the last flushes wrote, and on a PAGE
medium what `store` wrote to the system: the kernel's pages, or the lines that were written back. The *durable* image is
what a power cut leaves. The unit of all of them is 8 bytes.

- Power cut (`crash`): any subset of the units that differ from the durable image has reached it, whether it was
  flushed or not; nothing may rely on a store being volatile. PAGE tears along sectors of 512 and pages of 4,096 bytes
  and inside them, the others along cache lines and inside them. A unit stored twice between two flushes shows its
  last value.
- Death of the process (`kill`): a PAGE medium keeps its cache, the others keep `data`; in either case it may look whole
  to the next process and still be lost by a power cut that follows.
- A failed flush (`fail_flush`): any part of what it had to write has reached the medium; a short write is a prefix.
  From then on the medium considers the rest clean: only a store or `rewrite`, not a second flush, makes it durable.
  After the failure, `revert` shows the cache or, if the kernel has evicted its pages meanwhile, the durable image.
- No room (`room`, bytes that may be reserved in all): `prepare` and `grow` raise FullError and change nothing.
- Metadata: a range whose `prepare` was cut short, or that was discarded, has any mixture of old bytes and zeros, and is
  not reserved any more.

It also checks the engine's side of the contract: a store outside what `prepare` reserved (a SIGBUS or a full disk on a
real medium), or a second store below what was flushed, is an AssertionError at the next flush.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pmkv.errors import FullError
from pmkv.media.base import Granularity, Range

UNIT = 8
LINE, SECTOR, BLOCK = 64 // UNIT, 512 // UNIT, 4096 // UNIT  # in units: what tears together

RESERVED, FLUSHED, PENDING = 1, 2, 4  # flags of a unit; PENDING: the cache knows that it has to be written back

Stage = Literal["prepare", "discard", "flush", "flushed", "rewrite", "rewritten"]
Reached = Literal["none", "all", "prefix", "some"]


@dataclass(frozen=True)
class CrashPoint:
    """A moment of a power cut: the durable image, and the units that may have reached it."""

    granularity: Granularity
    durable: np.ndarray  # uint64[capacity / 8]
    flags: np.ndarray  # uint8[capacity / 8]
    units: np.ndarray  # int64[n]: positions at risk, ascending
    values: np.ndarray  # uint64[n]

    def medium(self, present: np.ndarray, reached: np.ndarray | None = None) -> SimulatedMedium:
        """Return the medium that the next process finds when it sees the units of the mask `present`.

        reached: the units that a further power cut leaves: all after a power cut (None), fewer after the death of a
        process."""
        seen = self._image(present)
        durable = seen if reached is None else self._image(reached & present)
        return SimulatedMedium._found(self.granularity, seen, durable, self.flags & RESERVED)

    def _image(self, mask: np.ndarray) -> np.ndarray:
        image = self.durable.copy()
        image[self.units[mask]] = self.values[mask]
        return image

    def masks(self, limit: int, rng: np.random.Generator) -> np.ndarray:
        """Return at most `limit` (at least two) subsets as rows of a bool array.

        All subsets if they are few, else the telling ones (none, all, prefixes, one missing, one present) and random
        ones along lines, sectors, pages and units."""
        n = len(self.units)
        if n < 30 and 2**n <= limit:
            return (np.arange(2**n)[:, None] >> np.arange(n)) & 1 == 1
        fixed = np.array([np.zeros(n, bool), np.ones(n, bool)])
        telling = self._telling((limit - 2) * 2 // 3, rng)
        drawn = [self._draw(rng) for _ in range(limit - 2 - len(telling))]
        return np.concatenate([fixed, telling, np.array(drawn, bool).reshape(-1, n)])

    def _telling(self, limit: int, rng: np.random.Generator) -> np.ndarray:
        n = len(self.units)
        picks = np.arange(3 * n) if 3 * n <= limit else rng.choice(3 * n, limit, replace=False)
        kind, at, column = picks[:, None] // n, picks[:, None] % n, np.arange(n)
        return np.select([kind == 0, kind == 1], [column <= at, column != at], column == at)

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """Return a random subset: blocks of one size are present with one probability; a third have a torn block."""
        sizes = (SECTOR, BLOCK, LINE, 1) if self.granularity is Granularity.PAGE else (LINE, 1)
        blocks = self.units // sizes[rng.integers(len(sizes))]
        _, index = np.unique(blocks, return_inverse=True)
        mask = (rng.random(index[-1] + 1) < rng.random())[index]
        if rng.random() < 1 / 3:
            torn = index == rng.integers(index[-1] + 1)
            mask[torn] = rng.random(int(torn.sum())) < 0.5
        return mask


class SimulatedMedium:
    """See the module's head. `on_point(stage)` is called before and after everything that makes bytes durable."""

    inline = True

    def __init__(
        self,
        capacity: int,
        granularity: Granularity = Granularity.PAGE,
        *,
        room: int | None = None,
        on_point: Callable[[Stage], None] | None = None,
    ) -> None:
        blank = np.zeros(capacity // UNIT, np.uint64)
        self._take(granularity, blank, blank, np.zeros(len(blank), np.uint8))
        self.room, self.on_point = room, on_point

    @classmethod
    def _found(
        cls, granularity: Granularity, seen: np.ndarray, durable: np.ndarray, flags: np.ndarray
    ) -> SimulatedMedium:
        medium = cls.__new__(cls)
        medium._take(granularity, seen, durable, flags)
        return medium

    def _take(self, granularity: Granularity, seen: np.ndarray, durable: np.ndarray, flags: np.ndarray) -> None:
        self.granularity = granularity
        self.room: int | None = None
        self.on_point: Callable[[Stage], None] | None = None
        self.flushes = 0
        self.evicted = False  # what is seen of a failed flush after `revert` or `kill`: the cache, or the durable image
        self._seen, self._cache, self._durable, self._flags = seen, seen.copy(), durable.copy(), flags
        self._failing: tuple[int, Reached, np.random.Generator] | None = None
        self.data = self._seen.view(np.uint8)

    # --- the protocol

    def prepare(self, start: int, stop: int, fill: bool = True) -> None:
        units = slice(start // UNIT, -(-stop // UNIT))
        self._reserve(units)
        self._flags[units] = 0  # until this returns, the range may be gone
        self._seen[units] = 0
        self._point("prepare")
        self._cache[units] = self._durable[units] = 0
        self._flags[units] = RESERVED

    def discard(self, start: int, stop: int) -> bool:
        units = slice(start // UNIT, -(-stop // UNIT))
        self._flags[units] = 0
        self._seen[units] = self._cache[units] = 0  # not durably: after a power cut any of it may be back
        self._point("discard")
        return True

    def flush(self, ranges: Sequence[Range], sync: bool = True) -> None:
        units = self._units(ranges)
        self._check_stores(units)
        self._point("flush")
        for start, stop in ranges:
            self._take_over(slice(start // UNIT, -(-stop // UNIT)))
        self._flags[units] |= FLUSHED
        if sync:
            self._write_back()
        self._point("flushed")

    def store(self, at: int, raw: np.ndarray) -> int:
        """Store bytes; the cache takes whole lines (a real medium: whole pages, too long for small histories)."""
        self.data[at : at + raw.size] = raw
        if self.granularity is not Granularity.PAGE:
            return 0
        first, last = -(-at // (LINE * UNIT)) * LINE, (at + raw.size) // (LINE * UNIT) * LINE
        self._take_over(slice(first, max(first, last)))
        return max(0, last - first) * UNIT

    def will_write(self, start: int, stop: int) -> None:
        """Do nothing: stores cost no page faults."""

    def written(self, start: int, stop: int) -> list[Range]:
        return [(start, stop)]

    def will_read(self, start: int, stop: int) -> None:
        """Do nothing: all bytes are in memory."""

    def rewrite(self, ranges: Sequence[Range]) -> None:
        units = self._units(ranges)
        self._point("rewrite")
        self._cache[units] = self._seen[units]
        self._flags[units] |= PENDING
        self._flags[units] |= FLUSHED
        self._write_back()
        self._point("rewritten")

    def revert(self) -> None:
        if self.granularity is not Granularity.PAGE:
            return  # the stores are on the medium itself
        self._evict()
        self._seen[:] = self._cache

    def grow(self, capacity: int) -> None:
        more = capacity // UNIT - len(self._seen)
        if self.room is not None and capacity > self.room:
            raise FullError(f"simulated medium: no room to grow to {capacity} bytes")
        if self.granularity is Granularity.PAGE:
            self._seen[:] = self._cache  # a new mapping does not show the old one's private copies
        self._seen, self._cache, self._durable, self._flags = (
            np.concatenate([a, np.zeros(more, a.dtype)]) for a in (self._seen, self._cache, self._durable, self._flags)
        )
        self.data = self._seen.view(np.uint8)

    def close(self) -> None:
        self.on_point = None

    # --- faults

    def fail_flush(self, nth: int = 1, reached: Reached = "some", seed: int = 0) -> None:
        """Make the nth flush from now (1: the next) raise EIO after `reached` of what it had to write."""
        self._failing = (self.flushes + nth, reached, np.random.default_rng(seed))

    def point(self) -> CrashPoint:
        """Return what a power cut at this moment may leave."""
        units = np.flatnonzero((self._seen != self._durable) | (self._cache != self._durable))
        values = np.where(self._seen[units] != self._durable[units], self._seen[units], self._cache[units])
        return CrashPoint(self.granularity, self._durable.copy(), self._flags.copy(), units, values)

    def crash(self, rng: np.random.Generator) -> SimulatedMedium:
        """Cut the power: return a medium where any subset of the units at risk is present."""
        point = self.point()
        return point.medium(point._draw(rng) if len(point.units) else np.zeros(0, bool))

    def crash_images(self, limit: int, rng: np.random.Generator) -> Iterator[SimulatedMedium]:
        point = self.point()
        return (point.medium(mask) for mask in point.masks(limit, rng))

    def kill(self) -> SimulatedMedium:
        """Return what the next process sees after the death of this one, and what is durable of it."""
        self._evict()
        seen = self._cache if self.granularity is Granularity.PAGE else self._seen
        after = self._found(self.granularity, seen.copy(), self._durable, self._flags & (RESERVED | PENDING))
        after._cache[:] = self._cache
        return after

    # --- inside

    def _point(self, stage: Stage) -> None:
        if self.on_point is not None:
            self.on_point(stage)

    def _units(self, ranges: Sequence[Range]) -> np.ndarray:
        parts = [np.arange(start // UNIT, -(-stop // UNIT)) for start, stop in ranges]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _take_over(self, units: slice) -> None:
        """Copy a range to the cache if anything was stored in it; else there is nothing to write back."""
        if (self._seen[units] != self._cache[units]).any():
            self._cache[units] = self._seen[units]
            self._flags[units] |= PENDING

    def _reserve(self, units: slice) -> None:
        if self.room is None:
            return
        wanted = self._flags & RESERVED
        wanted[units] = RESERVED
        if UNIT * int(wanted.sum()) > self.room:
            raise FullError(f"simulated medium: no room to reserve bytes {units.start * UNIT} to {units.stop * UNIT}")

    def _write_back(self) -> None:
        self.flushes += 1
        pending = np.flatnonzero(self._flags & PENDING)
        fails = self._failing is not None and self.flushes == self._failing[0]
        reached = self._survivors(pending) if fails else pending
        self._durable[reached] = self._cache[reached]
        self._flags[pending] &= 0xFF ^ PENDING
        if fails:
            raise OSError(errno.EIO, "simulated medium: the flush failed")

    def _survivors(self, pending: np.ndarray) -> np.ndarray:
        assert self._failing is not None
        _, reached, rng = self._failing
        self._failing = None
        count = {"none": 0, "all": len(pending), "prefix": len(pending) // 2}.get(reached)
        return pending[:count] if count is not None else pending[rng.random(len(pending)) < 0.5]

    def _evict(self) -> None:
        if self.evicted:
            clean = self._flags & PENDING == 0
            self._cache[clean] = self._durable[clean]

    def _check_stores(self, flushing: np.ndarray) -> None:
        stored = np.flatnonzero(self._seen != self._cache)
        loose = stored[self._flags[stored] & RESERVED == 0]
        again = stored[self._flags[stored] & FLUSHED != 0]
        assert not len(loose), f"{_bytes(loose)} were stored where nothing is prepared"
        assert not len(again), f"{_bytes(again)} were stored again after a flush"


def _bytes(units: np.ndarray) -> str:
    return f"bytes {units[0] * UNIT} to {(units[-1] + 1) * UNIT}"
