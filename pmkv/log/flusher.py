"""The flush thread: makes groups durable while the next ones gather, syncs once a second where that was asked for,
makes ready where the log goes on, marks an idle log."""

from __future__ import annotations

import queue
import threading

from ..errors import FullError, PmkvError
from ..runtime.scheduling import short_slice
from .log import Log

IDLE = 0.1  # seconds without a frame, after which a MARK is due
INTERVAL = 1.0  # seconds between syncs with durability="interval"


class Flusher(threading.Thread):
    """Starts with `start`, ends with `stop`. `kick` asks for a flush of everything complete so far."""

    def __init__(self, log: Log) -> None:
        super().__init__(name="pmkv-flush", daemon=True)
        self._log = log
        self._wishes: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._kicked = False  # a wish is on its way: more of them would say the same
        self._seen = 0
        self._looks = False  # likewise, of `look_ahead`
        log.hooks.on_busy = lambda: self._wishes.put("look")
        log.hooks.kick, log.hooks.look_ahead = self.kick, self.look_ahead

    def kick(self) -> None:
        """Flush soon. Cheap; from any thread."""
        if not self._kicked:
            self._kicked = True
            self._wishes.put("flush")

    def look_ahead(self) -> None:
        """Make ready where the log goes on. Cheap, likewise."""
        if not self._looks:
            self._looks = True
            self._wishes.put("ahead")

    def stop(self) -> None:
        """End the thread; what was appended is not flushed by this."""
        self._wishes.put("stop")
        if threading.current_thread() is not self:
            self.join()

    def run(self) -> None:
        short_slice()
        while (wish := self._next()) != "stop":
            try:
                if wish == "flush":
                    self._kicked = False
                    self._log.flush(self._log.complete_lsn)  # not for the end of what is being written
                elif wish == "ahead":
                    self._looks = False
                    self._log.prefault_pages()
                elif wish == "tick":
                    self._tick()
            except PmkvError:
                # the log remembers its failure and tells everyone who waits; nobody waits for this thread
                continue

    def _next(self) -> str:
        timeout = INTERVAL if self._log.durability == "interval" else IDLE
        try:
            return self._wishes.get(timeout=None if self._log.is_idle or self._log.failed else timeout)
        except queue.Empty:
            return "tick"

    def _tick(self) -> None:
        """Nobody asked for anything for a while."""
        log, idle = self._log, self._seen == self._log.lsn
        self._seen = log.lsn
        if log.durability == "interval":
            log.flush(log.lsn)
        if idle and log.durability != "none":
            try:
                log.mark()
                self._seen = log.lsn
            except FullError:
                self._seen = log.lsn  # a full pool has no room for marks; deletes come first
