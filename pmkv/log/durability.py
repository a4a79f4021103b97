"""What a thread would have to wait for, while its waiting is put off (`Log.deferred`)."""

from __future__ import annotations

import threading

from ..runtime.scheduling import FairShare


class DurabilityWait:
    """Collects what a thread would have to wait for. `lsn`: the highest that must be durable before results may be
    revealed, 0 for none. `seen`: the same of results before, behind which these must not fall back."""

    def __init__(self, seen: int = 0) -> None:
        self.lsn, self.seen = 0, seen


class ThreadState(threading.local):
    """The deferral that a thread is in, and how long its operations go on."""

    deferral: DurabilityWait | None = None

    def __init__(self) -> None:
        self.stretch = FairShare()

    @property
    def seen(self) -> int:
        """The LSN behind which nothing that this thread reads may fall back."""
        return max(self.deferral.lsn, self.deferral.seen) if self.deferral is not None else 0
