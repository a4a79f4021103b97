"""Interrupts: an exception is raised at a step of an operation, as Ctrl-C or a lack of memory would raise it.

A *step* is the beginning of a Python function, or the return from one that is written in C: there CPython delivers
signals. After it the open store must show a state from before or after the operation, hold no lock, go on working, and
reopening must give the same state.

    python -m tests.crash.interrupt --rounds 10000
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from unittest.mock import patch

import numpy as np

from pmkv.errors import AbortedError, FullError
from pmkv.log.atomic_writes import AtomicWrites
from pmkv.log.segments import Pool
from pmkv.maintenance.checkpoint import Checkpointer
from pmkv.media.simulated import SimulatedMedium
from tests.crash.explore import Knobs, Violation, reproducible
from tests.crash.files import Files
from tests.crash.histories import Generator, bound_of
from tests.crash.life import SPACES, open_engine, possible
from tests.crash.model import Model, one_of
from tests.crash.operations import Bare, Batch, Transaction, check_scans, state_of

OPERATIONS_OF_A_HISTORY = 40
LONGEST = 3000  # steps; an operation that takes more is interrupted within these
TWICE = 0.3  # the share of interrupts after which another one comes soon
CRASHES = 0.15  # the share of interrupts after which the power may go
CALM = 0.4  # the share of operations that are left alone, so that there is something to lose
KINDS = (KeyboardInterrupt, MemoryError)
# The ends of a block `with store.batch()`, which is for programs that keep signals away.
LETTING_GO = ("__del__", "<genexpr>")
take_back, follow = AtomicWrites._abort, Checkpointer._adopt
ENDS_OF_A_BATCH = ("__enter__", "__exit__", "begin_batch", "end_batch", "release")


class Interrupter:
    """Raises at given steps of what runs inside `armed`. raised: how often it did; steps: how many there were."""

    def __init__(self, at: list[int], kind: type[BaseException]) -> None:
        self.at, self.kind, self.steps, self.raised = set(at), kind, 0, 0

    @contextlib.contextmanager
    def armed(self) -> Iterator[None]:
        def abort(writes: AtomicWrites, *how: Any) -> None:
            sys.setprofile(self._step)  # CPython takes away a profile function that raised
            take_back(writes, *how)

        with patch.object(AtomicWrites, "_abort", abort):
            sys.setprofile(self._step)
            try:
                yield
            finally:
                sys.setprofile(None)

    def _step(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ("call", "c_return") or not is_of_engine(frame, event):
            return
        self.steps += 1
        if self.steps in self.at:
            self.raised += 1
            raise self.kind(f"at step {self.steps}")


def is_of_engine(frame: FrameType, event: str) -> bool:
    """Is this a step of the engine, and not of one end of a batch that a test writes as a block? Python ignores what is
    raised where a generator or an object is let go."""
    code, caller = frame.f_code, frame.f_back
    at_an_end = code.co_name in ENDS_OF_A_BATCH or (caller is not None and caller.f_code.co_name in ENDS_OF_A_BATCH)
    return "/pmkv/" in code.co_filename and code.co_name not in LETTING_GO and not at_an_end


@dataclass
class Outcomes:
    """What became of interrupted operations."""

    rounds: int = 0
    interrupted: int = 0
    twice: int = 0
    before: int = 0
    after: int = 0
    reopened: int = 0
    images: int = 0  # of crashes after an interrupt
    kinds: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
        return (
            f"{self.rounds:,} operations, {self.interrupted:,} interrupted, {self.twice:,} of them twice: "
            f"{self.before:,} left the state before, {self.after:,} that after; {self.reopened:,} reopened, "
            f"{self.images:,} images of crashes; {kinds}"
        )


class InterruptedHistory:
    """A store on a simulated medium, and operations of which most are interrupted."""

    def __init__(self, seed: int, outcomes: Outcomes) -> None:
        self.seed, self.outcomes, self.rng = seed, outcomes, random.Random(seed)
        drawn = Knobs.drawn(self.rng, segments=40, room=None, left=None, views=self.rng.choice((0, 3)))
        self.medium = SimulatedMedium(4096 + drawn.segments * drawn.segment, drawn.granularity)
        pool = Pool.create(self.medium, drawn.segment)
        self.files = Files(pool.pool_id) if drawn.tier is not None else None
        self.generator = Generator(self.rng, 2 * drawn.segment // 4 + 100, False, drawn.views)
        self.model = Model()
        self.lengths: dict[type, int] = {}  # steps that an operation of a kind took, of late
        self.noise = np.random.default_rng(seed)
        self.issued = 0  # the highest LSN so far
        self.is_checkpointing = False

    def run(self, rounds: int) -> None:
        with reproducible(self.seed):
            self.store = Bare(open_engine(self.medium, self.files))
            for _ in range(rounds):
                self._round()
            self._reopen()

    def _round(self) -> None:
        if self.files is not None and not self.is_checkpointing and self.rng.random() < 0.2:
            self._checkpoint()
        operation = self._operation()
        before, after = self.model, self.model.copy()
        results = [(operation.on_model(one), one) for one in after.possible]
        interrupter = self._interrupter(operation)
        self.outcomes.rounds += 1
        self.outcomes.kinds[type(operation).__name__] += 1
        caught: BaseException | None = None
        try:
            with interrupter.armed():
                result = operation.on_store(self.store)
        except FullError:
            after = before
        except (*KINDS, AbortedError) as error:
            caught = error  # as a notebook keeps it
        else:
            after = one_of([model for expected, model in results if expected == result]) if results else after
        self.lengths[type(operation)] = max(interrupter.steps, 50)
        self._judge(operation, before, after, caught, interrupter)

    def _operation(self) -> Any:
        dice = self.rng.random()
        if dice < 0.75:
            return self.generator.operation(self.model.copy())
        model = self.model.copy()
        steps = self.generator._several(model, definitions=dice < 0.87)
        return Batch(steps, bound_of(steps)) if dice < 0.87 else Transaction(steps)

    def _interrupter(self, operation: Any) -> Interrupter:
        if self.rng.random() < CALM:
            return Interrupter([], KeyboardInterrupt)
        longest = min(LONGEST, self.lengths.get(type(operation), 200))
        at = [self.rng.randrange(1, longest + 20)]
        while self.rng.random() < TWICE:
            at.append(at[-1] + 1 + int(self.rng.expovariate(1 / 60)))
        return Interrupter(at, self.rng.choice(KINDS))

    def _judge(
        self, operation: Any, before: Model, after: Model, caught: BaseException | None, interrupter: Interrupter
    ) -> None:
        where = f"seed {self.seed}: {operation!r}, interrupted at {sorted(interrupter.at)}"
        self._no_lock_is_held(where)
        try:
            found = state_of(self.store, SPACES)
            self.store.engine.check()
            check_scans(self.store, found)
        except Exception as error:
            raise Violation(f"{where}: {error!r}") from error
        if interrupter.raised and self.rng.random() < CRASHES:
            self._crash(found, where)
        was, became = found in before.possible, found in after.possible
        if caught is None and not became and interrupter.raised == 0:
            raise Violation(f"{where}: shows {found}\ninstead of {after}")
        if not (was or became):
            raise Violation(f"{where}: shows {found}\nwhich is neither {before}\nnor {after}")
        if interrupter.raised:
            self.outcomes.interrupted += 1
            self.outcomes.twice += interrupter.raised > 1
            self.outcomes.after += became
            self.outcomes.before += was and not became
        models = [one for one in possible([before, after] if caught else [after]) if one == found]
        self.model = one_of(models)

    def _no_lock_is_held(self, where: str) -> None:
        log = self.store.engine.log
        log.access.finish_interrupted()
        if log.lsn < self.issued:
            raise Violation(f"{where}: goes on with LSN {log.lsn}, but {self.issued} was given out before")
        self.issued = log.lsn
        locks = {"append": log.locks.append, "publish": log.locks.publish, "state": log.locks.state}
        held = [name for name, lock in locks.items() if lock.is_held]
        if held or log.group_commit._flushing.locked():
            raise Violation(f"{where}: locks are held: {held or 'flush'}")
        if log.thread.durability_wait is not None or log.appender.batch_depth:
            raise Violation(f"{where}: later writes of this thread would not wait")

    def _checkpoint(self) -> None:
        """Take a checkpoint, perhaps one that a lack of memory ends, anywhere or while memory follows it. Between its
        steps, and those of compactions and of the cleaner, operations are interrupted, too."""
        maintenance = self.store.engine.maintenance
        anywhere = Interrupter([self.rng.randrange(1, 2000)] if self.rng.random() < 0.3 else [], MemoryError)
        within = Interrupter([self.rng.randrange(1, 60)] if self.rng.random() < 0.4 else [], MemoryError)

        def adopt(checkpointer: Checkpointer, *how: Any) -> None:
            with within.armed() if within.at else contextlib.nullcontext():
                follow(checkpointer, *how)

        try:
            with anywhere.armed(), patch.object(Checkpointer, "_adopt", adopt):
                for steps in (maintenance.checkpoint(), maintenance.compact(), maintenance.clean()):
                    for _ in steps:
                        self._look_in()
        except (MemoryError, AbortedError):
            self.outcomes.kinds["checkpoint interrupted"] += 1

    def _look_in(self) -> None:
        """Run an operation between two steps of a checkpoint, now and then."""
        if self.rng.random() < 0.2:
            self.is_checkpointing = True
            try:
                self._round()
            finally:
                self.is_checkpointing = False

    def _crash(self, found: Model, where: str) -> None:
        """What was read after an interrupt is what any crash leaves."""
        files, point = self._files(), self.medium.point()
        for mask in point.masks(4, self.noise):
            again = state_of(Bare(open_engine(point.medium(mask), files)), SPACES)
            self.outcomes.images += 1
            if again != found:
                raise Violation(f"{where}: showed {found}\nand after a crash {again}")

    def _files(self) -> Files | None:
        return self.files.point().outcome(self.noise) if self.files is not None else None

    def _reopen(self) -> None:
        """What another process finds is what this one shows."""
        log = self.store.engine.log
        log.flush(log.lsn)
        point = self.medium.point()
        again = Bare(open_engine(point.medium(np.ones(len(point.units), bool)), self._files()))
        found = state_of(again, SPACES)
        if found not in self.model.possible:
            raise Violation(f"seed {self.seed}: reopened, shows {found}\ninstead of {self.model}")
        again.engine.check()
        self.outcomes.reopened += 1


def interrupt(rounds: int, seed: int) -> Outcomes:
    """Interrupt so many operations, of histories from a seed on."""
    outcomes = Outcomes()
    while outcomes.interrupted < rounds:
        InterruptedHistory(seed, outcomes).run(OPERATIONS_OF_A_HISTORY)
        seed += 1
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(interrupt(arguments.rounds, arguments.seed))
