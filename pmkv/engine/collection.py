"""The base class of tables and keyspaces: one index stack of one view, read by all and written in heads.

A collection stays the same object while promotes and rollbacks exchange its layers. Until such a decision is durable,
readers get the previous version without waiting; writers, and threads that saw the new version, get the new one. Only
the log waits for durability.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from ..errors import PmkvError, ReadOnlyError
from ..index.lookup_batch import LookupBatch
from ..index.run import Run
from ..log.log import Log
from ..runtime.switches import is_on
from ..versions.index_stack import IndexStack
from ..versions.layer import Layer
from .one_process import OneProcess

T = TypeVar("T")

SHOWS_PREVIOUS = is_on("PREVIOUS_VERSION")


class PreviousVersion:
    """The layers that readers get until the decision `lsn`, which exchanged them, is durable.

    The caller of each method holds locks.state."""

    def __init__(self, lsn: int, top: Layer) -> None:
        self.lsn, self._top = lsn, top.acquire()
        self._top.shown += 1
        self._stack: IndexStack | None = None

    @property
    def stack(self) -> IndexStack:
        """Return the index stack of the previous version, made at the first read: most are never read."""
        if self._stack is None:
            self._stack = IndexStack(self._top, cached=False)
        return self._stack

    def leave(self) -> None:
        """Release the layers: no reader gets them any more."""
        if self._stack is not None:
            self._stack.close()
        self._top.shown -= 1
        self._top.release()


class Collection(OneProcess):
    """A table or a keyspace of one view. Safe for threads."""

    def __init__(self, top: Layer, log: Log, verify: bool, readonly: str | None) -> None:
        """verify: check every record or row that is read; readonly: why it takes no writes, None for a head."""
        self._log, self._verify, self._readonly = log, verify, readonly
        self._why_gone: PmkvError | None = None
        self._gone_at = 0  # LSN of the decision that dropped it
        self.stack = IndexStack(top)
        self._previous: PreviousVersion | None = None

    @property
    def layer(self) -> int:
        """Return the id of the top layer: the LSN of the frame that began it."""
        return self.stack.top.id

    @property
    def _changed(self) -> int:
        """Return the LSN of the last write."""
        return self.stack.top.last_write

    # its layers

    def keep_shown(self, lsn: int) -> None:
        """Keep the present version for readers: the pending decision `lsn` is about to exchange it.

        The caller holds locks.state."""
        if not SHOWS_PREVIOUS or (self._previous is not None and self._previous.lsn > self._log.durable):
            return  # switched off, or the present version is itself pending
        self.forget_previous()
        self._previous = PreviousVersion(lsn, self.stack.top)

    def forget_previous(self) -> None:
        """Stop serving the previous version. The caller holds locks.state."""
        if self._previous is not None:
            self._previous.leave()
            self._previous = None

    def _shown(self) -> IndexStack:
        """Return the index stack that this thread reads. The caller holds locks.state."""
        previous, log = self._previous, self._log
        if previous is None or log.locks.append.is_held or log.thread.min_lsn >= previous.lsn:
            return self.stack
        if log.durable < previous.lsn:
            return previous.stack
        self.forget_previous()
        return self.stack

    def stand_on(self, top: Layer) -> None:
        """Read and write another top layer, which a decision gave the view. The caller holds locks.state."""
        previous = self._previous
        if previous is not None and (previous.lsn <= self._log.durable or top.tree is not self.stack.tree):
            self.forget_previous()  # the decision is durable, or memory went back to before it
        self._why_gone = None  # an undo may bring back what was dropped, or memory went back to before it
        if top is not self.stack.top and self.stack.rebase(top):
            self._exchanged()

    def _exchanged(self) -> None:
        """Called after the layers below were replaced; for subclasses. The caller holds locks.state."""

    def leave(self, why: PmkvError, lsn: int) -> None:
        """Release the layers; later uses raise `why`. Decision `lsn` dropped it. The caller holds locks.state."""
        self._why_gone, self._gone_at = why, lsn
        self.forget_previous()
        self.stack.close()

    @property
    def is_gone(self) -> bool:
        return self._why_gone is not None

    def _guard(self) -> None:
        """Raise if the collection was dropped.

        Callers check before they take locks.state, so that the error can wait until the drop is durable, and again with
        it held, as a lookup would find nothing."""
        self._log.guard_read()
        if self._why_gone is not None:
            self._log.wait_durable_if_free(self._gone_at)
            raise type(self._why_gone)(*self._why_gone.args)

    def _guard_write(self) -> None:
        self._log.guard_write()
        self._guard()
        if self._readonly is not None:
            raise ReadOnlyError(self._readonly)

    # looking up

    def as_writer(self, read: Callable[[], T]) -> T:
        """Call `read`, whose reads get the newest version, although it may be pending: a write depends on them."""
        result, lsn = self._log.deferring(read, self._log.lsn)
        self._log.wait_durable(lsn)
        return result

    def _look_up(self, wanted: LookupBatch) -> tuple[np.ndarray, int, np.ndarray]:
        """Look a batch up; return locations, the LSN to wait for, and the pool's bytes as of the lookup."""
        self._guard()
        _lease = self._log.lease  # callers that use the locations hold one as well
        found, lsn, data, stack, runs = self._log.publisher.read(lambda: self._find_in_memory(wanted))
        if runs:
            stack.find_on_disk(wanted, found, runs, self._log.locks.state)
        return found, lsn, data

    def _find_in_memory(self, wanted: LookupBatch) -> tuple[np.ndarray, int, np.ndarray, IndexStack, tuple[Run, ...]]:
        """Probe memory only; return also the stack and the runs to search next. The caller holds locks.state."""
        log = self._log
        self._guard()
        stack = self._shown()
        wanted.compare_in(log.data)
        found, waiting = stack.find_in_memory(wanted, log.pending())
        log.publisher.check_overlap(stack.top, found)
        return found, log.durability_of(waiting, stack.top.visible_since), log.data, stack, stack.runs

    @property
    def uncounted(self) -> int:
        """Return the number of keys or ids that the next count must look up: those written since the last one."""
        return self.stack.uncounted

    @property
    def is_cold(self) -> bool:
        """Return whether a read may have to wait for the disk to read an index."""
        return self.stack.is_cold
