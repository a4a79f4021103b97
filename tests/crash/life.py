"""A life: one opening of the store, the steps that it takes, and the points at which the power may go meanwhile.

What the store shows is compared with a model all the time; what a crash may leave, by who looks at the points.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np

from pmkv.engine.engine import Engine
from pmkv.errors import FlushError, FullError, PmkvError, ReadOnlyError
from pmkv.log.segments import Pool
from pmkv.maintenance.committed import Steps
from pmkv.media.simulated import CrashPoint, SimulatedMedium
from pmkv.versions.index_stack import RunSet
from tests.crash.faces import expected, shown
from tests.crash.files import STAGES, Files, FilesPoint
from tests.crash.model import Model, one_of
from tests.crash.operations import FULL, Bare, Batch, check_scans, state_of
from tests.crash.steps import (
    Abandon,
    Begin,
    Checkpoint,
    Clean,
    End,
    FailFlush,
    FailMaintenance,
    Go,
    Group,
    Grow,
    InTurn,
    Look,
    Mark,
    Overtaken,
    Peek,
    Unawaited,
)

SPACES = 4  # keyspaces that histories write to have numbers below
ROW_CACHE_BYTES = 16 << 10  # some hundred rows
LOCATION_CACHE_BYTES = 16 << 10  # which the row cache uses meanwhile
NOW = 1_700_000_000_000  # the clock stands: two operations alike make two frames alike
UNNOTICED = 30  # steps that a checkpoint or fold may take after a flush failed: a fold would begin again and again
LOOK_BELOW = RunSet.find_on_disk
MAINTENANCE = Checkpoint | Clean | Begin | Go | End | Abandon | FailMaintenance


class Violation(AssertionError):
    """A promise was broken."""


@dataclass(frozen=True)
class Recorded:
    """A point, and what a recovery from it may find."""

    point: CrashPoint
    files: FilesPoint | None
    stage: str
    states: list[Model]  # shared by a life's points, and growing
    acked: int
    submitted: int
    issued: int  # the highest LSN given out
    freed: int = 0  # segments that this life has freed

    @property
    def allowed(self) -> list[Model]:
        return possible(self.states[self.acked : self.submitted + 1])


def possible(states: list[Model]) -> list[Model]:
    """They, and their rivals."""
    return [one for state in states for one in state.possible]


@dataclass
class Running:
    """A checkpoint or fold under way. submitted: operations that had been when it began."""

    kind: str
    steps: Steps
    submitted: int


@dataclass
class Life:
    """One opening of a store on a medium, and what happened to it."""

    medium: SimulatedMedium
    states: list[Model]  # what may be found; once open, what was found and what became of it
    issued: int = 0
    files: Files | None = None
    acked: int = 0
    submitted: int = 0
    points: list[Recorded] = field(default_factory=list)
    steps: list[Any] = field(default_factory=list)
    operations: list[Any] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)  # each within the steps of the one before
    lsns: list[int] = field(default_factory=list)  # once open: of the log, when it came to each of the states
    engine: Engine | None = None  # once open

    def __post_init__(self) -> None:
        self.submitted = len(self.states) - 1

    def open(self, watched: bool = True) -> Bare:
        if watched:
            self._watch(self.record)
        self.engine = engine = open_engine(self.medium, self.files)
        found = state_of(Bare(engine), SPACES)
        fitting = [state for state in possible(self.states) if state == found]
        if not fitting:
            raise Violation(f"recovered {found}\nwhich is none of {self.states}")
        if engine.log.lsn <= self.issued:
            raise Violation(f"goes on with LSN {engine.log.lsn}, but {self.issued} was given out before")
        self.states, self.acked, self.submitted = [one_of(fitting)], 0, 0  # it may have been read: now it is promised
        self.issued = engine.log.lsn
        self.lsns = [self.issued]
        return Bare(engine)

    def _watch(self, record: Callable[[str], None] | None) -> None:
        self.medium.on_point = record
        if self.files is not None:
            self.files.disk.on_point = record

    def take(self, store: Bare, step: Any) -> None:
        """Take one step. FlushError: the store has had its last one."""
        self.steps.append(step)
        if isinstance(step, FailFlush):
            self.medium.evicted = step.evicted
            self.medium.fail_flush(1, step.reached, step.seed)
        elif isinstance(step, Mark):
            with contextlib.suppress(FullError):
                store.mark()
        elif isinstance(step, Grow):
            self._grow(store)
        elif isinstance(step, InTurn):
            for one in step.steps:
                self.take(store, one)
        elif isinstance(step, MAINTENANCE):
            self._keep_up(store, step)
        else:
            self._wait_for(store, step)

    def _grow(self, store: Bare) -> None:
        """Add a segment to the pool, after which everything appended so far is durable; nothing if there is no room."""
        log, submitted = store.engine.log, self.submitted
        with contextlib.suppress(FullError):
            log.grow(log.pool.medium.data.size + log.pool.segment_size)
            self.acked = max(self.acked, submitted)

    # operations

    def _wait_for(self, store: Bare, step: Any) -> None:
        """Take a step that is acknowledged at its end, and all before it. What changed nothing waits for nothing."""
        before, behind = self.states[-1], self.acked < self.submitted
        if isinstance(step, Peek):
            waited = self._peek(store, step)
        elif isinstance(step, Look):
            self.look(store)
            waited = not behind
        elif isinstance(step, Overtaken):
            self._overtake(store, step)
            return
        elif isinstance(step, Unawaited):
            self._deferred(store, step.operations)
            waited = False
        elif isinstance(step, Group):
            store.wait(self._deferred(store, step.operations))
            waited = not behind or self.states[-1] != before
        else:
            self._operation(store, step)
            waited = not behind or self.states[-1] != before
        if waited:
            self.acked = self.submitted

    def _deferred(self, store: Bare, operations: tuple[Any, ...]) -> int:
        with store.deferred() as durability_wait:
            for operation in operations:
                self._operation(store, operation)
        return durability_wait.lsn

    def _peek(self, store: Bare, step: Peek) -> bool:
        """Whoever did something sees it at once; somebody else what is durable. Did that one wait?"""
        self._deferred(store, step.operations[: -step.last])
        read = step.at or step.operations[-1]
        with store.deferred():
            for operation in step.operations[-step.last :]:
                self._operation(store, operation)
            if not (read.fits(self.states[-1]) and self.states[-1].tables.keys() >= set(step.beside)):
                return False
            self._compare(step, read, shown(store, read, step.face, step.beside), self.states[-1:])
        found, durable = shown(store, read, step.face, step.beside), store.engine.log.durable
        last = max((i for i, lsn in enumerate(self.lsns) if lsn <= durable), default=0)
        self._compare(step, read, found, self.states[self.acked : max(self.acked, last) + 1])
        return last == self.submitted

    def _compare(self, step: Peek, read: Any, found: Any, states: list[Model]) -> None:
        """One of these was seen."""
        there = [one for one in possible(states) if read.fits(one) and one.tables.keys() >= set(step.beside)]
        if not any(expected(one, read, step.face, step.beside) == found for one in there):
            raise Violation(f"{step.face} of what {read} writes shows {found!r}, and there was {states}")

    def _overtake(self, store: Bare, step: Overtaken) -> None:
        """The second look makes a word hot, or one look a row, unless what was taken meanwhile speaks against it."""
        left = list(step.steps)
        look = partial(store.keyspace(step.space).get, step.key)
        if (step.space + len(step.key)) % 2:  # no draw of its own: seeds keep their histories
            look = partial(self._look_at_rows, store)

        def find_on_disk(lookup: RunSet, *how: Any) -> None:
            LOOK_BELOW(lookup, *how)
            meanwhile = left.copy()
            left.clear()  # these look, too
            for one in meanwhile:
                self.take(store, one)

        look()
        with patch.object(RunSet, "find_on_disk", find_on_disk):
            look()
        for one in left:  # nothing was looked for on file
            self.take(store, one)

    def _look_at_rows(self, store: Bare) -> None:
        """Read all rows, none of which is in the row cache."""
        known = self.states[-1].tables
        for name, table in store.tables().items():
            if table.stack.rows is not None and name in known:
                table.stack.rows.clear()
                table.get(np.array(sorted(known[name].rows), np.int64))

    def _operation(self, store: Bare, operation: Any) -> None:
        before, after = self.states[-1], self.states[-1].copy()
        if not operation.fits(before):
            return  # its table could not be made, there was no room; or it is repeated, and was not lost
        outcomes = [(operation.on_model(one), one) for one in after.possible]
        self.states.append(after)
        self.operations.append(operation)
        self.submitted += 1
        try:
            result = operation.on_store(store)
        except FullError:
            self.states[-1] = before
            return
        finally:
            self.issued = max(self.issued, store.engine.log.lsn)
            self.lsns.append(store.engine.log.lsn)
            if isinstance(operation, Batch) and FULL in operation.results:
                self.states[-1] = before.copy()
                for one in self.states[-1].possible:
                    operation.on_model_without_full(one)
        if FULL not in getattr(operation, "results", ()):
            self._tell_rivals(operation, result, outcomes)

    def _tell_rivals(self, operation: Any, result: Any, outcomes: list[tuple[Any, Model]]) -> None:
        """What an operation gave may tell what the store is; another one it is not then."""
        fitting = [model for expected, model in outcomes if expected == result]
        if not fitting:
            raise Violation(f"{operation} gave {result!r} instead of {outcomes[0][0]!r}")
        if len(outcomes) > 1:
            self.states[-1] = one_of(fitting)  # what shows the same may be told apart later

    # checkpoints and folds

    def _keep_up(self, store: Bare, step: Any) -> None:
        """What the background thread does; where it makes no sense now, nothing."""
        if self.files is None:
            return
        match step:
            case FailMaintenance(fault):
                self.files.disk.arm(fault)
            case Begin(kind, steps) if kind != "checkpoint" or not self._in_checkpoint:
                self._begin(store, kind)
                self._go(store, steps)
            case Checkpoint(fold) if not self._in_checkpoint:
                for kind in ("checkpoint", "fold")[: 1 + fold]:
                    self._begin(store, kind)
                    self._go(store, None)
            case Clean() if not self.running:
                for kind in ("checkpoint", "clean"):
                    self._begin(store, kind)
                    self._go(store, None)
            case Go(steps):
                self._go(store, steps)
            case End():
                self._go(store, None)
            case Abandon() if self.running:
                with contextlib.suppress(FullError, OSError):  # its file cannot be removed
                    self.running.pop().steps.close()

    @property
    def _in_checkpoint(self) -> bool:
        return bool(self.running) and self.running[-1].kind == "checkpoint"

    def _begin(self, store: Bare, kind: str) -> None:
        if self._in_checkpoint:
            return  # folds go around checkpoints, not into them
        maintenance = store.engine.maintenance
        steps = {"checkpoint": maintenance.checkpoint, "fold": maintenance.compact, "clean": maintenance.clean}[kind]()
        self.running.append(Running(kind, steps, self.submitted))

    def _go(self, store: Bare, steps: int | None) -> None:
        """So many steps of the innermost one, or all."""
        inner = self.running[-1] if self.running else None
        while inner is not None and inner in self.running and steps != 0:
            self._step(store, inner)
            steps = None if steps is None else steps - 1
            self.record("step")

    def _step(self, store: Bare, running: Running) -> None:
        assert self.files is not None
        failures = self.files.disk.failed
        try:
            next(running.steps)
        except StopIteration:
            self.running.pop()
            if running.kind == "checkpoint" and not store.engine.log.failed:
                self.acked = max(self.acked, running.submitted)
        except (PmkvError, OSError) as error:
            self.running.pop()
            if store.engine.log.failed:
                raise FlushError("the store has had its last step") from error
            if failures == self.files.disk.failed and not (running.kind == "clean" and isinstance(error, FullError)):
                raise Violation(f"a {running.kind} failed for no reason: {error}") from error
        finally:
            self.issued = max(self.issued, store.engine.log.lsn)

    # the end

    def look(self, store: Bare) -> None:
        """The memory of a store, failed or not, holds what is promised."""
        found, allowed = state_of(store, SPACES), possible(self.states[self.acked : self.submitted + 1])
        if found not in allowed:
            raise Violation(f"the store shows {found}\nwhich is none of {allowed}")
        check_scans(store, found)

    def finish(self, store: Bare) -> None:
        """Nothing comes after this but a crash."""
        self.record("flush")
        try:
            self.look(store)
        except FlushError:  # a flush that was to fail, and that only this look at what is pending has asked for
            self.look(store)
        store.engine.check()
        if store.engine.log.failed:
            with contextlib.suppress(ReadOnlyError):
                store.keyspace(0).put(b"after the failure", b"")
                raise Violation("a store whose medium failed goes on writing")

    def wind_up(self, store: Bare) -> None:
        """A flush failed: what is under way in the background goes on for a while, until it notices."""
        with contextlib.suppress(FlushError):
            self._go(store, UNNOTICED)

    def leave(self) -> None:
        """The process is gone: nobody looks any more."""
        self._watch(None)
        if self.files is not None:
            self.files.disk.arm(None)
        while self.running:
            self.running.pop().steps.close()

    def record(self, stage: str) -> None:
        if stage in ("prepare", "discard", "flush", "rewrite", "step", *STAGES):
            files = self.files.point() if self.files is not None else None
            maintenance = self.engine.maintenance if self.engine is not None else None
            freed = maintenance.cleaner.totals.freed if maintenance is not None else 0
            told = self.states, self.acked, self.submitted, self.issued, freed
            self.points.append(Recorded(self.medium.point(), files, stage, *told))


def open_engine(medium: SimulatedMedium, files: Files | None) -> Engine:
    """As the store opens one."""
    both = (files.catalog, files.shelf) if files is not None else None
    sizes = {"cache_bytes": LOCATION_CACHE_BYTES, "rows": ROW_CACHE_BYTES if both else 0}
    return Engine(Pool.load(medium), now=lambda: NOW, files=both, **sizes)
