"""The flush thread: flushes groups while the next ones collect, and does the log's small periodic work.

It syncs once a second with durability="interval", pre-faults the pages that the log will be stored to next, and
appends a MARK to an idle log.
"""

from __future__ import annotations

import logging
import queue

from ..errors import FullError, PmkvError
from ..runtime.scheduling import short_slice
from ..runtime.worker_thread import WorkerThread
from .log import Log

log = logging.getLogger("pmkv")

IDLE_S = 0.1  # without a frame; then a MARK is due
SYNC_INTERVAL_S = 1.0  # between syncs with durability="interval"


class Flusher(WorkerThread):
    """A thread that starts with `start` and ends with `stop`. `kick` asks for a flush of all complete frames."""

    def __init__(self, log: Log) -> None:
        super().__init__("pmkv-flush")
        self._log = log
        self._requests: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._flush_requested = self._prefault_requested = False  # in the queue already: one request is enough
        self._seen_lsn = 0  # at the last tick
        log.hooks.on_busy = lambda: self._requests.put("wake")
        log.hooks.kick, log.hooks.look_ahead = self.kick, self.look_ahead

    def kick(self) -> None:
        """Request a flush. Cheap, and callable from any thread."""
        if not self._flush_requested:
            self._flush_requested = True
            self._requests.put("flush")

    def look_ahead(self) -> None:
        """Request that the log's next pages are pre-faulted. Cheap, and callable from any thread."""
        if not self._prefault_requested:
            self._prefault_requested = True
            self._requests.put("prefault")

    def stop(self) -> None:
        """End the thread. This flushes nothing."""
        self._requests.put("stop")
        self.await_end()

    def work(self) -> None:
        """Serve requests until `stop`."""
        short_slice()
        while (request := self._next()) != "stop":
            try:
                self._serve(request)
            except PmkvError:
                # The log remembers its failure and raises it in every thread that waits for it.
                continue
            except Exception as error:
                self._fail(request, error)

    def _serve(self, request: str) -> None:
        if request == "flush":
            self._flush_requested = False
            self._log.flush(self._log.committed_lsn)  # does not wait for the frame that is being written
        elif request == "prefault":
            self._prefault_requested = False
            self._log.prefault_pages()
        elif request == "tick":
            self._tick()

    def _fail(self, request: str, error: Exception) -> None:
        """Go on after an unexpected error (no memory, a mistake of ours), and release those who wait for a flush.

        Without the thread they would wait for ever."""
        log.error("the flush thread failed (%s)", request, exc_info=error)
        if request != "prefault" and not self._log.failed:
            self._log.group_commit.fail(error)
            self._log.group_commit.announce(self._log.on_durable)

    def _next(self) -> str:
        timeout = SYNC_INTERVAL_S if self._log.durability == "interval" else IDLE_S
        try:
            return self._requests.get(timeout=None if self._log.is_idle or self._log.failed else timeout)
        except queue.Empty:
            return "tick"

    def _tick(self) -> None:
        """Sync, or mark an idle log, after a while without requests."""
        log, idle = self._log, self._seen_lsn == self._log.lsn
        self._seen_lsn = log.lsn
        if log.durability == "interval":
            log.flush(log.lsn)
        if idle and log.durability != "none":
            try:
                log.mark()
                self._seen_lsn = log.lsn
            except FullError:
                self._seen_lsn = log.lsn  # a full pool has no room for marks; deletes come first
