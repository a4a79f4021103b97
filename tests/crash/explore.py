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
import gc
import json
import random
import secrets
import sys
import tempfile
import traceback
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import chain, count
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import pmkv
from pmkv import data_directory
from pmkv.catalog.key_directory import PREFIX, Key, group_of
from pmkv.catalog.lmdb_catalog import LmdbCatalog
from pmkv.engine import engine, table
from pmkv.engine import open_view as contents
from pmkv.engine import version_plan as plans
from pmkv.engine.engine import Engine
from pmkv.errors import FlushError, FullError
from pmkv.index.run_files import SUFFIX
from pmkv.log import appender as log_appender
from pmkv.log.format import VERSION
from pmkv.log.segments import Pool
from pmkv.maintenance import cleaning, memory_merge
from pmkv.maintenance import compaction_policy as fold_module
from pmkv.media.base import Granularity
from pmkv.media.simulated import SimulatedMedium
from pmkv.versions import view_set as heads
from tests.crash.damage import silent_damage, silent_loss
from tests.crash.derived import mixtures
from tests.crash.files import STAGES, Files
from tests.crash.histories import Generator
from tests.crash.life import NOW, SPACES, Life, Recorded, Violation
from tests.crash.operations import Bare, Model, Put, check_scans, state_of

LONG_STORE = 64  # bytes of a body that go the medium's own way
LIVES = 3  # in one history
FULL_OPENS = 0.01  # the share of images that are opened as files too, where there is a folder for them
SCANS = 0.1  # the share whose scans are compared in every direction
DAMAGES = 8  # tried after each life
FEW = 3  # images of a point where only catalog and files are at risk
MANY = ("create", "write", "step", "remove", "removed")  # stages with many points
SOME = 0.3  # the share of them that is looked at
DISK_ERRORS = (OSError, FlushError)


@dataclass(frozen=True)
class Knobs:
    """How small the world is, and how hard one point is looked at."""

    segment: int = 4096
    segments: int = 14
    steps: int = 7
    images: int = 24  # at most, of one point; 0: only those from which the next lives begin
    granularity: Granularity = Granularity.PAGE
    twice: float = 0.08  # the share of images whose recovery is interrupted too
    room: int | None = None  # bytes that the disk has
    left: int | None = None  # segments that are free when the history begins; 0: as few as writes may leave
    tier: int | None = 2  # so many runs of about one size are folded; None: there is no catalog, and no checkpoint
    views: int = 0  # at most, and `undo`
    cleans: bool = False  # often

    @classmethod
    def drawn(cls, rng: random.Random, **fixed: Any) -> Knobs:
        segments = rng.choice((5, 8, 14, 14))
        drawn = {
            "segments": segments,
            "steps": rng.randrange(4, 11),
            "granularity": rng.choice(list(Granularity)),
            "room": rng.choice((None, None, None, 4096 * (segments - 1))),
            "left": rng.choice((None, None, None, 0, 3, 4)),
            "tier": rng.choice((None, 2, 2, 3)),
            "views": rng.choice((0, 0, 0, 2, 3)),
        }
        return cls(**drawn | fixed)


