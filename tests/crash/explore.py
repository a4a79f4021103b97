"""Exploration: a history runs on a simulated medium, and images that a crash can leave are recovered and compared.

A *life* is one opening of the store, and the steps that it took. At each of its persistence points (before anything is
made durable, while it recovers and while it serves) the power may go. What is recovered from any image must equal the
model after a prefix of the operations that holds every acknowledged one, and goes on with LSNs never used before. From
some images a crash during recovery is tried as well, and from one of them the next life begins: its model is what was
recovered, and its first steps are those that were lost, as a client repeats what was not acknowledged.

Everything follows from the seed: `python -m tests.crash.explore SEED` tells one history step by step.
"""

from __future__ import annotations

import contextlib
import json
import random
import secrets
import sys
import tempfile
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import pmkv
from pmkv import directory
from pmkv import engine as engine_module
from pmkv.engine import Engine
from pmkv.errors import FlushError, FullError, ReadOnlyError
from pmkv.log.format import VERSION
from pmkv.log.pool import Pool
from pmkv.media.base import Granularity
from pmkv.media.simulated import CrashPoint, SimulatedMedium, Stage
from tests.crash.damage import silent_damage
from tests.crash.histories import FailFlush, Generator, Group, Mark, Peek
from tests.crash.operations import FULL, Bare, Batch, Model, Put, peek, state_of

LIVES = 3  # in one history
SPACES = 4  # keyspaces that histories write to have numbers below
FULL_OPENS = 0.01  # the share of images that are opened as files too, where there is a folder for them
DAMAGES = 8  # tried after each life
NOW = 1_700_000_000_000  # the clock stands: two operations alike make two frames alike
DISK_ERRORS = (OSError, FlushError)


@dataclass(frozen=True)
class Knobs:
    """How small the world is, and how hard one point is looked at."""

    segment: int = 4096
    segments: int = 14
    steps: int = 7
    images: int = 24  # at most, of one point
    granularity: Granularity = Granularity.PAGE
    twice: float = 0.08  # the share of images whose recovery is interrupted too
    room: int | None = None  # bytes that the disk has
    left: int | None = None  # segments that are free when the history begins; 0: as few as writes may leave

    @classmethod
    def drawn(cls, rng: random.Random, **fixed: Any) -> Knobs:
        segments = rng.choice((5, 8, 14, 14))
        drawn = {
            "segments": segments,
            "steps": rng.randrange(4, 11),
            "granularity": rng.choice(list(Granularity)),
            "room": rng.choice((None, None, None, 4096 * (segments - 1))),
            "left": rng.choice((None, None, None, 0, 3, 4)),
        }
        return cls(**drawn | fixed)


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Counts:
    histories: int = 0
    lives: int = 0
    operations: int = 0
    points: int = 0
    images: int = 0  # on which the engine's own replay ran, and whose whole state was compared
    twice: int = 0  # of these, after a crash during recovery
    damages: int = 0  # to what was acknowledged, each noticed
    opened: int = 0  # of the images, as files in a data directory

    def add(self, other: Counts) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def __str__(self) -> str:
        return ", ".join(f"{value:,} {name}" for name, value in vars(self).items())


@dataclass(frozen=True)
class Recorded:
    """A point, and what a recovery from it may find."""

    point: CrashPoint
    stage: str
    states: list[Model]  # shared by a life's points, and growing
    acked: int
    submitted: int
    issued: int  # the highest LSN given out

    @property
    def allowed(self) -> list[Model]:
        return self.states[self.acked : self.submitted + 1]


