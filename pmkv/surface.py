"""What tables and keyspaces have in common: each reads, and in a head writes, one chain, as one view has it.

A view's tables and keyspaces stay the same objects while promotions and rollbacks exchange what they stand on. Waiting
for durability happens in `Log.settle` alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from .errors import PmkvError, ReadOnlyError
from .index.run import Run
from .log.writer import Log
from .versions.chain import Chain
from .versions.layer import Layer
from .versions.wanted import Wanted


class Surface:
    """Safe for threads."""

    def __init__(self, top: Layer, log: Log, verify: bool, readonly: str | None) -> None:
        """readonly: why it takes no writes, if it takes none; verify: check what is read."""
        self._log, self._verify, self._readonly = log, verify, readonly
        self._why_gone: PmkvError | None = None
        self._gone_at = 0  # the LSN of the decision by which it went
        self.chain = Chain(top)

    @property
    def layer(self) -> int:
        """The number of the layer on top: the LSN of the frame that opened it."""
        return self.chain.top.id

    @property
    def _changed(self) -> int:
        """The LSN of the last write."""
        return self.chain.top.changed

    # what it stands on

    def stand_on(self, top: Layer) -> None:
        """The view has another layer on top. Under the lock."""
        if top is not self.chain.top and self.chain.stand_on(top):
            self._exchanged()

    def _exchanged(self) -> None:
        """What it holds is something else now. Under the lock."""

    def leave(self, why: PmkvError, lsn: int) -> None:
        """It went by the decision `lsn`: whoever uses it is told why. Under the lock."""
        self._why_gone, self._gone_at = why, lsn
        self.chain.leave()

    @property
    def is_gone(self) -> bool:
        return self._why_gone is not None

    def _guard(self) -> None:
        """Refuse what cannot be read any more. Under the lock, as a lookup would find nothing; and before that, so that
        who is told can wait until it is durable."""
        self._log.guard_read()
        if self._why_gone is not None:
            self._log.settle_if_free(self._gone_at)
            raise type(self._why_gone)(*self._why_gone.args)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock, for who may go on."""
        self._guard()
        with self._log.lock:
            self._guard()
            yield

    def _guard_write(self) -> None:
        self._log.guard_write()
        self._guard()
        if self._readonly is not None:
            raise ReadOnlyError(self._readonly)

    # looking up

    def _look_up(self, wanted: Wanted) -> tuple[np.ndarray, int, np.ndarray, tuple[Run, ...]]:
        """The half of a lookup that needs the lock, which is held: (locations, LSN to settle, the pool's bytes as of
        now, the runs to ask for the rest)."""
        self._guard()
        found, waiting = self.chain.look_above(wanted, self._log.pending())
        return found, self._log.depends(waiting, self.chain.top.since), self._log.data, self.chain.runs

    @property
    def uncounted(self) -> int:
        """How many keys or ids a count has to look up first: what was written since the last one, and is on no file."""
        return self.chain.uncounted

    @property
    def is_cold(self) -> bool:
        """May a read have to wait for the disk to read an index?"""
        return self.chain.is_cold
