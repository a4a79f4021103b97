"""The log of one pool: the face of this package for the rest of the engine.

The LSN is the only clock. Appending (`begin`, fill the body, `end`; see `appender`) and flushing (see `group_commit`)
are separate: one flush makes durable what many threads have appended. `durability` says who waits for a flush, and
`publishing` how a long batch becomes visible while others read.

A writer holds `locks.append` from its first decision to its last frame, so no other thread appends meanwhile and no
group is taken. Readers look at memtables, index stacks and pending ranges under `locks.state`, and writers change
them under it; a long body is filled, and a long batch inserted, without it. The order of the locks is the flush lock,
`locks.append`, `locks.publish`, `locks.state`.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import InvalidError
from ..runtime.locks import StoreLocks
from .access import AccessGuard
from .appender import LogAppender, LogHooks
from .atomic_writes import AtomicWrites
from .chunk_pins import ChunkPins
from .durability import DurabilityGate
from .format import Kind
from .group_commit import GroupCommit
from .moving import MoveWriter
from .publishing import BatchPublisher
from .replay import LogEnd, Replay
from .segments import Pool, Reserve

T = TypeVar("T")

DURABILITIES = ("commit", "interval", "none")


def unix_ms() -> int:
    """Return the wall clock in milliseconds."""
    return time.time_ns() // 1_000_000


def _delegated(path: str) -> Any:
    """Return a property for an attribute or a method of one of the log's parts.

    Reading it takes no Python call, which a wrapper method would: each operation calls the log several times."""
    owner, _, attribute = path.rpartition(".")
    part = operator.attrgetter(owner)
    return property(
        operator.attrgetter(path),
        lambda log, value: setattr(part(log), attribute, value),
        lambda log: delattr(part(log), attribute),
    )


class Log:
    """One log on one pool. `resume` continues where a replay ended; `open_epoch` then makes it ready for writing.

    now: the clock of frames, unix milliseconds. locks: those of the store, new ones by default.
    """

    data, frame_limit = _delegated("pool.medium.data"), _delegated("pool.frame_limit")
    lsn, position = _delegated("appender.lsn"), _delegated("appender.position")
    committed_lsn, appended = _delegated("appender.committed.lsn"), _delegated("appender.appended")
    reserve, joined = _delegated("appender.reserve"), _delegated("appender.joined")
    atomic, batch = _delegated("atomic_writes.run"), _delegated("atomic_writes.batch")
    change_memory = _delegated("atomic_writes.change_memory")
    run_batch, deferring = _delegated("atomic_writes.run_batch"), _delegated("gate.deferring")
    begin, store, end = _delegated("appender.begin"), _delegated("appender.store"), _delegated("appender.end")
    durable, failed = _delegated("group_commit.durable"), _delegated("group_commit.failed")
    flushes, pending = _delegated("group_commit.flushes"), _delegated("group_commit.pending")
    flush, flush_piece = _delegated("group_commit.flush"), _delegated("group_commit.flush_piece")
    write_back, grow = _delegated("group_commit.write_back"), _delegated("group_commit.grow")
    prefault_pages = _delegated("group_commit.prefault_pages")
    wait_durable, durability_of = _delegated("gate.wait_durable"), _delegated("gate.durability_of")
    wait_durable_if_free, deferred = _delegated("gate.wait_durable_if_free"), _delegated("gate.deferred")
    thread, caller_holds_lock = _delegated("gate.thread"), _delegated("group_commit.caller_holds_lock")
    closed, readonly = _delegated("access.closed"), _delegated("access.readonly")
    guard_read, guard_write = _delegated("access.guard_read"), _delegated("access.guard_write")
    on_durable, on_failure = _delegated("hooks.on_durable"), _delegated("hooks.on_failure")
    on_cut, on_aborted = _delegated("hooks.on_cut"), _delegated("hooks.on_aborted")
    lease = _delegated("pool.leases.current")
    on_group, on_busy = _delegated("hooks.on_group"), _delegated("hooks.on_busy")

    def __init__(
        self,
        pool: Pool,
        durability: str = "commit",
        now: Callable[[], int] = unix_ms,
        locks: StoreLocks | None = None,
    ) -> None:
        if durability not in DURABILITIES:
            raise InvalidError(f"durability={durability!r}: choose one of {', '.join(DURABILITIES)}")
        self.pool, self.durability, self.now = pool, durability, now
        pool.fill = durability == "commit"
        self.locks = locks or StoreLocks()
        self.publisher = BatchPublisher(self.locks)
        self.access, self.hooks = AccessGuard(), LogHooks()
        self.appender = LogAppender(pool, self.locks, self.access, self.hooks, now)
        self.group_commit = GroupCommit(self.appender, self.locks, self.access, self.hooks, durability)
        self.gate = DurabilityGate(self.group_commit)
        self.atomic_writes = AtomicWrites(self.group_commit, self.publisher)
        self.mover = MoveWriter(pool, self.locks, self.group_commit.failing, now)
        self.appender.moved_end = self.mover.end
        self.chunk_pins = ChunkPins(pool)

    def resume(self, replay: Replay) -> None:
        """Continue where a replay ended."""
        self.appender.resume(replay)
        self.group_commit.resume(replay)
        self.mover.resume(replay.moved)

    def open_epoch(self) -> None:
        """Make durable again what recovery accepted, then begin a new epoch, so that no LSN is ever used twice."""
        self.group_commit.rewrite_unproved()
        with self.locks.append, self.locks.state:
            self.appender.begin_epoch()
        self.flush(self.lsn)

    def exclusively(self, body: Callable[[], T]) -> tuple[T, int]:
        """Call `body` while nobody else writes, so that what it reads holds when it writes, and put off its waits.

        Return its result and the LSN to wait for."""
        with self.locks.append, self.locks.state:
            return self.deferring(body)

    def preallocate_segment(self) -> bool:
        """Prepare a segment before it is needed, if one is due; return whether it did. For a background thread that
        holds no lock."""
        with self.group_commit.failing:
            return self.pool.preallocate_segment()

    def end_position(self) -> LogEnd:
        """Return the position after the last frame. The caller holds `locks.append` and `locks.state`, outside a
        batch."""
        assert not self.failed, "nothing after the durable part of a failed log is complete"
        return self.appender.end_position()

    def mark(self) -> None:
        """Append a MARK frame, which proves that the last acknowledged frame is durable, unless one is there."""
        appender = self.appender
        with self.locks.append, self.locks.state:
            if appender.last_is_mark or appender.batch_depth or self.failed or self.readonly:
                return
            if self.durable < self.lsn:
                return
            self.atomic(self._append_mark)
        self.flush(self.lsn)

    def _append_mark(self) -> None:
        self.begin(Kind.MARK, 0, purpose=Reserve.LOG)
        self.end()

    @property
    def is_idle(self) -> bool:
        """True if everything is durable and a MARK says so."""
        return self.appender.last_is_mark and self.durable == self.lsn

    @property
    def may_await_space(self) -> bool:
        """Return whether this thread may wait for room: it holds no lock, and has not put off its waits."""
        durability_wait = self.thread.durability_wait
        return not self.caller_holds_lock and (durability_wait is None or durability_wait.may_await_space)

    def await_space(self, frees: bool = False) -> bool:
        """Wait for a moment while a cleaner makes room for writers; return False if none is there, or it cannot. The
        caller holds no lock. frees: the write that waits makes something dead itself."""
        return self.hooks.await_space is not None and self.hooks.await_space(frees)

    def renew_locks(self) -> None:
        """Replace the locks in a forked child: threads of the parent may hold the old ones for ever."""
        fresh = StoreLocks()
        self.locks.append, self.locks.publish, self.locks.state = fresh.append, fresh.publish, fresh.state
        self.publisher = BatchPublisher(self.locks)
        self.atomic_writes = AtomicWrites(self.group_commit, self.publisher)

    def check(self) -> None:
        """Assert the log's own invariants."""
        self.pool.check()
        self.appender.check()
        assert self.durable <= self.lsn
