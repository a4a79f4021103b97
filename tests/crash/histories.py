"""Makes histories: steps, drawn from a `random.Random` (or hypothesis' own, which shrinks).

Few keys, few ids and few sizes, so that operations meet each other, and frames of equal size follow each other: what
was lost in one epoch fits exactly where something else is written in the next.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from tests.crash.faces import KEY_FACES, TABLE_FACES
from tests.crash.files import Fault
from tests.crash.model import CREATED, FAR, UNDO, Model, OpenView
from tests.crash.operations import (
    AddRows,
    Batch,
    Clear,
    CreateTable,
    Delete,
    DeleteMany,
    DeleteRows,
    DropTable,
    Expire,
    FlushAll,
    Put,
    PutMany,
    PutNewerRows,
    PutRows,
    ReadRows,
    Transaction,
)
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
from tests.crash.versions import Branch, DeleteView, On, Promote, Rollback, Snapshot, Undo

SPACES = (0, 0, 0, 3)
LONG = b"p" * 500  # a key that is longer stands abridged in the directory
KEYS = (b"a", b"b", b"c", b"", b"key\x00with\xff", b"k" * 70, b"kept", b"long" * 60, LONG + b"1", LONG + b"2")
SIZES = (0, 1, 8, 8, 24, 24, 60, 120, 200)
TABLES = ("t", "u", "v")
SHAPES: tuple[tuple[Any, int | None, int], ...] = (  # of a row, the bound of ids, every element of absent rows
    (("<f4", (4,)), None, 0), (("<i8", (1,)), 12, 0), (("<f4", (16,)), 12, 3),
    ([("price", "<f8"), ("tags", "<i2", (3,))], None, 0), (("<i4", (2,)), None, CREATED),
)  # fmt: skip
IDS = (0, 1, 2, 3, 5, 8, 11)
FAR_IDS = (-1, 2**62, -(2**63), 2**63 - 1)
VIEWS = ("x", "y", "z")
MAINTENANCE = 42  # steps in a hundred, where there is a catalog
VERSIONS = 40  # operations in a hundred, where there are views
EXPIRIES = (0, 0, 0, 0, FAR, FAR + 1, 978_307_200_000)  # far, and past since 2001


class Generator:
    """Draws steps that make sense on the model so far; `large` is a value size that takes several PART frames; of views
    there are at most so many, and `undo`."""

    def __init__(
        self, rng: random.Random, large: int, maintenance: bool = False, views: int = 0, cleans: bool = False
    ) -> None:
        self.rng, self.large, self.maintenance, self.views, self.cleans = rng, large, maintenance, views, cleans

    def step(self, model: Model) -> Any:
        """A step for a store whose state is `model`, which takes what the step does."""
        if self.maintenance and self.rng.randrange(100) < MAINTENANCE:
            return self._maintenance(model)
        dice = self.rng.randrange(100)
        if self.views and dice < 15:
            if dice < 5:
                return self._to_and_fro(model)
            return self._peek_of_views(model, ()) if dice < 10 else self._behind_a_promote(model)
        if dice < 50:
            return self.operation(model)
        if dice < 68:
            return Group(self._several(model))
        if dice < 76:
            return self._peek(model)
        if dice < 86:
            steps = self._several(model.copy())
            return Batch(steps, self.rng.choice((0, bound_of(steps))))
        if dice < 94:
            return Transaction(self._several(model.copy(), definitions=False))
        if dice < 97:
            return Mark() if dice < 96 else Grow()
        reached = self.rng.choice(("none", "all", "prefix", "some"))
        return FailFlush(reached, self.rng.random() < 0.5, self.rng.randrange(1 << 30))

    def _maintenance(self, model: Model) -> Any:
        """A step that only a store with a catalog can take."""
        if self.cleans and self.rng.randrange(3):
            dice = self.rng.randrange(10)
            if dice == 9:
                return InTurn((Unawaited(self._several(model)), Grow()))
            return Clean() if dice < 4 else self._overtaken(model) if dice < 7 else Begin("clean", 1 + 3 * (dice - 6))
        dice = self.rng.randrange(100)
        if self.views and dice < 14:
            return self._history_of_one(model) if dice < 9 else self._heated(model)
        if dice < 25:
            return Checkpoint(self.rng.random() < 0.6)
        if dice < 36:
            return Clean()
        if dice < 52:
            return Begin(self.rng.choice(("checkpoint", "fold", "clean")), self.rng.randrange(1, 9))
        if dice < 64:
            return Go(self.rng.randrange(1, 9))
        if dice < 72:
            return End()
        if dice < 76:
            return Abandon()
        if dice < 82:
            return Look()
        if dice < 87:
            return self._overtaken(model)
        if dice < 93:
            return Unawaited(self._several(model))
        call, nth = self.rng.choice(("create", "write", "write", "sync", "remove", "commit", "commit")), 1
        full, whole, later = (self.rng.random() < 0.5 for _ in range(3))
        return FailMaintenance(Fault(call, nth + self.rng.randrange(4) * (call == "write"), full, whole, later))

    def _history_of_one(self, model: Model) -> Group:
        """A keyspace is written to between snapshots: layers one upon the other, the lowest of them larger."""
        space = self.rng.choice(SPACES)
        operations: list[Any] = [PutMany(space, tuple((key, self._bytes(8)) for key in KEYS[:6]))]
        free = self.views - len(model.named("branch", "snapshot"))
        for name in [name for name in VIEWS if name not in model.views][: max(0, free)]:
            write = self.rng.choice((Put(space, self.rng.choice(KEYS), self._bytes(8)), Delete(space, KEYS[1])))
            operations += [Snapshot(name), write]
        return Group(tuple(self._applied(model, operation) for operation in operations))

    def _heated(self, model: Model) -> InTurn:
        """Everything on file is hot; then a key or row of it is written in a branch, which is promoted."""
        promoted = self._promoted(model, self._write_of(model))
        return InTurn((Checkpoint(False), Look(), Look(), Group(promoted), Checkpoint(False)))

    def _promoted(self, model: Model, write: Any) -> tuple[Any, ...]:
        """It is done in a new branch, which is promoted; nothing, where there is no room for one more."""
        free = [name for name in VIEWS if name not in model.views]
        if not free or len(model.named("branch", "snapshot")) >= self.views:
            return ()
        return tuple(self._applied(model, one) for one in (Branch(free[0]), On(free[0], write), Promote(free[0])))

    def _behind_a_promote(self, model: Model) -> Any:
        """Before a promote is durable somebody writes to what it exchanged; or gathers it, with what was written to
        another table behind it."""
        write = self._write_of(model)
        others = [name for name in sorted(model.tables) if isinstance(write, PutRows) and name != write.name]
        operations = self._promoted(model, write)
        if others and self.rng.randrange(2):
            other = self.rng.choice(others)
            behind = self._applied(model, self._rows_of(model, other, write.ids))
            return Peek((*operations, behind), "gather", at=write, last=min(2, 1 + len(operations)), beside=(other,))
        gone = DeleteRows(write.name, write.ids) if isinstance(write, PutRows) else Delete(write.space, write.key)
        return InTurn((Unawaited(operations), self._applied(model, gone)))

    def _to_and_fro(self, model: Model) -> Group:
        """Promotes, rollbacks and undos, one after the other."""
        operations = []
        for _ in range(self.rng.randrange(2, 5)):
            operations.append(self._applied(model, self._switch(model) or self._version(model)))
        return Group(tuple(operations))

    def _overtaken(self, model: Model) -> Overtaken:
        space, key = self.rng.choice(SPACES), self.rng.choice(KEYS)
        write = self._applied(model, self.rng.choice((Put(space, key, self._bytes(8)), Delete(space, key))))
        maintenance = self.rng.choice(((), (Checkpoint(True),), (Clean(),), (Clean(), Clean())))
        return Overtaken(space, key, (write, *maintenance))

    def _several(self, model: Model, definitions: bool = True) -> tuple[Any, ...]:
        return tuple(self.operation(model, definitions) for _ in range(self.rng.randrange(2, 5)))

    def _peek(self, model: Model) -> Peek:
        before = tuple(self.operation(model) for _ in range(self.rng.randrange(2)))
        if self.views and self.rng.randrange(2):
            return self._peek_of_views(model, before)
        if model.tables and self.rng.randrange(2):
            return Peek((*before, self.put_rows(model)), self.rng.choice(TABLE_FACES))
        last = Put(self.rng.choice(SPACES), self.rng.choice(KEYS), self._bytes(24))
        if last.key in model.spaces.get(last.space, {}) and self.rng.randrange(2):
            return Peek((*before, Delete(last.space, last.key)), self.rng.choice(KEY_FACES))
        return Peek((*before, last), self.rng.choice(KEY_FACES))

    def _peek_of_views(self, model: Model, before: tuple[Any, ...]) -> Peek:
        """What was written to a branch; or what a version exchanged."""
        branches = model.named("branch")
        if branches and self.rng.randrange(2):
            view = self.rng.choice(branches)
            written = self._write_of(model.views[view])
            return Peek((*before, self._applied(model, On(view, written))), self._face_of(written))
        was, dice = model.copy(), self.rng.randrange(8)
        switch = Clear(self.rng.choice(SPACES)) if not dice else self._switch(model) or self._version(model)
        self._applied(model, switch)
        read = self._exchanged(was, model) or self._write_of(model)
        others = [
            name for name in sorted(was.tables.keys() & model.tables.keys()) if was.tables[name] == model.tables[name]
        ]
        if isinstance(read, PutRows) and others and self.rng.randrange(4):
            other = self.rng.choice(others)
            behind = self._applied(model, self._rows_of(model, other, read.ids))
            return Peek((*before, switch, behind), "gather", at=read, last=2, beside=(other,))
        behind = self._sealing(model, read)
        return Peek((*before, switch, *behind), self._face_of(read), at=read, last=1 + len(behind))

    def _exchanged(self, was: Model, model: Model) -> Any:
        """A put of what is something else now, if anything is."""
        keys: list[Any] = []
        rows: list[Any] = []
        for space in range(SPACES[-1] + 1):
            old, new = was.spaces.get(space, {}), model.spaces.get(space, {})
            keys += [Put(space, key, b"") for key in KEYS if old.get(key) != new.get(key)]
        for name in sorted(was.tables.keys() & model.tables.keys()):
            old, new = was.tables[name].rows, model.tables[name].rows
            ids = tuple(one for one in IDS if old.get(one) != new.get(one))
            rows += [PutRows(name, ids, b"")] * bool(ids)
        puts = self.rng.choice([some for some in (keys, rows) if some] or [()])
        return self.rng.choice(puts) if puts and self.rng.randrange(4) else None

    def _sealing(self, model: Model, read: Any) -> tuple[Any, ...]:
        """Another key of the same keyspace is written, then a snapshot taken, behind which the reader looks."""
        names = [name for name in VIEWS if name not in model.views]
        if not names or not isinstance(read, Put) or self.rng.randrange(2):
            return ()
        other = Put(read.space, self.rng.choice([key for key in KEYS if key != read.key]), self._bytes(8))
        return self._applied(model, other), self._applied(model, Snapshot(self.rng.choice(names)))

    def _write_of(self, contents: OpenView) -> Any:
        """A put, of which a peek can read the keys or ids."""
        if contents.tables and self.rng.randrange(2):
            return self.put_rows(contents)
        return Put(self.rng.choice(SPACES), self.rng.choice(KEYS), self._bytes(24))

    def _face_of(self, operation: Any) -> str:
        return self.rng.choice(KEY_FACES if isinstance(operation, Put) else TABLE_FACES)

    @staticmethod
    def _applied(model: Model, operation: Any) -> Any:
        operation.on_model(model)
        return operation

    def operation(self, model: Model, definitions: bool = True) -> Any:
        """One operation; without `definitions` one that a transaction knows."""
        if definitions and self.views and self.rng.randrange(100) < VERSIONS:
            return self._applied(model, self._version(model))
        return self._applied(model, self._plain(model, definitions))

    def _plain(self, model: OpenView, definitions: bool) -> Any:
        """One that main and branches know."""
        kind = self.rng.choice(self._possible(model, definitions))
        return self._read(model, getattr(self, kind)(model)) if definitions else getattr(self, kind)(model)

    @staticmethod
    def _read(model: OpenView, drawn: Any) -> Any:
        """Return a read of rows in place of sums, and of half the deletes, of a table where that creates them: no draw
        of its own, so that seeds keep their histories."""
        if isinstance(drawn, AddRows | DeleteRows) and model.tables[drawn.name].is_created_by_reads:
            if isinstance(drawn, AddRows) or drawn.ids[0] % 2:
                return ReadRows(drawn.name, drawn.ids)
        return drawn

    def _possible(self, model: OpenView, definitions: bool) -> list[str]:
        kinds = ["put"] * 8 + ["delete"] * 3
        if definitions:
            kinds += ["put_many"] * 2 + ["delete_many", "expire", "put_large", "clear"]
            kinds += ["flush_all"] * (self.rng.randrange(8) == 0)
            kinds += ["create_table"] * 2 * (len(model.tables) < len(TABLES))
            kinds += ["drop_table"] * bool(model.tables)
        if model.tables:
            kinds += ["put_rows"] * 6 + ["delete_rows"] * 2
        if any(table.descr.base.names is None for table in model.tables.values()):
            kinds += ["add_rows"] * 2
        if definitions and any(table.descr.base.names is not None for table in model.tables.values()):
            kinds += ["put_newer_rows"] * 3
        return kinds

    # --- views

    def _version(self, model: Model) -> Any:
        """An operation on views, or in a branch."""
        names, branches = model.named("branch", "snapshot"), model.named("branch")
        kinds = ["_cut"] * (3 if len(names) < self.views else 0)
        kinds += (["_on_branch"] * 5 + ["_promote"] * 3) * bool(branches)
        kinds += ["_rollback"] * 2 * bool(model.named("snapshot"))
        kinds += ["_undo"] * 3 * (UNDO in model.views) + ["_delete_view"] * (2 if len(names) >= self.views else 1)
        return getattr(self, self.rng.choice(kinds))(model)

    def _switch(self, model: Model) -> Any:
        """What exchanges parts of main, if anything can."""
        kinds = ["_undo"] * (UNDO in model.views) + ["_promote"] * bool(model.named("branch"))
        kinds += ["_rollback"] * bool(model.named("snapshot"))
        return getattr(self, self.rng.choice(kinds))(model) if kinds else None

    def _cut(self, model: Model) -> Any:
        name = self.rng.choice([name for name in VIEWS if name not in model.views])
        if self.rng.randrange(2):
            return Snapshot(name, self._head(model))
        return Branch(name, "main" if self.rng.randrange(2) else self.rng.choice(["main", *model.views]))

    def _head(self, model: Model) -> str:
        return "main" if self.rng.randrange(3) else self.rng.choice(["main", *model.named("branch")])

    def _on_branch(self, model: Model) -> Any:
        view = self.rng.choice(model.named("branch"))
        branch = model.views[view]
        dice = self.rng.randrange(10)
        if dice < 2:
            return On(view, Transaction(tuple(self._plain(branch, False) for _ in range(3))))
        if dice < 6:
            return On(view, self._plain(branch, True))
        kinds = ["clear", "clear", "flush_all"] + ["drop_table"] * 2 * bool(branch.tables)
        kinds += ["create_table"] * 2 * (len(branch.tables) < len(TABLES))
        return On(view, getattr(self, self.rng.choice(kinds))(branch))

    def _some(self, names: list[str]) -> tuple[str, ...]:
        return tuple(self.rng.sample(names, self.rng.randrange(len(names) + 1)))

    def _promote(self, model: Model) -> Any:
        view, force = self.rng.choice(model.named("branch")), self.rng.random() < 0.4
        if self.rng.random() < 0.6:
            return Promote(view, force=force)
        keys = self.rng.choice((None, True, False, (0,), (0, 3)))
        tables = self.rng.choice((None, self._some(model.promotable(view))))
        return Promote(view, tables, keys, force)

    def _rollback(self, model: Model) -> Any:
        view, head = self.rng.choice(model.named("snapshot")), self._head(model)
        if self.rng.random() < 0.6:
            return Rollback(view, head=head)
        keys, tables = self.rng.choice((None, True, False)), self._some(sorted(model.views[view].tables))
        return Rollback(view, self.rng.choice((None, tables)), keys, head)

    def _undo(self, model: Model) -> Any:
        return Undo(self.rng.random() < 0.5)

    def _delete_view(self, model: Model) -> Any:
        return DeleteView(self.rng.choice([*model.views])) if model.views else self._cut(model)

    # --- one operation each

    def _bytes(self, size: int) -> bytes:
        """Compressible by the eye: mostly one letter, ending in noise, so that values differ in few units."""
        return (b"%c" % self.rng.randrange(97, 123)) * max(0, size - 4) + self.rng.randbytes(min(size, 4))

    def _expiry(self) -> int:
        return self.rng.choice(EXPIRIES)

    def put(self, model: OpenView) -> Any:
        value = self._bytes(self.rng.choice(SIZES))
        return Put(self.rng.choice(SPACES), self.rng.choice(KEYS), value, self._expiry())

    def put_large(self, model: OpenView) -> Any:
        return Put(0, self.rng.choice(KEYS[:3]), self._bytes(self.large + self.rng.randrange(3) * 40))

    def put_many(self, model: OpenView) -> Any:
        keys = [self.rng.choice(KEYS) for _ in range(self.rng.randrange(1, 7))]
        pairs = tuple((key, self._bytes(self.rng.choice(SIZES))) for key in keys)
        return PutMany(self.rng.choice(SPACES), pairs, self._expiry())

    def delete(self, model: OpenView) -> Any:
        return Delete(self.rng.choice(SPACES), self.rng.choice(KEYS))

    def delete_many(self, model: OpenView) -> Any:
        return DeleteMany(self.rng.choice(SPACES), tuple(self.rng.choice(KEYS) for _ in range(4)))

    def expire(self, model: OpenView) -> Any:
        return Expire(self.rng.choice(SPACES), self.rng.choice(KEYS), self._expiry())

    def clear(self, model: OpenView) -> Any:
        return Clear(self.rng.choice(SPACES))

    def flush_all(self, model: OpenView) -> Any:
        return FlushAll()

    def create_table(self, model: OpenView) -> Any:
        descr, bound, default = self.rng.choice(SHAPES)
        return CreateTable(
            self.rng.choice([name for name in TABLES if name not in model.tables]), descr, bound, default
        )

    def drop_table(self, model: OpenView) -> Any:
        return DropTable(self.rng.choice(sorted(model.tables)))

    def _ids(self, bound: int | None) -> tuple[int, ...]:
        pool = IDS if bound is not None or self.rng.randrange(3) else IDS + FAR_IDS
        return tuple(self.rng.choice(pool) for _ in range(self.rng.randrange(1, 6)))

    def _rows(self, descr: np.dtype, count: int) -> bytes:
        rows = np.zeros((count, descr.itemsize), np.uint8)
        if descr.base.names is not None:
            rows[:] = np.frombuffer(self.rng.randbytes(rows.size), np.uint8).reshape(rows.shape) & 0x3F
            return rows.tobytes()
        numbers = [self.rng.randrange(-99, 100) for _ in range(count)]
        return np.repeat(np.array(numbers), descr.itemsize // descr.base.itemsize).astype(descr.base).tobytes()

    def put_rows(self, model: OpenView) -> Any:
        name = self.rng.choice(sorted(model.tables))
        ids = self._ids(model.tables[name].bound)
        return PutRows(name, ids, self._rows(model.tables[name].descr, len(ids)))

    def _rows_of(self, model: OpenView, name: str, ids: tuple[int, ...]) -> PutRows:
        """New rows of these ids, as far as they fit."""
        bound = model.tables[name].bound
        fitting = tuple(one for one in ids if bound is None or 0 <= one < bound) or IDS[:1]
        return PutRows(name, fitting, self._rows(model.tables[name].descr, len(fitting)))

    def add_rows(self, model: OpenView) -> Any:
        name = self.rng.choice([name for name, t in sorted(model.tables.items()) if t.descr.base.names is None])
        ids = tuple(dict.fromkeys(self._ids(model.tables[name].bound)))
        return AddRows(name, ids, self._rows(model.tables[name].descr, len(ids)))

    def put_newer_rows(self, model: OpenView) -> Any:
        """Prices, as whole numbers, are drawn from few, so that some are equal."""
        name = self.rng.choice([name for name, t in sorted(model.tables.items()) if t.descr.base.names is not None])
        descr, ids = model.tables[name].descr, self._ids(model.tables[name].bound)
        rows = np.frombuffer(self._rows(descr, len(ids)), descr).copy()
        rows["price"] = [self.rng.randrange(6) for _ in ids]
        return PutNewerRows(name, ids, rows.tobytes(), "price")

    def delete_rows(self, model: OpenView) -> Any:
        name = self.rng.choice(sorted(model.tables))
        return DeleteRows(name, self._ids(model.tables[name].bound))


def bound_of(steps: tuple[Any, ...]) -> int:
    """What a batch of these takes in the log at most, as `Store.batch` says it."""
    return sum(sum(map(len, payloads(step))) + 256 * max(1, len(payloads(step))) for step in steps)


def payloads(step: Any) -> list[bytes]:
    """The bytes that an operation carries."""
    if isinstance(step, On):
        return payloads(step.operation)
    if isinstance(step, Transaction):
        return [one for inner in step.steps for one in payloads(inner)]
    if isinstance(step, PutMany):
        return [key + value for key, value in step.pairs]
    if isinstance(step, PutRows | PutNewerRows | AddRows):
        return [step.rows + bytes(8 * len(step.ids))]
    if isinstance(step, DeleteMany):
        return list(step.keys)
    return [getattr(step, "key", b"") + getattr(step, "value", b"")]
