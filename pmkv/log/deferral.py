"""What a thread would have to wait for, while its waiting is put off (`Log.deferred`)."""

from __future__ import annotations


class Deferral:
    """Collects what a thread would have to wait for. `lsn`: the highest that must be durable before results may be
    revealed, 0 for none."""

    def __init__(self) -> None:
        self.lsn = 0
