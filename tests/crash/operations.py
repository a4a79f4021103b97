"""What histories are made of: each operation knows what it does to a store and what to the model.

What an operation here does to `main`, it does to a branch as well: to what holds keyspaces and tables. Expiries are
never near the present: those in the past delete at once, those in the future stay, so that no clock decides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import numpy as np

from pmkv.engine.byte_batch import BytesArray, join
from pmkv.engine.engine import Engine
from pmkv.engine.keyspace import Keyspace
from pmkv.engine.table import Table
from pmkv.engine.transaction import Transaction as StoreTransaction
from pmkv.engine.wave import WaveFound, WaveRecords, run_wave
from pmkv.errors import FullError, UnknownNameError
from pmkv.kernels.records import FLAG_DELETE
from pmkv.log.large_values import chunk_size
from pmkv.view import View
from tests.crash.model import CREATED, SPACES, Model, OpenView, Rows
from tests.crash.model import View as ModelView

T = TypeVar("T")
QUANTISED = ("<f4", (16,))  # rows of this dtype are stored in int8; all numbers of a row are equal, so it is exact


class Operation:
    """What all have in common."""

    def fits(self, model: Any) -> bool:
        """May a store in this state be asked for it?"""
        return not hasattr(self, "name") or self.name in model.tables


Step = tuple[bytes, bytes | None, int]  # a key, its new value (None: it is deleted), its expiry


def in_a_wave(keyspace: Keyspace, steps: Sequence[Step], only_present: bool = False) -> int:
    """Write as commands of a server do: look all keys up, decide, append. Return how many steps wrote something.

    only_present: a step whose key is not there, or was deleted by one before it, does nothing"""
    written: list[int] = []

    def decide(found: WaveFound) -> WaveRecords | None:
        there = (found.rows[:, 0] >= 0).tolist()
        for i, (number, (_, value, _)) in enumerate(zip(found.numbers.tolist(), steps)):
            if there[number] or not only_present:
                written.append(i)
                there[number] = value is not None
        if not written:
            return None
        some = [steps[i] for i in written]
        values = BytesArray(*join([value or b"" for _, value, _ in some]))
        flags = np.array([FLAG_DELETE if value is None else 0 for _, value, _ in some], np.int64)
        expiries = np.array([at for _, _, at in some], np.int64)
        return WaveRecords(np.array(written), values, expiries, flags, bool(flags.all()))

    keys = BytesArray(*join([key for key, _, _ in steps]))
    run_wave(keyspace, keys, np.full(len(steps), only_present), True, decide)
    return len(written)


@dataclass(frozen=True)
class Put(Operation):
    space: int
    key: bytes
    value: bytes
    at: int = 0

    def on_model(self, model: OpenView) -> Any:
        return model.put(self.space, self.key, self.value, self.at)

    def on_store(self, store: Any) -> Any:
        return store.keyspace(self.space).put(self.key, self.value, expire_at=self.at or None)


@dataclass(frozen=True)
class PutMany(Operation):
    space: int
    pairs: tuple[tuple[bytes, bytes], ...]
    at: int = 0

    def on_model(self, model: OpenView) -> Any:
        for key, value in self.pairs:
            model.put(self.space, key, value, self.at)

    def on_store(self, store: Any) -> Any:
        keyspace, longest = store.keyspace(self.space), max(len(value) for _, value in self.pairs)
        if len(self.pairs) % 2 and longest <= chunk_size(keyspace._log):
            in_a_wave(keyspace, [(key, value, self.at) for key, value in self.pairs])
        else:
            keyspace.put_many(self.pairs, expire_at=self.at or None)


@dataclass(frozen=True)
class Delete(Operation):
    space: int
    key: bytes

    def on_model(self, model: OpenView) -> Any:
        return model.delete(self.space, self.key)

    def on_store(self, store: Any) -> Any:
        return store.keyspace(self.space).delete(self.key)


@dataclass(frozen=True)
class DeleteMany(Operation):
    space: int
    keys: tuple[bytes, ...]

    def on_model(self, model: OpenView) -> Any:
        return sum(model.delete(self.space, key) for key in self.keys)

    def on_store(self, store: Any) -> Any:
        keyspace = store.keyspace(self.space)
        if len(set(self.keys)) == len(self.keys):
            return in_a_wave(keyspace, [(key, None, 0) for key in self.keys], only_present=True)
        return keyspace.delete_many(list(self.keys))


@dataclass(frozen=True)
class Expire(Operation):
    space: int
    key: bytes
    at: int

    def on_model(self, model: OpenView) -> Any:
        entry = model.spaces.get(self.space, {}).get(self.key)
        if entry is not None:
            model.put(self.space, self.key, entry[0], self.at)
        return entry is not None

    def on_store(self, store: Any) -> Any:
        return store.keyspace(self.space).expire(self.key, self.at)


@dataclass(frozen=True)
class Clear(Operation):
    space: int

    def on_model(self, model: OpenView) -> Any:
        model.clear(self.space)

    def on_store(self, store: Any) -> Any:
        return store.keyspace(self.space).clear()


@dataclass(frozen=True)
class FlushAll(Operation):
    def on_model(self, model: OpenView) -> Any:
        for space in range(SPACES):
            model.clear(space)

    def on_store(self, store: Any) -> Any:
        return store.flush_all()


@dataclass(frozen=True)
class CreateTable(Operation):
    name: str
    descr: Any
    bound: int | None = None
    default: int = 0

    def fits(self, model: Any) -> bool:
        return self.name not in model.tables

    def on_model(self, model: OpenView) -> Any:
        model.tables[self.name] = Rows(np.dtype(self.descr), self.bound, default=self.default)

    def on_store(self, store: Any) -> Any:
        """Create it. Dense ones are pinned, by the same decision or by one more; no draw of their own: seeds keep their
        histories."""
        dense = self.bound is not None
        codec, dram = "int8" if self.descr == QUANTISED else None, "all" if dense and self.default == 0 else None
        default = {"value": CREATED, "create": True} if self.default == CREATED else self.default
        table = store.create_table(
            self.name, np.dtype(self.descr), rows=self.bound, default=default, codec=codec, dram=dram
        )
        if dense and dram is None:
            table.set_dram("all")


@dataclass(frozen=True)
class DropTable(Operation):
    name: str

    def on_model(self, model: OpenView) -> Any:
        model.remove(model.part(self.name))

    def on_store(self, store: Any) -> Any:
        return store.drop_table(self.name)


@dataclass(frozen=True)
class PutRows(Operation):
    name: str
    ids: tuple[int, ...]
    rows: bytes

    def on_model(self, model: OpenView) -> Any:
        table = model.tables[self.name]
        width = table.descr.itemsize
        for i, id_ in enumerate(self.ids):
            table.rows[id_] = self.rows[i * width : (i + 1) * width]
        model.touch(model.part(self.name))

    def on_store(self, store: Any) -> Any:
        return store.table(self.name).put(np.array(self.ids, np.int64), self.rows)


@dataclass(frozen=True)
class PutNewerRows(Operation):
    """field: orders the rows; a stored one that is greater in it stays."""

    name: str
    ids: tuple[int, ...]
    rows: bytes
    field: str

    def on_model(self, model: OpenView) -> Any:
        table = model.tables[self.name]
        written = set()
        for id_, row in zip(self.ids, np.frombuffer(self.rows, table.descr)):
            stored = table.rows.get(id_)
            if stored is None or not np.frombuffer(stored, table.descr)[0][self.field] > row[self.field]:
                table.rows[id_] = row.tobytes()
                written.add(id_)
        if written:
            model.touch(model.part(self.name))
        return len(written)

    def on_store(self, store: Any) -> Any:
        return store.table(self.name).put(np.array(self.ids, np.int64), self.rows, newer=self.field)


@dataclass(frozen=True)
class AddRows(Operation):
    """Ids are distinct; rows are small whole numbers, so that sums are exact in every dtype."""

    name: str
    ids: tuple[int, ...]
    rows: bytes

    def on_model(self, model: OpenView) -> Any:
        table = model.tables[self.name]
        base = table.descr.base
        for id_, more in zip(self.ids, np.frombuffer(self.rows, base).reshape(len(self.ids), -1)):
            before = np.frombuffer(table.rows.get(id_, table.absent), base)
            table.rows[id_] = (before + more).astype(base).tobytes()
        model.touch(model.part(self.name))

    def on_store(self, store: Any) -> Any:
        return store.table(self.name).add(np.array(self.ids, np.int64), self.rows)


@dataclass(frozen=True)
class ReadRows(Operation):
    """Of a table whose absent rows are written by the first read. FullError: they were read, and there was no room."""

    name: str
    ids: tuple[int, ...]

    def on_model(self, model: OpenView) -> Any:
        table = model.tables[self.name]
        before = len(table.rows)
        read = [table.rows.setdefault(id_, table.absent) for id_ in self.ids]
        if len(table.rows) > before:
            model.touch(model.part(self.name))
        return read

    def on_store(self, store: Any) -> Any:
        ids, table = np.array(self.ids, np.int64), store.table(self.name)
        rows = table.get(ids)
        if not table.contains(ids).all():
            table.put(ids, rows)  # raises FullError, as it had to when these were read
            raise AssertionError(f"table {self.name!r} has not written what was read, though there was room")
        return [row.tobytes() for row in rows]


@dataclass(frozen=True)
class DeleteRows(Operation):
    name: str
    ids: tuple[int, ...]

    def on_model(self, model: OpenView) -> Any:
        rows = model.tables[self.name].rows
        found = sum(rows.pop(id_, None) is not None for id_ in self.ids)
        if found:
            model.touch(model.part(self.name))
        return found

    def on_store(self, store: Any) -> Any:
        return store.table(self.name).delete(np.array(self.ids, np.int64))


@dataclass(frozen=True)
class Bare:
    """An engine with the faces of a store, without its files and threads. It holds every table and view that it gave,
    as programs do: what was dropped may come back to a handle."""

    engine: Engine
    held: dict[int, object] = field(default_factory=dict, repr=False)

    def hold(self, given: T) -> T:
        """Hold what is given away. Return it."""
        self.held[id(given)] = given
        return given

    def keyspace(self, number: int) -> Keyspace:
        return self.engine.keyspaces[number]

    def flush_all(self) -> None:
        self.engine.clear_all()

    def create_table(
        self,
        name: str,
        dtype: Any,
        rows: int | None = None,
        default: Any = None,
        codec: str | None = None,
        dram: Any = None,
    ) -> Table:
        return self.engine.create_table(name, dtype, rows, default=default, codec=codec, dram=dram)

    def drop_table(self, name: str) -> None:
        self.engine.drop_table(name)

    def table(self, name: str) -> Table:
        return self.hold(self.engine.table(name))

    def tables(self) -> dict[str, Table]:
        return {name: self.hold(table) for name, table in self.engine.tables.items()}

    def gather(self, wanted: Any) -> Any:
        return self.engine.main.gather(wanted)

    @property
    def version(self) -> tuple[int, int]:
        return self.engine.main_changes[0], self.engine.log.lsn

    def view(self, name: str) -> View:
        view = self.engine.view(name)
        for table in view.tables.values():
            self.hold(table)
        return self.hold(View(self.engine, view))

    def views(self) -> Any:
        return self.engine.views()

    def snapshot(self, name: str) -> None:
        self.engine.versions.snapshot(name)

    def branch(self, name: str, at: str) -> None:
        self.engine.versions.branch(name, at)

    def promote(self, name: str, tables: Any, keys: Any, force: bool) -> None:
        self.engine.versions.promote(name, tables, keys, force)

    def rollback(self, name: str, tables: Any, keys: Any) -> bool:
        return self.engine.versions.rollback(name, tables, keys)

    def undo(self, force: bool) -> None:
        self.engine.versions.undo(force)

    def delete_view(self, name: str) -> None:
        self.engine.versions.delete_view(name)

    def batch(self, reserve: int = 0) -> Any:
        return self.engine.batch(reserve)

    def deferred(self) -> Any:
        return self.engine.log.deferred()

    def wait(self, lsn: int) -> None:
        self.engine.log.flush(lsn)

    def mark(self) -> None:
        self.engine.log.mark()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[StoreTransaction]:
        transaction = StoreTransaction(self.engine)
        yield transaction
        transaction.commit()


FULL = "full"  # the result of a step of a batch for which there was no room


@dataclass(frozen=True)
class Together(Operation):
    """Several operations, one after the other."""

    steps: tuple[Any, ...]

    def fits(self, model: Any) -> bool:
        model = model.copy()
        return all(step.fits(model) and (step.on_model(model), True)[1] for step in self.steps)


@dataclass(frozen=True)
class Batch(Together):
    """All or nothing after a crash; steps for which there is no room are left out, as in MULTI. With `reserve` there is
    room for all steps or FullError before the first of them."""

    reserve: int = 0
    results: list[Any] = field(default_factory=list, compare=False, repr=False)  # of the steps taken, as far as it came

    def on_model(self, model: OpenView) -> Any:
        return [step.on_model(model) for step in self.steps]

    def on_store(self, store: Any) -> Any:
        self.results.clear()
        with store.batch(self.reserve):
            for step in self.steps:
                self.results.append(self._try(step, store))
        return self.results

    def _try(self, step: Any, store: Any) -> Any:
        try:
            return step.on_store(store)
        except FullError:
            return FULL
        except UnknownNameError:  # of a table for which there was no room
            if FULL in self.results:
                return FULL
            raise

    def on_model_without_full(self, model: Model) -> None:
        for step, result in zip(self.steps, self.results):
            if result is not FULL:
                step.on_model(model)


@dataclass(frozen=True)
class Transaction(Together):
    """All or nothing, and applied when it ends: of a key what was done to it last."""

    def on_model(self, model: OpenView) -> Any:
        before = model.copy()
        for step in self.steps:
            step.on_model(model)
        last = {(step.space, step.key): step for step in self.steps if hasattr(step, "space")}
        for space in {space for space, _ in last}:
            written = [key for (number, key), step in last.items() if number == space and isinstance(step, Put)]
            if not written and model.spaces.get(space) == before.spaces.get(space):
                model.not_written(before, space)  # its deletes met nothing

    def on_store(self, store: Any) -> Any:
        with store.transaction() as transaction:
            for step in self.steps:
                step.on_store(transaction)


def state_of(store: Any, spaces: int = SPACES) -> Model:
    """All that a store holds, read through its faces."""
    model = Model(switches=store.version[0])
    read_view(store, model, spaces)
    for name, info in store.views().items():
        if name != "main":
            view = model.views[name] = ModelView(kind=info.kind, base=info.base)
            read_view(store.view(name), view, spaces)
    return model


def read_view(store: Any, model: OpenView, spaces: int) -> None:
    """All that one view holds."""
    for number in range(spaces):
        keyspace = store.keyspace(number)
        if count := len(keyspace):
            items = list(chain(*keyspace.ordered.chunks(b"", None, None, False, None)))  # as `scan`, and expiries
            shown = model.spaces[number] = {key: (value, expiry) for key, value, expiry in items}
            assert count == len(items) == len(shown), (
                f"keyspace {number} counts {count} keys, shows {len(items)} in order and has {len(shown)}"
            )
    for name, table in store.tables().items():
        default = (table.default or {}).get("value", 0)
        shown = model.tables[name] = Rows(table.row_dtype, table.rows, default=default)
        for ids, scanned in table.scan():
            width = table.row_dtype.itemsize
            rows, found = table.get(ids, return_found=True)  # through the row cache, which a scan passes by
            raw = rows.tobytes()
            assert found.all() and raw == scanned.tobytes(), f"a get of table {name} shows other rows than a scan"
            if table.dtype.names is None:
                pooled = table.pool(ids, np.arange(ids.size))
                assert (pooled == rows).all(), f"a pool of table {name} shows other rows than a get"
            shown.rows.update({int(id_): raw[i * width : (i + 1) * width] for i, id_ in enumerate(ids)})
        assert len(table) == len(shown.rows), f"table {name} counts {len(table)} rows and shows {len(shown.rows)}"


def check_scans(store: Any, state: Model) -> None:
    """Scans in both directions, of parts and of prefixes, and the unordered ones show what `state` has."""
    check_scans_of(store, state)
    for name, view in state.views.items():
        check_scans_of(store.view(name), view)
    for name in ("main", *state.views):
        for since in state.views:
            check_changes(store.view(name), state.head(name), since, state.head(since))


def check_changes(view: View, state: OpenView, since: str, before: OpenView) -> None:
    """What a view tells of its changes since another one makes its tables of those."""
    for name, table in view.tables().items():
        try:
            found = list(table.changes(since, batch=3))
        except UnknownNameError:
            continue
        rows = dict(before.tables[name].rows)
        for ids, changed, deleted in found:
            rows.update((int(one), row.tobytes()) for one, row in zip(ids, changed))
            for one in deleted.tolist():
                rows.pop(one, None)
        assert rows == state.tables[name].rows, f"{since} and its changes give {rows}, not {state.tables[name].rows}"


def check_scans_of(store: Any, state: OpenView) -> None:
    """The same, of one view."""
    for number, space in state.spaces.items():
        items = [(key, space[key][0]) for key in sorted(space)]
        keyspace = store.keyspace(number)
        backwards = list(keyspace.scan(reverse=True))
        assert backwards == items[::-1], f"keyspace {number} backwards: {backwards} instead of {items[::-1]}"
        middle = items[len(items) // 2][0]
        for prefix in (b"", b"k", middle[:501]):
            some = [item for item in items if item[0].startswith(prefix) and item[0] >= middle]
            shown = list(keyspace.scan(prefix, start=middle, limit=3))
            assert shown == some[:3], f"keyspace {number} from {middle!r}, prefix {prefix!r}: {shown} of {some}"
        before = list(keyspace.scan(stop=middle, reverse=True, limit=2))
        assert before == [item for item in items if item[0] < middle][::-1][:2], f"before {middle!r}: {before}"
        cursor, names = keyspace.keys(count=3)
        while cursor:
            cursor, more = keyspace.keys(cursor, count=3)
            names += more
        assert set(names) == space.keys(), f"keyspace {number} walked: {names} instead of {sorted(space)}"
