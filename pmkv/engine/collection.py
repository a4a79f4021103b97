"""What tables and keyspaces have in common: each reads, and in a head writes, one chain, as one view has it.

A view's tables and keyspaces stay the same objects while promotions and rollbacks exchange what they stand on. Until
such a decision is durable, who reads is shown what was there before, and need not wait; but who writes, or has seen
something as new, is shown what there is. Waiting for durability happens in `Log.wait_durable` alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from ..errors import PmkvError, ReadOnlyError
from ..index.lookup_batch import LookupBatch
from ..index.run import Run
from ..log.log import Log
from ..versions.index_stack import IndexStack
from ..versions.layer import Layer


class PreviousVersion:
    """What a surface shows until the decision `lsn`, which exchanged it, is durable. Under the lock."""

    def __init__(self, lsn: int, top: Layer) -> None:
        self.lsn, self._top = lsn, top.acquire()
        self._top.shown += 1
        self._chain: IndexStack | None = None

    @property
    def chain(self) -> IndexStack:
        """Made when somebody reads it: most are not read at all."""
        if self._chain is None:
            self._chain = IndexStack(self._top, cached=False)
        return self._chain

    def leave(self) -> None:
        """Nobody is shown it any more."""
        if self._chain is not None:
            self._chain.close()
        self._top.shown -= 1
        self._top.release()


class Collection:
    """Safe for threads."""

    def __init__(self, top: Layer, log: Log, verify: bool, readonly: str | None) -> None:
        """readonly: why it takes no writes, if it takes none; verify: check what is read."""
        self._log, self._verify, self._readonly = log, verify, readonly
        self._why_gone: PmkvError | None = None
        self._gone_at = 0  # the LSN of the decision by which it went
        self.chain = IndexStack(top)
        self._former: PreviousVersion | None = None

    @property
    def layer(self) -> int:
        """The number of the layer on top: the LSN of the frame that opened it."""
        return self.chain.top.id

    @property
    def _changed(self) -> int:
        """The LSN of the last write."""
        return self.chain.top.last_write

    # what it stands on

    def keep_shown(self, lsn: int) -> None:
        """What is here is exchanged by the decision `lsn`, which is pending. Under the lock, before that is done."""
        if self._former is not None and self._former.lsn > self._log.durable:
            return  # what it would show is pending itself
        self.forget_former()
        self._former = PreviousVersion(lsn, self.chain.top)

    def forget_former(self) -> None:
        """Show what there is. Under the lock."""
        if self._former is not None:
            self._former.leave()
            self._former = None

    def _shown(self) -> IndexStack:
        """What this thread is shown. Under the lock."""
        former, log = self._former, self._log
        if former is None or log.locks.append.is_held or log.thread.min_lsn >= former.lsn:
            return self.chain
        if log.durable < former.lsn:
            return former.chain
        self.forget_former()
        return self.chain

    def stand_on(self, top: Layer) -> None:
        """The view has another layer on top. Under the lock."""
        former = self._former
        if former is not None and (former.lsn <= self._log.durable or top.tree is not self.chain.tree):
            self.forget_former()  # the decision is durable, or memory went back behind it
        if top is not self.chain.top and self.chain.rebase(top):
            self._exchanged()

    def _exchanged(self) -> None:
        """What it holds is something else now. Under the lock."""

    def leave(self, why: PmkvError, lsn: int) -> None:
        """It went by the decision `lsn`: whoever uses it is told why. Under the lock."""
        self._why_gone, self._gone_at = why, lsn
        self.forget_former()
        self.chain.close()

    @property
    def is_gone(self) -> bool:
        return self._why_gone is not None

    def _guard(self) -> None:
        """Refuse what cannot be read any more. Under the lock, as a lookup would find nothing; and before that, so that
        who is told can wait until it is durable."""
        self._log.guard_read()
        if self._why_gone is not None:
            self._log.wait_durable_if_free(self._gone_at)
            raise type(self._why_gone)(*self._why_gone.args)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock, for who may go on."""
        self._guard()
        with self._log.locks.state:
            self._guard()
            yield

    def _guard_write(self) -> None:
        self._log.guard_write()
        self._guard()
        if self._readonly is not None:
            raise ReadOnlyError(self._readonly)

    # looking up

    @contextlib.contextmanager
    def as_writer(self) -> Iterator[None]:
        """Reads inside are shown what there is: what is written depends on them."""
        with self._log.deferred() as seen:
            seen.min_lsn = self._log.lsn
            yield
        self._log.wait_durable(seen.lsn)

    def _look_up(self, wanted: LookupBatch) -> tuple[np.ndarray, int, np.ndarray]:
        """(locations, LSN to settle, the pool's bytes as of the moment when the lock was held)."""
        self._guard()
        found, lsn, data, chain, runs = self._log.publisher.read(lambda: self._find_in_memory(wanted))
        if runs:
            chain.find_on_disk(wanted, found, runs, self._log.locks.state)
        return found, lsn, data

    def _find_in_memory(self, wanted: LookupBatch) -> tuple[np.ndarray, int, np.ndarray, IndexStack, tuple[Run, ...]]:
        """Of what is not on file; then who has the rest, and its runs. Under the lock."""
        log = self._log
        self._guard()
        chain = self._shown()
        wanted.compare_in(log.data)
        found, waiting = chain.find_in_memory(wanted, log.pending())
        log.publisher.check_overlap(chain.top, found)
        return found, log.durability_of(waiting, chain.top.visible_since), log.data, chain, chain.runs

    @property
    def uncounted(self) -> int:
        """How many keys or ids a count has to look up first: what was written since the last one, and is on no file."""
        return self.chain.uncounted

    @property
    def is_cold(self) -> bool:
        """May a read have to wait for the disk to read an index?"""
        return self.chain.is_cold
