"""Policy for pre-faulting the pages that the log will be stored to next: each fresh page costs a fault otherwise.

`next` is called under `locks.state`. `follow` and `is_due` need no lock: their answers may be out of date.
"""

from __future__ import annotations

from ..runtime.switches import is_on

IS_ENABLED = is_on("PREFAULT")
PREFAULT_MIN_BYTES, PREFAULT_MAX_BYTES = 256 << 10, 8 << 20  # at a time


class Prefault:
    """Tracks how far the log's pages are prepared and how much to prepare at a time.

    ready_to: offset up to which pages are prepared. It counts only while it lies between the log's position and the
    end of the current segment. length: bytes to prepare at a time, 0 for none.
    """

    def __init__(self, ready_to: int) -> None:
        self.ready_to = ready_to
        self.length = PREFAULT_MIN_BYTES if IS_ENABLED else 0

    def follow(self, group: list[tuple[int, int]], prewritten_bytes: int) -> None:
        """Expect the next groups to be like this one: prepare the bytes of four of them at a time.

        Bytes that `Medium.store` handed to the system (`prewritten_bytes`) need no prepared pages."""
        if not IS_ENABLED:
            return
        length = sum([stop - start for start, stop in group])
        needed = 4 * (length - prewritten_bytes)
        self.length = 0 if 2 * prewritten_bytes > length else min(max(needed, PREFAULT_MIN_BYTES), PREFAULT_MAX_BYTES)

    def is_due(self, position: int, stop: int) -> bool:
        """Return whether half of the prepared pages are used. The segment of `position` ends at `stop`."""
        start = self._start(position, stop)
        return 0 < self.length >= 2 * (start - position) and start < stop

    def next(self, position: int, stop: int) -> tuple[int, int]:
        """Return the range to prepare now, and count it as prepared."""
        start = self._start(position, stop)
        self.ready_to = min(start + self.length, stop)
        return start, self.ready_to

    def _start(self, position: int, stop: int) -> int:
        return self.ready_to if position <= self.ready_to <= stop else position
