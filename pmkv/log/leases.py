"""Read leases: which readers may still hold locations into segments that were emptied.

A reader keeps the lease of its lookup in a local variable until it has copied what the locations point at; it counts
nothing and releases nothing. The lease dies with the last reference to it, however the reader ends. A cleaner that has
replaced the runs begins a new lease, and frees the segments once every lease from before is dead.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable


class Lease:
    """A token that a reader holds while it uses locations. It has no content: that it lives is all that matters."""

    __slots__ = ("__weakref__",)


class ReadLeases:
    """The current lease, and the segments that wait for earlier ones to die.

    current: taken by a reader before its lookup. retired: segments that no index names any more, but perhaps a reader.
    """

    def __init__(self) -> None:
        self.current = Lease()
        self.retired: list[int] = []
        # False while another process may read segments that are retired as of this commit of the catalog
        self.may_reuse: Callable[[int], bool] = lambda commit: True
        self._waiting: deque[tuple[weakref.ref[Lease], int, tuple[int, ...]]] = deque()

    def retire(self, segments: tuple[int, ...], commit: int = 0) -> None:
        """Let these segments wait for all readers of now. The caller holds locks.state, and no index names them any
        more. commit: of the catalog, the first one whose readers do without them."""
        self.retired = [*self.retired, *segments]
        self._waiting.append((weakref.ref(self.current), commit, segments))
        self.current = Lease()

    def released(self) -> tuple[int, ...]:
        """Take the segments that the next dead lease held back; empty if there are none, or a reader is left.

        Leases are looked at from the oldest on: a reader with an older one may have looked up later."""
        if not self._waiting or self._waiting[0][0]() is not None or not self.may_reuse(self._waiting[0][1]):
            return ()
        segments = self._waiting.popleft()[2]
        self.retired = [index for index in self.retired if index not in segments]
        return segments
