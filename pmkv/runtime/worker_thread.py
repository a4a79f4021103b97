"""Threads of a store, whose end can be waited for again after an interrupted wait."""

from __future__ import annotations

import threading


class WorkerThread(threading.Thread):
    """A daemon thread that calls `work`, once.

    `await_end` takes the place of `join`: CPython 3.11 takes a thread for ended when Ctrl-C interrupts a join, and
    files would be closed that it uses."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._running = threading.Lock()  # held until the thread ends; written in C, so no interrupt leaves it taken
        self._running.acquire()

    def work(self) -> None:
        """Do what the thread is for."""
        raise NotImplementedError

    def run(self) -> None:
        """Call `work`, and note its end."""
        try:
            self.work()
        finally:
            self._running.release()

    @property
    def has_ended(self) -> bool:
        """Return whether `work` has returned."""
        return not self._running.locked()

    def await_end(self) -> None:
        """Return when `work` has returned; at once in the thread itself. Other threads call it one at a time."""
        if threading.current_thread() is not self:
            with self._running:
                pass
