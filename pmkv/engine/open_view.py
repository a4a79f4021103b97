"""The open tables and keyspaces of one view: objects that stay the same while decisions exchange their layers.

Keyspaces of views other than `main` are made at first use: most are never used, and cutting a branch need not make
sixteen objects.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..cache.dram_choice import DramChoice
from ..catalog.lmdb_catalog import Catalog
from ..errors import InvalidError, PmkvError, UnknownNameError
from ..log.log import Log
from ..runtime.arguments import check_mapping, check_text, whole_number
from ..versions.expired_records import Record
from ..versions.layer import Layer, LayerTree
from ..versions.view_set import KEYSPACES, MAIN, UNDO, ViewEntry, keyspace_name
from .entity_ids import KEPT_KEY, KEYS_SUFFIX
from .keyspace import Keyspace
from .lookup_counts import LookupCounts
from .pooling import bags_of
from .row_reads import RowRead, started_together
from .table import Neighbours, Table

T = TypeVar("T")


@dataclass(frozen=True)
class EngineContext:
    """The services that the collections of all views share.

    clear: empties a keyspace of a head by a decision, and returns its LSN; create: makes sure that a head has a
    table of this name, of a dtype if it is new; top_in: as of `Neighbours`; expire: notes that records (location,
    expiry) of a keyspace were seen expired, and returns the LSN of that; names: the ordered directory of keys;
    lookups: counters."""

    log: Log
    verify: bool
    names: Catalog | None
    clear: Callable[[str, int], int]
    create: Callable[[str, str, str], Table]
    top_in: Callable[[str, LayerTree], tuple[Layer | None, int]]
    expire: Callable[[int, list[Record]], int]
    set_dram: Callable[[int, DramChoice, str], int]
    lookups: LookupCounts = field(default_factory=LookupCounts)


class OpenView:
    """The open tables and keyspaces of one view. `gone`: raised on use once the view is deleted."""

    def __init__(self, view: ViewEntry, trees: dict[str, LayerTree], context: EngineContext) -> None:
        self._context, self.view = context, view
        self.readonly = None if view.is_head else readonly_because(view)
        self.gone: PmkvError | None = None
        self._gone_at = 0  # LSN of the decision that deleted the view
        self._exchanged = 0  # LSN of the last decision that exchanged a collection
        self.tables: dict[str, Table] = {}
        self._tables: dict[int, Table] = {}
        # by number: those that somebody holds, dropped ones too, as it may turn out that they were not
        self._held_tables: weakref.WeakValueDictionary[int, Table] = weakref.WeakValueDictionary()
        self._empty: dict[str, Layer] = {}  # top layers of collections that were never written
        self._keyspaces: dict[int, Keyspace] = {}
        self._neighbours = Neighbours(self._keys_beside, context.top_in, self._set_dram)
        self.follow(view, trees, view.lsn)
        if view.name == MAIN:
            self._make_all()

    def _make_all(self) -> None:
        """Make all keyspaces. The caller holds locks.state."""
        for number in range(KEYSPACES):
            self._keyspace(number)

    def _keyspace(self, number: int) -> Keyspace:
        """Return one keyspace, made if need be. The caller holds locks.state."""
        context, name = self._context, self.view.name
        if number not in self._keyspaces:
            self._keyspaces[number] = Keyspace(
                self._top(self._trees[keyspace_name(number)]), context.log, lambda number: context.clear(name, number),
                context.verify, self.readonly, context.names, context.expire, context.lookups,
            )  # fmt: skip
        return self._keyspaces[number]

    @property
    def keyspaces(self) -> list[Keyspace]:
        """Return all 16 keyspaces, in order."""
        if len(self._keyspaces) < KEYSPACES:
            self.guard()
            with self._context.log.locks.state:
                self.guard()  # again: the view may have been deleted since
                self._make_all()
        return [self._keyspaces[number] for number in range(KEYSPACES)]

    def _top(self, tree: LayerTree) -> Layer:
        top = self.view.tops.get(tree.name)
        if top is None:
            top = self._empty.get(tree.name)
            if top is None or top.tree is not tree:
                top = self._empty[tree.name] = Layer(tree, self.view.lsn)
        return top

    def follow(self, view: ViewEntry, trees: dict[str, LayerTree], lsn: int) -> None:
        """Adopt the layers and tables that decision `lsn` gave the view. The caller holds locks.state."""
        self.view, self._trees, self.gone = view, trees, None
        for number, keyspace in self._keyspaces.items():
            keyspace.stand_on(self._top(trees[keyspace_name(number)]))
        kept: dict[int, Table] = {}
        for tree in [trees[collection] for collection in view.tops if trees[collection].decision is not None]:
            table = self._held_tables.get(tree.number)
            if table is None or table.stack.tree.decision != tree.decision:  # its creation was taken back
                context = self._context
                table = Table(self._top(tree), context.log, context.verify, self.readonly, self._neighbours)
                self._held_tables[tree.number] = table
            else:
                table.stand_on(self._top(tree))
            kept[tree.number] = table
            if view.name == MAIN:  # other views of it are read the ordinary way
                table.stack.keep_rows()
        for number, table in self._tables.items():
            if number not in kept:
                table.leave(UnknownNameError(f"table {table.name!r} was dropped"), lsn)
        self._tables, self.tables = kept, {table.name: table for table in kept.values()}

    def keep_shown(self, collections: Iterable[str], lsn: int) -> None:
        """Keep the present version of these collections for readers: the pending decision `lsn` will exchange them.

        The caller holds locks.state."""
        self._exchanged, names = lsn, set(collections)
        for collection in self.collections:
            if collection.stack.tree.name in names:
                collection.keep_shown(lsn)

    def forget_previous(self) -> None:
        """Stop serving previous versions. The caller holds locks.state."""
        for collection in self.collections:
            collection.forget_previous()

    def leave(self, why: PmkvError, lsn: int) -> None:
        """Refuse every later use with the error `why`: decision `lsn` deleted the view. The caller holds
        locks.state."""
        self.gone, self._gone_at = why, lsn
        for collection in self.collections:
            collection.leave(why, lsn)

    def release(self) -> None:
        """Release the layers of an open view that nobody was given. The caller holds locks.state."""
        for collection in self.collections:
            collection.stack.close()

    def guard(self) -> None:
        """Raise UnknownViewError if the view was deleted."""
        self._context.log.guard_read()
        if self.gone is not None:
            self._context.log.wait_durable_if_free(self._gone_at)
            raise type(self.gone)(*self.gone.args)

    def keyspace(self, number: int) -> Keyspace:
        """Return keyspace `number`, 0 to 15."""
        self.guard()
        if not 0 <= whole_number(number, "the number of a keyspace") < KEYSPACES:
            raise InvalidError(f"there is no keyspace {number}: they are 0 to {KEYSPACES - 1}")
        if number not in self._keyspaces:
            with self._context.log.locks.state:
                self.guard()  # again: the view may have been deleted since
                return self._keyspace(number)
        return self._keyspaces[number]

    def table(self, name: str) -> Table:
        """Return the table of this name. UnknownNameError: there is none."""
        self.guard()
        check_text(name, "the name of a table")
        tables = self.tables
        if name not in tables:
            self._context.log.wait_durable_if_free(self._context.log.lsn)  # a pending decision may be why it is missing
            raise UnknownNameError(f"there is no table {name!r}; there are: {', '.join(sorted(tables)) or 'none'}")
        return tables[name]

    def _keys_beside(self, name: str, create: bool) -> Table | None:
        """Return the table that keeps the keys of the ids of table `name`. None: there is none, and none is created, as
        nobody wants it or the view takes no writes."""
        self.guard()
        beside = self.tables.get(name + KEYS_SUFFIX)
        if beside is None and create and self.readonly is None and not self._context.log.readonly:
            beside = self._context.create(name + KEYS_SUFFIX, KEPT_KEY, self.view.name)
        return beside

    def _set_dram(self, number: int, choice: DramChoice) -> int:
        return self._context.set_dram(number, choice, self.view.name)

    def gather(self, wanted: Mapping[str, npt.ArrayLike], default: Any = None) -> dict[str, np.ndarray]:
        """Read rows of several tables at one moment: {name: ids} to {name: rows}."""
        check_mapping(wanted, "what is gathered must be {table: ids}")
        reads, shapes = [], []
        for name, ids in wanted.items():
            table = self.table(name)
            flat, shape = table._shaped_ids(ids)
            reads.append(RowRead(table, flat, np.empty(flat.size * table.width, np.uint8)))
            shapes.append((*shape, *table.shape))

        def rows_of(read: RowRead) -> np.ndarray:
            rows, found = read.rows(read.table._default(default))
            return read.table.filled(rows, found, read.batch.ids, default)[0]

        found = self._at_once(reads, lambda: [rows_of(read) for read in started_together(reads)])
        return {name: rows.reshape(shape) for name, rows, shape in zip(wanted, found, shapes)}

    def pool_many(self, wanted: Mapping[str, tuple[npt.ArrayLike, ...]], mode: str = "sum") -> dict[str, np.ndarray]:
        """Pool rows of several tables at one moment: {name: (ids, offsets[, weights])} to {name: rows}."""
        check_mapping(wanted, "what is pooled must be {table: (ids, offsets)}")
        reads, bags = [], []
        for name, given in wanted.items():
            table = self.table(name)
            if not isinstance(given, tuple | list) or len(given) not in (2, 3):
                raise InvalidError(f"bags of table {name!r}: give (ids, offsets) or (ids, offsets, weights)")
            bags.append(bags_of(table, given[0], given[1], given[2] if len(given) == 3 else None, mode))
            reads.append(RowRead(table, bags[-1].ids))
        found = self._at_once(reads, lambda: [read.pool(some) for read, some in zip(started_together(reads), bags)])
        return {read.table.name: rows.reshape(-1, *read.table.shape) for read, rows in zip(reads, found)}

    def _at_once(self, reads: list[RowRead], finish: Callable[[], T]) -> T:
        """Look up what all reads want at one moment, and return what `finish` makes of that."""
        log = self._context.log

        def of_one_moment() -> None:
            for read in reads:
                read.begin()
            if log.durable < self._exchanged <= log.thread.min_lsn:  # some previous, some new
                for read in reads:  # this thread saw the new version, so all reads get it now
                    read.begin()

        def read_all() -> T:
            log.publisher.read(of_one_moment)
            return finish()

        found, lsn = log.deferring(read_all)
        log.wait_durable(lsn)
        return found

    def by_id(self, number: int) -> Table:
        """Return the table of this number."""
        return self._tables[number]

    @property
    def collections(self) -> tuple[Any, ...]:
        """Return all keyspaces and tables that were made so far."""
        return (*self._keyspaces.values(), *self._tables.values())

    def check(self, seen: set[Layer]) -> None:
        """Assert that each collection is whole and reads the view's layers. The caller holds locks.state.

        seen: top layers that were checked already, in other views."""
        self._make_all()
        for collection in self.collections:
            collection.stack.check()
            assert collection.stack.top is self._top(collection.stack.tree)
            if collection.stack.top not in seen:
                collection.check()
            seen.add(collection.stack.top)
        assert {table.name: table for table in self._tables.values()} == self.tables


def readonly_because(view: ViewEntry) -> str:
    """Return why a view takes no writes, for the message of ReadOnlyError."""
    if view.kind == UNDO:
        return "`undo` is what `main` was before, and takes no writes: bring it back by an undo, or cut a branch at it"
    return f"{view.name!r} is a snapshot, which takes no writes: cut a branch at it, and write to that"
