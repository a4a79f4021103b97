"""What a thread would have to wait for, while its waiting is put off (`Log.deferred`)."""

from __future__ import annotations

import threading

from ..turns import Stretch


class Deferral:
    """Collects what a thread would have to wait for. `lsn`: the highest that must be durable before results may be
    revealed, 0 for none. `seen`: the same of results before, behind which these must not fall back."""

    def __init__(self, seen: int = 0) -> None:
        self.lsn, self.seen = 0, seen


class Waiting(threading.local):
    """The deferral that a thread is in, and how long its operations go on."""

    deferral: Deferral | None = None

    def __init__(self) -> None:
        self.stretch = Stretch()

    @property
    def seen(self) -> int:
        """The LSN behind which nothing that this thread reads may fall back."""
        return max(self.deferral.lsn, self.deferral.seen) if self.deferral is not None else 0