@dataclass
class Life:
    """One opening of a store on a medium, and what happened to it."""

    medium: SimulatedMedium
    states: list[Model]  # what may be found; once open, what was found and what became of it
    issued: int = 0
    acked: int = 0
    submitted: int = 0
    points: list[Recorded] = field(default_factory=list)
    steps: list[Any] = field(default_factory=list)
    operations: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.submitted = len(self.states) - 1

    def open(self, watched: bool = True) -> Bare:
        if watched:
            self.medium.on_point = self.record
        engine = Engine(Pool.load(self.medium), now=lambda: NOW)
        found = state_of(Bare(engine), SPACES)
        if found not in self.states:
            raise Violation(f"recovered {found}\nwhich is none of {self.states}")
        if engine.log.lsn <= self.issued:
            raise Violation(f"goes on with LSN {engine.log.lsn}, but {self.issued} was given out before")
        self.states, self.acked, self.submitted = [found], 0, 0  # it may have been read: now it is promised
        self.issued = engine.log.lsn
        return Bare(engine)

    def take(self, store: Bare, step: Any) -> None:
        """Take one step. FlushError: the store has had its last one."""
        self.steps.append(step)
        if isinstance(step, FailFlush):
            self.medium.evicted = step.evicted
            self.medium.fail_flush(1, step.reached, step.seed)
        elif isinstance(step, Mark):
            with contextlib.suppress(FullError):
                store.mark()
        else:
            self._wait_for(store, step)

    def _wait_for(self, store: Bare, step: Any) -> None:
        """Take a step that is acknowledged at its end, and all before it. What changed nothing waits for nothing."""
        before, behind = self.states[-1], self.acked < self.submitted
        if isinstance(step, Peek):
            waited = self._peek(store, step)
        elif isinstance(step, Group):
            store.wait(self._deferred(store, step.operations))
            waited = not behind or self.states[-1] != before
        else:
            self._operation(store, step)
            waited = not behind or self.states[-1] != before
        if waited:
            self.acked = self.submitted

    def _deferred(self, store: Bare, operations: tuple[Any, ...]) -> int:
        with store.deferred() as deferral:
            for operation in operations:
                self._operation(store, operation)
        return deferral.lsn

    def _peek(self, store: Bare, step: Peek) -> bool:
        self._deferred(store, step.operations[:-1])
        before = self.states[-1]
        self._deferred(store, step.operations[-1:])
        peek(store, step.operations[-1], step.face)
        return self.states[-1] != before

    def _operation(self, store: Bare, operation: Any) -> None:
        before, after = self.states[-1], self.states[-1].copy()
        if not operation.fits(before):
            return  # its table could not be made, there was no room; or it is repeated, and was not lost
        expected = operation.on_model(after)
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
            if isinstance(operation, Batch) and FULL in operation.results:
                self.states[-1] = before.copy()
                operation.on_model_without_full(self.states[-1])
        if result != expected and FULL not in getattr(operation, "results", ()):
            raise Violation(f"{operation} gave {result!r} instead of {expected!r}")

    def finish(self, store: Bare) -> None:
        """The memory of a store, failed or not, holds what is promised."""
        self.record("flush")
        try:
            found = state_of(store, SPACES)
        except FlushError:  # a flush that was to fail, and that only this look at what is pending has asked for
            found = state_of(store, SPACES)
        allowed = self.states[self.acked : self.submitted + 1]
        if found not in allowed:
            raise Violation(f"the store shows {found}\nwhich is none of {allowed}")
        if store.engine.log.failed:
            with contextlib.suppress(ReadOnlyError):
                store.keyspace(0).put(b"after the failure", b"")
                raise Violation("a store whose medium failed goes on writing")

    def record(self, stage: Stage) -> None:
        if stage in ("prepare", "flush", "rewrite"):
            point = self.medium.point()
            self.points.append(Recorded(point, stage, self.states, self.acked, self.submitted, self.issued))


