"""The engine: views of 16 keyspaces and any number of tables over one log on one medium.

The engine starts no threads: the store does. Memory is the catalog's manifest plus a replay of the log after it. A
decision (create, drop, clear, and every version operation) is appended as a control frame and carried out by the same
code that replays it. An engine without a catalog (a store in memory) has only its log.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import numpy.typing as npt

from ..cache.dram_choice import DramChoice, dram_choice
from ..cache.row_cache import RowBudget
from ..catalog.lmdb_catalog import Catalog
from ..errors import (
    CorruptionError,
    ExistsError,
    InvalidError,
    PmkvError,
    ReadOnlyError,
    UnknownNameError,
    UnknownViewError,
)
from ..index.arena import Arena
from ..index.location_cache import CacheBudget
from ..index.run_files import RunFiles
from ..log.decisions import append_control
from ..log.log import Log, unix_ms
from ..log.room import with_room
from ..log.segments import Pool
from ..maintenance.checkpoint import FrozenLayer, FrozenState
from ..maintenance.maintenance import Maintenance
from ..maintenance.memory_merge import merge_in_memory
from ..media.base import Medium
from ..runtime.arguments import check_text
from ..runtime.memory_nodes import ANYWHERE, MemoryNodes
from ..versions.expired_records import Record
from ..versions.layer import IndexMemory, Layer, LayerTree
from ..versions.manifest import Manifest
from ..versions.view_set import KEYSPACES, MAIN, ViewEntry, ViewInfo, ViewSet, keyspace_name
from .decision_check import check_decision
from .initializer import normalized
from .keyspace import OWNER, Keyspace
from .open_view import EngineContext, OpenView, readonly_because
from .recovery import Replayer, replay_seconds
from .row_codecs import checked_codec, codec_fields, refuse_default
from .row_schema import check_bound, check_name, dtype_from
from .table import Table, refuse_other_layout
from .table_dram import check_fits
from .version_ops import VersionOperations
from .write_batch import WriteBatch

EXPIRED_IN_A_FRAME = 64  # records that were seen expired, in one control frame
MAX_UNMERGED_SEALS = 8  # seals after which a store in memory merges its frozen memtables
VERIFIED_AT_START_BYTES = 64 << 20  # of the catalog; a larger one is verified before the first scan or checkpoint
DEFAULT_CACHE_BYTES = 256 << 20  # budget of the location cache


class Engine:
    """Wires the log, the views, their tables and keyspaces, and checkpoints of one store together."""

    def __init__(
        self,
        pool: Pool,
        durability: str = "commit",
        readonly: bool = False,
        verify: bool = True,
        now: Callable[[], int] = unix_ms,
        files: tuple[Catalog, RunFiles] | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        rows: int = 0,
        nodes: MemoryNodes = ANYWHERE,
    ) -> None:
        """Recover an engine from a pool.

        readonly: write nothing, not even an epoch; verify: check every record and row that is read; now: the clock,
        unix ms; files: the catalog and the run files, None for a store in memory; cache_bytes: of the location cache;
        rows: bytes of the row cache, 0 for none; nodes: where memory is taken from."""
        self.pool, self.log = pool, Log(pool, durability, now)
        locations = CacheBudget(cache_bytes)
        self.dram = IndexMemory(Arena(nodes), locations, RowBudget(rows, locations, nodes) if rows else None, nodes)
        self.context = EngineContext(
            self.log, verify, files[0] if files else None, self._clear, self._made_table, self._top_in, self._expire,
            self._set_dram,
        )  # fmt: skip
        self._last_decision = 0  # LSN of the last decision: a name may be missing because of it
        self.view_set = ViewSet(self._new_tree)
        self.open_views: dict[str, OpenView] = {}  # by name: every head, and each snapshot that was read
        # by name and LSN: those that somebody holds, deleted ones too, as it may turn out that they were not
        self._held_views: weakref.WeakValueDictionary[tuple[str, int], OpenView] = weakref.WeakValueDictionary()
        self._aside: dict[str, OpenView] | None = None  # the open views, while memory is rebuilt
        self.maintenance = Maintenance(self.log, *files, self._freeze, lambda: self.view_set.trees) if files else None
        self.versions, self.replayer = VersionOperations(self), Replayer(self)
        self.recovery = self.replayer.recover()
        self.log.on_failure = lambda: self.replayer.go_back(self.log.durable)
        self.log.on_cut = lambda: self.replayer.go_back(self.log.committed_lsn)
        self.log.on_aborted = self._make_reads_wait
        if readonly:
            self.log.readonly = "the store was opened readonly"
        else:
            self.log.open_epoch()
            if self.maintenance:
                self.maintenance.mend_directory(VERIFIED_AT_START_BYTES)
                self.maintenance.remove_unneeded_files()

    def _new_tree(self, collection: str, decision: dict[str, Any] | None) -> LayerTree:
        """Make the layer tree of a keyspace (decision None), or of the table that a decision created."""
        key = self.pool.hash_key
        if decision is None:
            return LayerTree(collection, self.dram, int.from_bytes(key[:8], "little"), 0)
        seed = int.from_bytes(key[8:16], "little") ^ decision["id"]
        return LayerTree(collection, self.dram, seed, dtype_from(decision["descr"]).itemsize, decision)

    @classmethod
    def on_medium(cls, medium: Medium, segment_size: int | None = None, **options: Any) -> Engine:
        """Create or recover an engine directly on a medium."""
        pool = Pool.load(medium) if Pool.is_pool(medium) else Pool.create(medium, segment_size)
        return cls(pool, **options)

    # memory follows decisions; for this class, Replayer and VersionOperations

    def reset_views(self) -> ViewSet:
        """Replace all views by none, in a new arena: the old one may have been freed in part. Return the earlier views.
        The open views that users hold are put aside, once: this may be the second attempt, after one that was
               interrupted. The caller holds locks.state."""
        if self._aside is None:
            self._aside = self.open_views
        locations = CacheBudget(self.dram.budget.size)
        rows = self.dram.rows.renewed(locations) if self.dram.rows is not None else None
        self.dram = IndexMemory(Arena(self.dram.nodes), locations, rows, self.dram.nodes)
        previous, self.view_set, self.open_views = self.view_set, ViewSet(self._new_tree), {}
        return previous

    def adopt_open_views(self, last: int) -> None:
        """Let the open views that users hold follow the views replayed up to the LSN `last`. The caller holds
        locks.state."""
        assert self._aside is not None
        held = {name: self._held_views.get((name, entry.lsn)) for name, entry in self.view_set.maps.items()}
        used = self._aside | {name: view for name, view in held.items() if view}
        replayed, self.open_views, self._aside = self.open_views, used, None
        self.follow({*self.view_set.maps, *used})
        for view in replayed.values():
            if self.open_views.get(view.view.name) is not view:
                view.release()
        self._last_decision = min(self._last_decision, last)  # later decisions were never made

    def _make_reads_wait(self) -> None:
        """Let every read wait until it is durable that an interrupted write was taken back. The caller holds
        locks.state."""
        self._last_decision = self.log.lsn
        for view in self.open_views.values():
            for collection in view.collections:
                collection.stack.top.visible_since = self.log.lsn

    def follow(self, names: Iterable[str], lsn: int = 0) -> None:
        """Make the open views of these names match the view set since the decision `lsn`.

        Open views of heads are made here, those of snapshots when they are first read. The caller holds locks.state."""
        for name in names:
            entry, view = self.view_set.maps.get(name), self.open_views.get(name)
            if view is not None and (entry is None or entry.lsn != view.view.lsn):
                view.leave(UnknownViewError(f"view {name!r} was deleted"), lsn)
                del self.open_views[name]
                view = None
            if entry is not None and view is None and entry.is_head:
                self._open(entry)
            elif entry is not None and view is not None and (entry.is_head or entry is not view.view):
                view.follow(entry, self.view_set.trees, lsn)

    def _open(self, entry: ViewEntry) -> None:
        """Make the open view of an entry. The caller holds locks.state."""
        view = self.open_views[entry.name] = OpenView(entry, self.view_set.trees, self.context)
        if self._aside is None:  # else it serves a replay
            self._held_views[entry.name, entry.lsn] = view

    def carry_out(self, decision: dict[str, Any], lsn: int, time: int) -> None:
        """Change memory as a decision says. The caller holds locks.state, or replays."""
        try:
            changed = self.view_set.carry_out(decision, lsn, time)
        except KeyError as error:
            raise CorruptionError(f"control frame {lsn} holds {decision!r}, and there is no {error}") from error
        self.follow(changed, lsn)
        if self.maintenance is None and self.view_set.seals > MAX_UNMERGED_SEALS:
            self._merge_in_memory(lsn)

    def decide(self, decision: dict[str, Any], head: str = MAIN) -> int:
        """Append a decision about a head and carry it out; return its LSN. The caller holds locks.append and
        locks.state."""
        self.head_entry(head)  # refuse first: a decision that cannot be carried out must not be in the log
        if head != MAIN:
            decision["head"] = head
        check_decision(self.view_set, decision)
        return self.log.atomic(lambda: self._decide(decision, head))

    def _decide(self, decision: dict[str, Any], head: str) -> int:
        lsn, time = append_control(self.log, decision)
        self._last_decision = lsn
        if self.log.durability == "commit" and "parts" in decision:
            self.open_views[head].keep_shown(decision["parts"], lsn)
        self.carry_out(decision, lsn, time)
        return lsn

    def settle_decisions(self) -> None:
        """Wait until every decision so far is durable."""
        self.log.wait_durable(self._last_decision)

    # views

    @property
    def main(self) -> OpenView:
        self.log.access.finish_interrupted()
        return self.open_views[MAIN]

    @property
    def keyspaces(self) -> list[Keyspace]:
        """Return the keyspaces of `main`."""
        return self.main.keyspaces

    @property
    def tables(self) -> dict[str, Table]:
        """Return the tables of `main` by name."""
        return self.main.tables

    def view(self, name: str) -> OpenView:
        """Return the open view of this name. UnknownViewError: no view has it."""
        check_text(name, "the name of a view")
        self.log.guard_read()
        view = self.open_views.get(name)
        if view is None:
            with self.log.locks.state:
                if name not in self.open_views and name in self.view_set.maps:
                    self._open(self.view_set.maps[name])
                view = self.open_views.get(name)
        self.log.wait_durable(view.view.lsn if view is not None else self._last_decision)
        if view is None:
            raise self._unknown_view(name)
        return view

    def _unknown_view(self, name: str) -> UnknownViewError:
        return UnknownViewError(f"there is no view {name!r}; there are: {', '.join(sorted(self.view_set.maps))}")

    def view_entry(self, name: str, *kinds: str) -> ViewEntry:
        """Return the entry of a view; InvalidError if it is not of one of these kinds. The caller holds locks.state."""
        check_text(name, "the name of a view")
        entry = self.view_set.maps.get(name)
        if entry is None:
            raise self._unknown_view(name)
        if kinds and entry.kind not in kinds:
            raise InvalidError(f"{name!r} is a {entry.kind}, not a {' or '.join(kinds)}")
        return entry

    def head_entry(self, name: str) -> ViewEntry:
        """Return the entry of a head; ReadOnlyError if the view takes no writes. The caller holds locks.state."""
        entry = self.view_entry(name)
        if not entry.is_head:
            raise ReadOnlyError(readonly_because(entry))
        return entry

    def views(self) -> dict[str, ViewInfo]:
        """Describe all views, `main` first, then by age."""
        self.log.guard_read()
        with self.log.publisher.entry, self.log.locks.state:
            entries = sorted(self.view_set.maps.values(), key=lambda entry: entry.lsn)
            found, lsn = {entry.name: self.view_set.info(entry.name) for entry in entries}, self.log.lsn
        self.log.wait_durable(lsn)  # the writes counted may be pending
        return found

    def view_info(self, name: str) -> ViewInfo:
        """Describe one view."""
        self.view(name)
        with self.log.publisher.entry, self.log.locks.state:
            found, lsn = self.view_set.info(name) if name in self.view_set.maps else None, self.log.lsn
        self.log.wait_durable(lsn)
        if found is None:
            raise self._unknown_view(name)
        return found

    @property
    def main_changes(self) -> tuple[int, int]:
        """Return how often `main` was promoted, rolled back or undone, and the LSN of the last time."""
        self.log.access.finish_interrupted()
        return self.view_set.main_changes

    # tables and keyspaces

    def create_table(
        self,
        name: str,
        dtype: npt.DTypeLike,
        rows: int | None = None,
        head: str = MAIN,
        exist_ok: bool = False,
        default: Any = None,
        codec: str | None = None,
        dram: Any = None,
    ) -> Table:
        """Create a table. rows: the ids are 0 to rows - 1 (dense), None for any int64 ids; default: of absent rows;
        codec: how rows are stored, None: as they are; dram: as of `Table.set_dram`.

        exist_ok: return an existing table of equal dtype, shape, `rows`, default and codec. ExistsError: the name is
        taken."""
        check_name(name, "table")
        wanted = checked_codec(codec, dtype)
        rows, initial = check_bound(rows), normalized(default, wanted.dtype, wanted.shape)
        refuse_default(wanted, initial)
        if exist_ok and self.log.readonly and name in self.view(head).tables:  # nothing is to be written
            refuse_other_layout(self.table(name, head), wanted, rows, initial)
            return self.table(name, head)
        optional: dict[str, Any] = {"default": initial, "dram": dram_choice(dram)}
        self.log.guard_write()

        def create() -> tuple[Table | None, Table]:
            with self.log.locks.append, self.log.locks.state:
                view = self.open_views[self.head_entry(head).name]
                existing = view.tables.get(name)
                if existing is None:
                    check_fits(self.dram.rows, optional["dram"], wanted.width, rows, None, name)
                    fields = codec_fields(wanted)
                    decision = {"op": "create_table", "id": self.view_set.last_table + 1, "name": name}
                    decision |= {"descr": fields.pop("descr"), "rows": rows}
                    given = {key: one for key, one in (optional | fields).items() if one is not None}
                    self.decide(decision | given, head)
                return existing, view.tables[name]

        existing, table = with_room(self.log, create)
        self.log.wait_durable(table.layer)
        if existing is not None and not exist_ok:
            raise ExistsError(f"there is a table {name!r} already, with rows of {existing.row_dtype}")
        if existing is not None:
            refuse_other_layout(existing, wanted, rows, initial)
        return table

    def _set_dram(self, number: int, choice: DramChoice, head: str) -> int:
        """Choose how much DRAM the rows of a table may count on; return the LSN of that decision."""
        with self.log.locks.append, self.log.locks.state:
            table = self.open_views[self.head_entry(head).name].by_id(number)
            main = self.open_views[MAIN].tables.get(table.name)
            sharer = main.stack.rows if main is not None and main.id == number else None
            check_fits(self.dram.rows, choice, table.width, table.rows, sharer, table.name)
            return self.decide({"op": "set_dram", "id": number, "dram": choice}, head)

    def _made_table(self, name: str, dtype: str, head: str) -> Table:
        """Return a table of a head, created if it has none of this name."""
        with contextlib.suppress(ExistsError):  # another thread may have been faster
            return self.create_table(name, dtype, None, head)
        return self.table(name, head)

    def restore_table(self, decision: dict[str, Any], head: str = MAIN) -> None:
        """Create a table by the decision of another store, with an id of this one, in this head: it may have been
        created on a branch, and promoted."""
        self.log.guard_write()
        decision = {key: value for key, value in decision.items() if key != "head"}
        with self.log.locks.append, self.log.locks.state:
            if decision["name"] in self.open_views[self.head_entry(head).name].tables:
                raise ExistsError(f"there is a table {decision['name']!r} already")
            lsn = self.decide(decision | {"id": self.view_set.last_table + 1}, head)
        self.log.wait_durable(lsn)

    def _top_in(self, view: str, tree: LayerTree) -> tuple[Layer | None, int]:
        """Return the top layer of a tree in a view, and the LSN that it depends on. The caller holds locks.state.

        UnknownNameError: the view has another table, or none."""
        entry = self.view_entry(view)
        if tree.name not in entry.tops:
            raise UnknownNameError(
                f"view {view!r} has not the same table: it was created since, perhaps after a drop; all rows differ"
            )
        top = entry.tops[tree.name]
        return top, max(entry.lsn, top.last_write if top is not None else 0)

    def drop_table(self, name: str, head: str = MAIN) -> None:
        """Remove a table with all its rows."""
        self.log.guard_write()
        self.table(name, head)

        def drop() -> int:
            return self.decide({"op": "drop_table", "id": self.table(name, self.head_entry(head).name).id}, head)

        lsn, _ = with_room(self.log, lambda: self.log.exclusively(drop), frees=True)
        self.log.wait_durable(lsn)

    def table(self, name: str, view: str = MAIN) -> Table:
        """Return the table of this name. UnknownNameError: the view has none."""
        return self.view(view).table(name)

    def clear_all(self, head: str = MAIN) -> None:
        """Empty all keyspaces at once (FLUSHALL)."""
        self.log.guard_write()

        def clear() -> int:
            with self.log.locks.append, self.log.locks.state:
                return self.decide({"op": "clear", "keyspaces": list(range(KEYSPACES))}, self.head_entry(head).name)

        self.log.wait_durable(with_room(self.log, clear, frees=True))

    def _clear(self, head: str, number: int) -> int:
        """Empty one keyspace; return the decision's LSN. The caller holds locks.append and locks.state."""
        return self.decide({"op": "clear", "keyspaces": [number]}, head)

    def _expire(self, number: int, records: list[Record]) -> int:
        """Note that records of a keyspace were seen expired, so that a clock that is set back does not revive them.
        Return the LSN of that; 0 if it cannot be logged, and holds for this opening only: readonly, or no room."""
        log = self.log
        with log.locks.append, log.locks.state:
            expired = self.view_set.trees[keyspace_name(number)].expired
            news = [record for record in records if expired.is_news(record)]
            self.context.lookups.expired += len(news)
            for some in (news[i : i + EXPIRED_IN_A_FRAME] for i in range(0, len(news), EXPIRED_IN_A_FRAME)):
                try:
                    log.guard_write()
                    decision = {"op": "expired", "keyspace": number, "records": some}
                    log.atomic(lambda one=decision: self.carry_out(one, *append_control(log, one)))
                except PmkvError:
                    expired.add(some)
            return expired.lsn

    # checkpoints

    def _freeze(self) -> FrozenState:
        """Freeze all memtables at one position of the log, and return the manifest of that moment."""
        with self.log.locks.append, self.log.locks.state:
            self.log.access.finish_interrupted()
            if self.log.readonly:  # checked with the locks held: a flush may have failed while this waited for them
                raise ReadOnlyError(self.log.readonly)
            if self.maintenance:
                self.log.change_memory(self.maintenance.catch_up)
            return self.log.change_memory(self._frozen_state)

    def _frozen_state(self) -> FrozenState:
        """Freeze all memtables. The caller holds locks.append and locks.state."""
        views = self.view_set
        self._freeze_memtables()
        unshared = {name for name, tree in views.trees.items() if tree.keyed and not views.is_shared(name)}
        dead = [key for number in range(KEYSPACES) if keyspace_name(number) in unshared
                for key in self.keyspaces[number].ordered.take_dead()]  # fmt: skip
        layers = [layer for tree in views.trees.values() for layer in tree.layers.values() if layer.frozen]
        end = self.log.end_position()
        manifest = Manifest(end, views.last_table, views.collection_records(), views.view_records(), views.main_changes)
        frozen, appended = [FrozenLayer.of(layer) for layer in layers], self.log.appended
        return FrozenState(manifest, views.trees, frozen, dead, unshared, appended, self.log.chunk_pins.freeze())

    def _freeze_memtables(self) -> None:
        """Freeze all memtables, and release previous versions first: no manifest names them, so a checkpoint must not
        write them."""
        for view in self.open_views.values():
            view.forget_previous()
        self.view_set.freeze_memtables()

    def _merge_in_memory(self, lsn: int) -> None:
        """Merge the frozen memtables of a store without files: otherwise each version would leave one more for every
        read to probe."""
        self._freeze_memtables()
        for tree in self.view_set.trees.values():
            for layer in tree.layers.values():
                merge_in_memory(layer, self.log.data, tree.number + (OWNER if tree.keyed else 0))
                layer.visible_since = lsn  # a key may be absent now because of a delete that is pending

    @property
    def is_cold(self) -> bool:
        """Return whether a read may have to wait for the disk to read an index."""
        return any(collection.is_cold for collection in self.main.collections)

    @property
    def replay_cost(self) -> float:
        """Return the seconds that a replay from the last checkpoint would take; 0 for a store without checkpoints."""
        return replay_seconds(self.maintenance.complete_to, self.log.appended) if self.maintenance else 0.0

    @property
    def since_checkpoint(self) -> tuple[int, int]:
        """Return how many records and bytes were written since the last checkpoint."""
        before = self.maintenance.complete_to if self.maintenance else self.log.appended
        return self.log.appended[1] - before[1], self.log.appended[2] - before[2]

    # batches and checks

    def batch(self, length: int = 0) -> WriteBatch:
        """Return a context manager for writes that take effect together; none does if the block raises. length: an
        upper bound of their bytes in the log, reserved first."""
        return WriteBatch(self.log, length)

    def check(self) -> None:
        """Assert every invariant of the log, the views and their collections."""
        self.log.exclusively(self._check)

    def _check(self) -> None:
        self.log.check()
        self.view_set.check()
        if self.maintenance:
            self.maintenance.check()
        checked: set[Layer] = set()
        for name in self.view_set.maps:
            self.view(name).check(checked)
