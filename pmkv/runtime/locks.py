"""The locks of one store, and the order in which a thread may take them.

The order is the log's flush lock, then `append`, then `publish`, then `state`. A thread that holds a later lock never
asks for an earlier one, unless it holds that already: all three are reentrant.
"""

from __future__ import annotations

from _thread import RLock  # threading.RLock is a function, which cannot be subclassed


class StoreLock(RLock):
    """A reentrant lock that can tell whether the calling thread holds it."""

    @property
    def is_held(self) -> bool:
        """True if the calling thread holds the lock."""
        return self._is_owned()

    def assert_held(self) -> None:
        """Raise AssertionError unless the calling thread holds the lock."""
        assert self._is_owned(), "the caller must hold this lock"


class StoreLocks:
    """The three locks that threads of one store share.

    append: held while frames are appended, from the first decision to the last frame: one writer at a time.
    publish: held while a long batch is entered into a memtable, and by readers that wait until it is complete.
    state: guards what readers look at: memtables, index stacks, views, and which part of the log is pending.
    """

    def __init__(self) -> None:
        self.append, self.publish, self.state = StoreLock(), StoreLock(), StoreLock()
