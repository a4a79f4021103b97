"""Generated histories on a real store: its files, threads and checkpoints, handles that a program holds, restarts, and
backups that are restored. The crash histories have none of these, but stop everywhere."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import pmkv
from pmkv.errors import FullError
from tests.crash.histories import Generator, bound_of
from tests.crash.life import SPACES, possible
from tests.crash.model import Model, one_of
from tests.crash.operations import Batch, Transaction, check_scans, state_of

OPERATIONS = 100


class RealHistory:
    """A store in a directory, a model of it, and what was done, for a failure."""

    def __init__(self, seed: int, path: Path) -> None:
        self.rng, self.path = random.Random(seed), path
        rng = self.rng
        self.options = {"durability": rng.choice(["commit", "interval", "none"]), "dram": rng.choice(["8MiB", "64MiB"])}
        self.store = pmkv.open(path / "store", capacity="64MiB", **self.options)
        self.generator = Generator(rng, 100_000, False, rng.choice([0, 3, 3]))
        self.model, self.held, self.done = Model(), list[object](), list[str]()
        self.backups = 0

    def run(self, count: int) -> None:
        for _ in range(count):
            self.operate()
            self.look_after()
            if self.rng.random() < 0.3:
                self.compare()
        self.reopen()
        self.compare()

    def operate(self) -> None:
        """Do to store and model what the generator says."""
        operation = self._operation()
        self.done.append(repr(operation)[:200])
        after = self.model.copy()
        results = [(operation.on_model(one), one) for one in after.possible]
        try:
            result = operation.on_store(self.store)
        except FullError:
            return
        fitting = [model for expected, model in results if expected == result]
        assert fitting or not results, (self.done[-20:], result, results)
        self.model = one_of(fitting) if fitting else after

    def _operation(self) -> Any:
        dice, model = self.rng.random(), self.model.copy()
        if dice < 0.75:
            return self.generator.operation(model)
        steps = self.generator._several(model, definitions=dice < 0.87)
        return Batch(steps, bound_of(steps)) if dice < 0.87 else Transaction(steps)

    def look_after(self) -> None:
        """Do, now and then, what changes nothing that a user sees."""
        tasks = [self.store.checkpoint, self.store.compact, self.rest, self.hold, self.reopen, self.restore]
        (task,) = self.rng.choices([*tasks, None], [8, 2, 3, 4, 1, 2, 80])
        if task is not None:
            self.done.append(task.__name__)
            task()

    def rest(self) -> None:
        time.sleep(self.rng.random() * 0.05)

    def hold(self) -> None:
        for name in self.store.views():
            view = self.store.view(name)
            self.held += [view, *view.tables().values()]

    def reopen(self) -> None:
        self.held.clear()
        self.store.close(checkpoint=self.rng.random() < 0.5)
        self.store = pmkv.open(self.path / "store", **self.options)

    def restore(self) -> None:
        """Back all views up, often only what changed since the last backup, restore them elsewhere, and compare."""
        last, self.backups = self.path / f"backup {self.backups}", self.backups + 1
        place = self.path / f"backup {self.backups}"
        since = last if last.exists() and self.rng.random() < 0.6 else None
        self.store.backup(place, view=None, since=since)
        shutil.rmtree(self.path / "restored", ignore_errors=True)
        pmkv.restore(place, self.path / "restored")
        with pmkv.open(self.path / "restored") as restored:
            assert contents(restored) == contents(self.store), self.done[-20:]

    def compare(self) -> None:
        found = state_of(self.store, SPACES)
        assert found in self.model.possible, (self.done[-20:], found, self.model)
        self.model = one_of([one for one in possible([self.model]) if one == found])
        check_scans(self.store, found)
        self.store.check()


def contents(store: pmkv.Store) -> Any:
    """Return what all views hold, but for the one that undoes: it is not in backups."""
    found = state_of(store, SPACES)
    return found.spaces, found.tables, {n: (v.spaces, v.tables) for n, v in found.views.items() if n != "undo"}


@pytest.mark.parametrize("seed", range(5))
def test_a_store_does_what_the_model_says(tmp_path: Path, seed: int) -> None:
    history = RealHistory(seed, tmp_path)
    try:
        history.run(OPERATIONS)
    finally:
        history.store.close()
