"""The thread of a readonly store, which lets it follow the writer of its directory."""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Protocol

from .errors import ClosedError, PmkvError

LOOK_S = 0.05  # between two looks at the end of the log, of a few bytes each
log = logging.getLogger("pmkv")


class Following(Protocol):
    """The part of a store that the thread uses."""

    def follow(self) -> None:
        """Show what is new, if anything is."""


class FollowThread(threading.Thread):
    """Calls `follow` of a store from `start` to `stop`, or until the program has dropped the store."""

    def __init__(self, store: Following) -> None:
        super().__init__(name="pmkv-follow", daemon=True)
        self._store = weakref.ref(store)
        self._runs = threading.Lock()  # no Event: Ctrl-C may leave the lock within it taken for ever
        self._runs.acquire()
        self._said: str | None = None  # the last failure, which is logged once

    def stop(self) -> None:
        """End the thread."""
        if self._runs.locked():
            self._runs.release()
        if threading.current_thread() is not self:
            self.join()

    def run(self) -> None:
        while not self._runs.acquire(timeout=LOOK_S):
            store = self._store()
            if store is None:
                return
            try:
                store.follow()
                self._said = None
            except ClosedError:
                return
            except (PmkvError, OSError) as error:  # what was read before is still shown
                if str(error) != self._said:
                    log.warning("the store cannot follow its writer: %s", error)
                self._said = str(error)
            del store