@dataclass
class Counts:
    histories: int = 0
    lives: int = 0
    operations: int = 0
    points: int = 0
    images: int = 0  # on which the engine's own replay ran, and whose whole state was compared
    twice: int = 0  # of these, after a crash during recovery
    checkpoints: int = 0
    folds: int = 0
    freed: int = 0  # segments, by passes of the cleaner
    damages: int = 0  # to what was acknowledged, each noticed
    mixtures: int = 0  # of pool, catalog and files of different moments, each right or refused
    refused: int = 0  # of these
    opened: int = 0  # of the images, as files in a data directory

    def add(self, other: Counts) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def __str__(self) -> str:
        return ", ".join(f"{value:,} {name}" for name, value in vars(self).items())


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
        large = 2 * self.knobs.segment // 4 + 100
        self.generator = Generator(self.rng, large, self.knobs.tier is not None, self.knobs.views, self.knobs.cleans)
        self.past: list[Recorded] = []  # points of earlier lives
        self.counts = Counts(histories=1)

    def explore(self) -> Counts:
        with reproducible(self.seed, self.knobs.tier or 2):
            life = self._first()
            for _ in range(LIVES):
                self._live(life)
                for recorded in life.points:
                    self._look(recorded, self.knobs.images)
                self._mix(life)
                life = self._next(life)
        return self.counts

    def _first(self) -> Life:
        """The life in a pool just made (its header is durable before the data directory knows it), or almost full."""
        knobs = self.knobs
        medium = SimulatedMedium(4096 + knobs.segments * knobs.segment, knobs.granularity, room=knobs.room)
        pool, model = Pool.create(medium, knobs.segment), Model()
        if knobs.left is not None:
            store = Bare(Engine(pool, now=lambda: NOW))
            for size in (900, 100, 0):
                fill(store, model, size, knobs.left)
        return Life(medium, [model], files=Files(pool.pool_id) if knobs.tier is not None else None)

    def _live(self, life: Life) -> None:
        retried = life.operations[: self.rng.randrange(4)]
        life.operations = []
        store = life.open()
        self._tell(f"life {self.counts.lives} on {life.medium.granularity.word}: opened with {life.states[0]}")
        try:
            try:
                for operation in retried:
                    life.take(store, operation)
                for _ in range(self.knobs.steps * (1 if life.files is None else 2)):
                    life.take(store, self.generator.step(life.states[-1].copy()))
            except FlushError:
                life.wind_up(store)
            life.finish(store)
            life.leave()
            self._damage(life, store)
        finally:
            self._tell(*map(repr, life.steps))
        if store.engine.maintenance is not None:
            self.counts.checkpoints += store.engine.maintenance.checkpoints
            self.counts.folds += store.engine.maintenance.compactions
            self.counts.freed += store.engine.maintenance.cleaner.totals.freed
        self.counts.lives += 1
        self.counts.operations += life.submitted

    def _damage(self, life: Life, store: Bare) -> None:
        """Whatever happens to what a MARK proves durable is noticed."""
        with contextlib.suppress(FullError, FlushError):
            life.finish(store)  # a reader has waited for everything
            store.mark()
        if store.engine.log.failed or not store.engine.log.is_idle:
            return
        pool, state = store.engine.pool, life.states[-1]
        silent: Iterator[str] = iter(())
        if not pool.reused and max(pool.generations.values()) == 1:  # else the log alone is not all that there is
            silent = silent_damage(life.medium, state, SPACES, self.rng, DAMAGES)
        if life.files is not None:
            silent = chain(silent, silent_loss(life.medium, life.files, pool, state, SPACES, self.rng, DAMAGES))
        for what in silent:
            raise Violation(f"seed {self.seed}, life {self.counts.lives}: damage went unnoticed: {what}")
        self.counts.damages += DAMAGES

    def _mix(self, life: Life) -> None:
        """Catalog and files of one moment beside the pool of another: backups that were put back."""
        if life.files is None:
            return
        for what in mixtures(life.points, self.past, self.noise, self.counts):
            raise Violation(f"seed {self.seed}, life {self.counts.lives}: {what}")
        self.past += self.rng.sample(life.points, min(8, len(life.points)))

    def _next(self, life: Life) -> Life:
        """What comes after one of the crashes; the operations that it may have lost are to be repeated."""
        recorded = self.rng.choice(life.points[-4:] if self.rng.random() < 0.7 else life.points)
        masks = recorded.point.masks(8, self.noise)
        mask = masks[self.rng.randrange(len(masks))]
        medium = recorded.point.medium(mask, self._reached(mask))
        medium.room = life.medium.room
        lost = life.operations[recorded.acked : recorded.submitted]
        files = recorded.files.outcome(self.noise) if recorded.files is not None else None
        return Life(medium, recorded.allowed, recorded.issued, files, operations=lost)

    # --- images

    def _look(self, recorded: Recorded, limit: int) -> None:
        """Recover from images of one point. Of those where most often nothing is at risk, from some."""
        if limit == 0 or (recorded.stage in MANY and self.noise.random() > SOME):
            return
        self.counts.points += 1
        masks = recorded.point.masks(min(limit, FEW) if recorded.stage in STAGES else limit, self.noise)
        if recorded.files is not None and not recorded.files.is_certain:
            masks = np.resize(masks, (max(FEW, len(masks)), masks.shape[1]))
        for mask in masks:
            twice = self.rng.random() < self.knobs.twice
            self._recover(recorded, mask, self._reached(mask) if twice else None, twice)

    def _recover(self, recorded: Recorded, mask: np.ndarray, reached: np.ndarray | None, twice: bool) -> None:
        files = recorded.files.outcome(self.noise) if recorded.files is not None else None
        life = Life(recorded.point.medium(mask, reached), recorded.allowed, recorded.issued, files)
        try:
            if twice:
                self._open_and_fail(life)
            else:
                store = life.open(watched=False)
                if self.noise.random() < SCANS:
                    check_scans(store, life.states[-1])
        except Exception as error:
            raise Violation(f"{self._place(recorded, mask, reached)}: {error}") from error
        self.counts.images += 1
        if self.folder is not None and self.noise.random() < FULL_OPENS:
            self._open_as_file(recorded, mask, recorded.files.outcome(self.noise) if recorded.files else None)
        for inner in life.points:
            for again in inner.point.masks(3, self.noise):
                self.counts.twice += 1
                self._recover(inner, again, None, False)

    def _open_as_file(self, recorded: Recorded, mask: np.ndarray, files: Files | None) -> None:
        """The whole way: a data directory with this image as its pool, catalog and runs, opened by pmkv.open."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            image = recorded.point.medium(mask)
            place(Path(folder), image, files)
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


def place(folder: Path, image: SimulatedMedium, files: Files | None) -> None:
    """Make a data directory whose pool is this image, with the catalog and runs that go with it."""
    identity = {"format": VERSION, "pool_id": Pool.load(image).pool_id.hex()}
    (folder / data_directory.IDENTITY).write_text(json.dumps(identity))
    (folder / "pool").write_bytes(image.data.tobytes())
    if files is None:
        return
    (folder / "runs").mkdir()
    for name in files.shelf.names():
        assert name.endswith(SUFFIX)
        (folder / "runs" / name).write_bytes(files.shelf.files[name].data)
    if (state := files.catalog.load()) is not None:
        catalog = LmdbCatalog(folder, files.pool_id)
        catalog.commit(state, map(key_of, files.catalog._entries))
        catalog.close()


def key_of(entry: bytes) -> Key:
    """A key that has this entry in the directory of keys."""
    group = group_of(entry)
    if group is None:
        return entry[0], entry[1:], 0
    return entry[0], group[1:].ljust(PREFIX + 1), int.from_bytes(entry[-8:], "big")


def fill(store: Bare, model: Model, size: int, left: int) -> None:
    """Write one key until so few segments are free, or no room is left for a value of this size."""
    with contextlib.suppress(FullError):
        while store.engine.pool.free > left:
            put = Put(0, b"filler", bytes(size))
            put.on_store(store)
            put.on_model(model)


@contextlib.contextmanager
def reproducible(seed: int, tier: int = 2) -> Iterator[None]:
    """Ids and nonces of the engine follow from the seed; it has as many keyspaces as are looked at, to be quick; and it
    folds so few runs that histories come to it."""
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:
        for target, attribute, value in (
            (secrets, "token_bytes", lambda size=32: rng.randbytes(size)),
            (secrets, "randbits", rng.getrandbits),
            *((module, "KEYSPACES", SPACES) for module in (engine, contents, plans, heads)),
            (log_appender, "LARGE_BODY_BYTES", LONG_STORE),
            (fold_module, "TIER", tier),
            (fold_module, "SPAN_TIER", tier),
            (fold_module, "QUIET_TIER", tier),
            (table, "FEW_ELEMENTS", 1),
            (fold_module, "MOST", 4),
            (memory_merge, "MANY_MEMTABLES", 1 if seed % 2 else 8),
            (cleaning, "MOST_MOVED", 1.0 if seed % 4 > 1 else 0.5),  # of small layers mostly much is moved
        ):
            stack.enter_context(patch.object(target, attribute, value))
        yield


def explore(seed: int, knobs: Knobs | None = None, folder: Path | None = None) -> Counts | str:
    """Counts, or what went wrong in words, with the seed."""
    history = History(seed, knobs, folder=folder)
    try:
        return history.explore()
    except Exception as error:
        text = "".join(traceback.format_exception(error)[-12:])
        return f"seed {seed} ({history.counts}): {error}\nagain: python -m tests.crash.explore {seed}\n{text}"


def collect_less() -> None:
    """Engines are garbage in cycles: a tenth of the time went into looking for it, among all that was imported, too."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000, 5, 5)


def explore_for(images: int, first_seed: int, folder: Path | None = None) -> tuple[Counts, list[str]]:
    """Histories from a seed on, on two cores, until so many images were compared or one history failed."""
    total, failures, seeds = Counts(), [], count(first_seed)
    with ProcessPoolExecutor(2, get_context("fork"), collect_less) as pool:
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
