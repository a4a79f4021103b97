"""SAVE and BGSAVE: checkpoints that clients ask for, one at a time. Those that the store takes by itself are none of
these, and in nobody's way."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

from pmkv.errors import PmkvError

log = logging.getLogger("pmkv.server")


class BackgroundSave:
    """Whether one is under way, and what became of the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self.last_seconds = -1  # -1: there was none
        self.failed = False

    def save(self, store: Any) -> bool:
        """Take one; False: there is one under way."""
        if not self._lock.acquire(blocking=False):
            return False
        with self._timed():
            store.checkpoint()
        return True

    def begin(self, store: Any) -> bool:
        """The same in the background. Not in a worker: these are for who waits for a reply."""
        if not self._lock.acquire(blocking=False):
            return False
        threading.Thread(target=self._take, args=[store], name="pmkv-bgsave", daemon=True).start()
        return True

    def _take(self, store: Any) -> None:
        with self._timed():
            try:
                store.checkpoint()
            except (PmkvError, OSError) as error:
                self.failed = True
                log.warning("BGSAVE failed: %s", error)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Lets go of the lock at the end."""
        self._began, self.failed = time.monotonic(), False
        try:
            yield
        except BaseException:
            self.failed = True
            raise
        finally:
            self.last_seconds = int(time.monotonic() - self._began)
            self._lock.release()

    @property
    def is_under_way(self) -> bool:
        return self._lock.locked()

    @property
    def seconds(self) -> int:
        """For how long it has been under way; -1: there is none."""
        return int(time.monotonic() - self._began) if self._lock.locked() else -1


def saved_at(server: Any) -> int:
    """Unix seconds of the last checkpoint, whoever asked for it, or of the start."""
    return max(int(server.stats.started), server.store.checkpointed_at // 1000)