class History:
    """Everything that one seed stands for."""

    def __init__(
        self, seed: int, knobs: Knobs | None = None, rng: random.Random | None = None, folder: Path | None = None,
        told: bool = False,
    ) -> None:  # fmt: skip
        """rng: decides on the steps; folder: where some of the images are opened as files; told: print every step."""
        self.seed, self.folder, self.told = seed, folder, told
        self.rng = rng or random.Random(seed)
        self.noise = np.random.default_rng(seed)
        self.knobs = knobs or Knobs.drawn(self.rng)
        self.generator = Generator(self.rng, 2 * self.knobs.segment // 4 + 100)
        self.counts = Counts(histories=1)

    def explore(self) -> Counts:
        with reproducible(self.seed):
            life = self._first()
            for _ in range(LIVES):
                self._live(life)
                for recorded in life.points:
                    self._look(recorded, self.knobs.images)
                life = self._next(life)
        return self.counts

    def _first(self) -> Life:
        """The life in a pool just made (its header is durable before the data directory knows it), or almost full."""
        knobs = self.knobs
        medium = SimulatedMedium(4096 + knobs.segments * knobs.segment, knobs.granularity, room=knobs.room)
        pool, model = Pool.create(medium, knobs.segment), Model()
        if knobs.left is not None:
            engine = Engine(pool, now=lambda: NOW)
            for size in (900, 100, 0):
                fill(Bare(engine), model, size, knobs.left)
        return Life(medium, [model])

    def _live(self, life: Life) -> None:
        retried = life.operations[: self.rng.randrange(4)]
        life.operations = []
        store = life.open()
        self._tell(f"life {self.counts.lives} on {life.medium.granularity.word}: opened with {life.states[0]}")
        try:
            with contextlib.suppress(FlushError):
                for operation in retried:
                    life.take(store, operation)
                for _ in range(self.knobs.steps):
                    life.take(store, self.generator.step(life.states[-1].copy()))
            life.finish(store)
            self._damage(life, store)
        finally:
            self._tell(*map(repr, life.steps))
        self.counts.lives += 1
        self.counts.operations += life.submitted

    def _damage(self, life: Life, store: Bare) -> None:
        """Whatever happens to what a MARK proves durable is noticed."""
        with contextlib.suppress(FullError, FlushError):
            life.finish(store)  # a reader has waited for everything
            store.mark()
        if store.engine.log.failed or not store.engine.log.is_idle:
            return
        for what in silent_damage(life.medium, life.states[-1], SPACES, self.rng, DAMAGES):
            raise Violation(f"seed {self.seed}, life {self.counts.lives}: damage went unnoticed: {what}")
        self.counts.damages += DAMAGES

    def _next(self, life: Life) -> Life:
        """What comes after one of the crashes; the operations that it may have lost are to be repeated."""
        recorded = self.rng.choice(life.points[-4:] if self.rng.random() < 0.7 else life.points)
        masks = recorded.point.masks(8, self.noise)
        mask = masks[self.rng.randrange(len(masks))]
        medium = recorded.point.medium(mask, self._reached(mask))
        medium.room = life.medium.room
        lost = life.operations[recorded.acked : recorded.submitted]
        return Life(medium, recorded.allowed, recorded.issued, operations=lost)

    # --- images

    def _look(self, recorded: Recorded, limit: int) -> None:
        """Recover from images of one point."""
        self.counts.points += 1
        for mask in recorded.point.masks(limit, self.noise):
            twice = self.rng.random() < self.knobs.twice
            self._recover(recorded, mask, self._reached(mask) if twice else None, twice)

    def _recover(self, recorded: Recorded, mask: np.ndarray, reached: np.ndarray | None, twice: bool) -> None:
        life = Life(recorded.point.medium(mask, reached), recorded.allowed, recorded.issued)
        try:
            if twice:
                self._open_and_fail(life)
            else:
                life.open(watched=False)
        except Exception as error:
            raise Violation(f"{self._place(recorded, mask, reached)}: {error}") from error
        self.counts.images += 1
        if self.folder is not None and self.noise.random() < FULL_OPENS:
            self._open_as_file(recorded, mask)
        for inner in life.points:
            for again in inner.point.masks(3, self.noise):
                self.counts.twice += 1
                self._recover(inner, again, None, False)

    def _open_as_file(self, recorded: Recorded, mask: np.ndarray) -> None:
        """The whole way: a data directory with this image as its pool, opened by pmkv.open."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            image = recorded.point.medium(mask)
            place(Path(folder), image)
            with pmkv.open(folder, capacity=len(image.data)) as store:
                found = state_of(store, SPACES)
        if found not in recorded.allowed:
            raise Violation(f"{self._place(recorded, mask, None)}: opened as a file it shows {found}")
        self.counts.opened += 1

    def _open_and_fail(self, life: Life) -> None:
        """Recover, perhaps with a disk error on the way; every point of it, and the end, is a point to crash at."""
        failing = self.rng.random() < 0.2
        if failing:
            life.medium.fail_flush(self.rng.randrange(1, 3), "some", self.rng.randrange(1 << 30))
        with contextlib.suppress(*DISK_ERRORS if failing else ()):
            life.open()
        life.record("flush")

    def _reached(self, mask: np.ndarray) -> np.ndarray | None:
        """Half of the time the process dies and the machine lives: part of what the next one sees may still be lost."""
        return self.noise.random(len(mask)) < self.noise.random() if self.rng.random() < 0.5 else None

    def _place(self, recorded: Recorded, mask: np.ndarray, reached: np.ndarray | None) -> str:
        kind = "power cut" if reached is None else "death of the process, then a power cut"
        return (
            f"seed {self.seed}, life {self.counts.lives}, {kind} at {recorded.stage} after {recorded.acked} of "
            f"{recorded.submitted} operations, units {recorded.point.units[mask].tolist()}"
        )

    def _tell(self, *lines: str) -> None:
        if self.told:
            print(*lines, sep="\n    ")


def place(folder: Path, image: SimulatedMedium) -> None:
    """Make a data directory whose pool is this image."""
    identity = {"format": VERSION, "pool_id": Pool.load(image).pool_id.hex()}
    (folder / directory.IDENTITY).write_text(json.dumps(identity))
    (folder / "pool").write_bytes(image.data.tobytes())


def fill(store: Bare, model: Model, size: int, left: int) -> None:
    """Write one key until so few segments are free, or no room is left for a value of this size."""
    with contextlib.suppress(FullError):
        while store.engine.pool.free > left:
            put = Put(0, b"filler", bytes(size))
            put.on_store(store)
            put.on_model(model)


@contextlib.contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Ids and nonces of the engine follow from the seed; it has as many keyspaces as are looked at, to be quick."""
    rng = random.Random(seed)
    with patch.object(secrets, "token_bytes", lambda size=32: rng.randbytes(size)):
        with patch.object(engine_module, "KEYSPACES", SPACES):
            yield


def explore(seed: int, knobs: Knobs | None = None, folder: Path | None = None) -> Counts | str:
    """Counts, or what went wrong in words, with the seed."""
    history = History(seed, knobs, folder=folder)
    try:
        return history.explore()
    except Exception as error:
        text = "".join(traceback.format_exception(error)[-12:])
        return f"seed {seed} ({history.counts}): {error}\nagain: python -m tests.crash.explore {seed}\n{text}"


def explore_for(images: int, first_seed: int, folder: Path | None = None) -> tuple[Counts, list[str]]:
    """Histories from a seed on, on two cores, until so many images were compared or one history failed."""
    total, failures, seeds = Counts(), [], count(first_seed)
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        running = {pool.submit(explore, next(seeds), folder=folder) for _ in range(4)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for outcome in (future.result() for future in done):
                failures.append(outcome) if isinstance(outcome, str) else total.add(outcome)
            if total.images < images and not failures:
                running |= {pool.submit(explore, next(seeds), folder=folder) for _ in done}
    return total, failures


if __name__ == "__main__":
    for seed in map(int, sys.argv[1:]):
        print(History(seed, told=True).explore())
