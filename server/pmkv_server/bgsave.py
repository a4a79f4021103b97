"""Take the checkpoints that clients request with SAVE and BGSAVE, one at a time.

Checkpoints that the store takes by itself are not counted here and do not exclude these.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

from pmkv.errors import PmkvError
from pmkv_server.system_errors import describe

log = logging.getLogger("pmkv.server")


class BackgroundSave:
    """Knows whether a requested checkpoint is under way, and how the last one ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held while a checkpoint is under way
        self._began = time.monotonic()
        self.last_seconds = -1  # that the last one took; -1: there was none
        self.failed = False

    def save(self, store: Any) -> bool:
        """Take a checkpoint; return False if one is under way already."""
        if not self._lock.acquire(blocking=False):
            return False
        with self._timed():
            store.checkpoint()
        return True

    def begin(self, store: Any) -> bool:
        """Take a checkpoint in a thread of its own; return False if one is under way already.

        Workers do not run it: they are for commands whose clients wait for the reply.
        """
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
                log.warning("BGSAVE failed: %s", describe(error) if isinstance(error, OSError) else error)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Note how long the block takes and whether it fails; release the lock at its end."""
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
        """Return for how long a checkpoint has been under way, or -1."""
        return int(time.monotonic() - self._began) if self._lock.locked() else -1


def saved_at(server: Any) -> int:
    """Return the unix seconds of the last checkpoint of any kind, or of the server's start."""
    return max(int(server.stats.started), server.store.checkpointed_at // 1000)
