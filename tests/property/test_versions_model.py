"""A state machine: a store with branches, snapshots and undo, in memory and on file, is the model of the crash tests.

After every step each view is compared, and the store checks itself. Tables and views that somebody holds go on as what
they are, or say that they are gone.
"""

from __future__ import annotations

import random
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import pmkv
from tests.crash.histories import Generator
from tests.crash.model import UNDO, Model, OpenView
from tests.crash.operations import state_of

SPACES = 4  # that are written to
LARGE = 3000  # bytes of the largest values
RNG = st.integers(0, 1 << 30).map(random.Random)
CAPACITY = 16 << 20


class StoreWithViews(RuleBasedStateMachine):
    """In memory."""

    @initialize()
    def begin(self) -> None:
        self.store, self.model = self.open(), Model()
        self.held: list[tuple[str, OpenView, pmkv.Table]] = []  # a view, which one of this name, and a table of it

    def open(self) -> pmkv.Store:
        return pmkv.open(pool=":memory:", capacity=CAPACITY)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()

    # what happens

    @rule(rng=RNG)
    def operation(self, rng: random.Random) -> None:
        model = self.model.copy()
        operation = Generator(rng, LARGE, views=3).operation(model)
        expected = operation.on_model(self.model)
        assert operation.on_store(self.store) == expected, operation
        self.compare()

    def compare(self) -> None:
        found = state_of(self.store, SPACES)
        assert found == self.model
        self.store.check()

    # what somebody holds

    @precondition(lambda self: any(self.model.head(name).tables for name in ("main", *self.model.views)))
    @rule(rng=RNG)
    def hold(self, rng: random.Random) -> None:
        heads = [name for name in ("main", *self.model.views) if self.model.head(name).tables]
        view = rng.choice(heads)
        table = self.store.view(view).table(rng.choice(sorted(self.model.head(view).tables)))
        self.held.append((view, self.model.head(view), table))
        del self.held[:-4]

    @rule()
    def look_at_what_is_held(self) -> None:
        for view, which, table in self.held:
            if view != "main" and self.model.views.get(view) is not which:
                with pytest.raises(pmkv.UnknownViewError):
                    len(table)
                continue
            present = self.store.view(view).tables().get(table.name)
            if present is None or present.id != table.id:
                with pytest.raises(pmkv.UnknownNameError, match="dropped"):
                    table.get([1])
            else:
                rows = which.tables[table.name].rows
                assert len(table) == len(rows)
                found = table.get(np.array(sorted(rows), np.int64))
                assert found.tobytes() == b"".join(rows[one] for one in sorted(rows))

    # what is refused

    @precondition(lambda self: self.model.named("snapshot", "undo"))
    @rule(rng=RNG)
    def write_a_snapshot(self, rng: random.Random) -> None:
        view = self.store.view(rng.choice(self.model.named("snapshot", "undo")))
        for write in (
            lambda: view.put(b"k", b"v"),
            lambda: view.delete(b"a"),
            lambda: view.create_table("new", "f4"),
            lambda: view.keyspace(3).clear(),
            lambda: view.flush_all(),
            lambda: [table.put([1], np.zeros((1, *table.shape), table.dtype)) for table in view.tables().values()][9],
        ):
            with pytest.raises((pmkv.ReadOnlyError, IndexError)):
                write()
        self.compare()

    @rule(rng=RNG)
    def what_makes_no_sense(self, rng: random.Random) -> None:
        taken = rng.choice(["main", UNDO, *self.model.views])
        with pytest.raises((pmkv.ExistsError, pmkv.InvalidError)):
            self.store.snapshot(taken)
        with pytest.raises((pmkv.ExistsError, pmkv.InvalidError)):
            self.store.branch(taken)
        with pytest.raises(pmkv.InvalidError):
            self.store.delete_view("main")
        for call in (self.store.view, self.store.promote, self.store.rollback, self.store.delete_view):
            with pytest.raises(pmkv.UnknownViewError):
                call("nobody")
        if UNDO not in self.model.views:
            with pytest.raises(pmkv.UnknownViewError, match="nothing to undo"):
                self.store.undo()
        self.compare()


class StoreOnFile(StoreWithViews):
    """On file: with checkpoints, and restarts behind which the same is there."""

    def open(self) -> pmkv.Store:
        if not hasattr(self, "folder"):
            self.folder = tempfile.TemporaryDirectory()
        return pmkv.open(self.folder.name, capacity=CAPACITY, durability="none")

    @rule()
    def checkpoint(self) -> None:
        self.store.checkpoint()
        self.compare()

    @rule(checkpoint=st.booleans())
    def restart(self, checkpoint: bool) -> None:
        before = {name: info.asdict() for name, info in self.store.views().items()}
        if checkpoint:
            self.store.checkpoint()
        self.store.close()
        self.store, self.held = self.open(), []
        self.compare()
        assert {name: info.asdict() for name, info in self.store.views().items()} == before

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "folder"):
            self.folder.cleanup()


QUIET = list(HealthCheck)  # an operation is a large thing to draw
TestStoreWithViews = StoreWithViews.TestCase
TestStoreWithViews.settings = settings(max_examples=60, stateful_step_count=30, suppress_health_check=QUIET)
TestStoreOnFile = StoreOnFile.TestCase
TestStoreOnFile.settings = settings(max_examples=20, stateful_step_count=25, suppress_health_check=QUIET)
