"""What stands behind the log's end, and is to be made ready to be stored to: fresh pages take a fault each.

Assumes: `next` is called under the lock. `follow` and `is_due` need none: what they say may be out of date.
"""

from __future__ import annotations

LEAST, MOST = 256 << 10, 8 << 20  # bytes at a time


class Prefault:
    """ready_to: offset up to where it is."""

    def __init__(self, ready_to: int) -> None:
        self.ready_to = ready_to
        self.length = LEAST  # to be made ready at a time; 0: nothing

    def follow(self, group: list[tuple[int, int]], handed: int) -> None:
        """The next groups are as this one, most likely: what four take, but not what `Medium.store` does (`handed`)."""
        length = sum([stop - start for start, stop in group])
        self.length = 0 if 2 * handed > length else min(max(4 * (length - handed), LEAST), MOST)

    def is_due(self, position: int, stop: int) -> bool:
        """The log stands there, in a segment that ends at `stop`."""
        left = self.ready_to - position
        return 0 < self.length >= 2 * left and max(self.ready_to, position) < stop

    def next(self, position: int, stop: int) -> tuple[int, int]:
        """What is made ready now."""
        start = max(self.ready_to, position)
        self.ready_to = min(start + self.length, stop)
        return start, self.ready_to
