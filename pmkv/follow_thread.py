"""The thread of a readonly store, which lets it follow the writer of its directory."""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Protocol

from .errors import ClosedError, PmkvError
from .runtime.worker_thread import WorkerThread

LOOK_S = 0.05  # between two looks at the end of the log, of a few bytes each
log = logging.getLogger("pmkv")


class Following(Protocol):
    """The part of a store that the thread uses."""

    def follow(self) -> None:
        """Show what is new, if anything is."""


class FollowThread(WorkerThread):
    """Calls `follow` of a store from `start` to `stop`, or until the program has dropped the store."""

    def __init__(self, store: Following) -> None:
        super().__init__("pmkv-follow")
        self._store = weakref.ref(store)
        self._wanted = threading.Lock()  # no Event: Ctrl-C may leave the lock within it taken for ever
        self._wanted.acquire()
        self._said: str | None = None  # the last failure, which is logged once

    def stop(self) -> None:
        """End the thread."""
        if self._wanted.locked():
            self._wanted.release()
        self.await_end()

    def work(self) -> None:
        while not self._wanted.acquire(timeout=LOOK_S):
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
