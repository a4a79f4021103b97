"""The engine: views of 16 keyspaces and any number of tables over one log on one medium. No threads: those are the
store's.

Memory is what the catalog says, and what replay makes of the log behind it; a decision (create, drop, clear, and all
about versions) is appended as a control frame and carried out by the same code that replays it. After a failed flush
the same replay brings memory back to what is durable. Without a catalog (a store in memory) the log is all there is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from ..catalog.lmdb_catalog import Catalog
from ..errors import ConflictError, CorruptionError, ExistsError, InvalidError, ReadOnlyError, UnknownViewError
from ..index.arena import Arena
from ..index.location_cache import CacheBudget
from ..index.run_files import RunFiles
from ..log.decisions import append_control, read_control
from ..log.durability import DurabilityWait
from ..log.format import Frame, Kind
from ..log.log import Log, unix_ms
from ..log.replay import LogEnd, Replay
from ..log.segments import Pool
from ..maintenance.checkpoint import FrozenLayer, FrozenState
from ..maintenance.maintenance import Maintenance
from ..maintenance.memory_merge import merge_in_memory
from ..media.base import Medium
from ..versions.layer import IndexMemory, Layer, LayerTree
from ..versions.manifest import Manifest
from ..versions.view_set import KEYSPACES, MAIN, UNDO, ViewEntry, ViewInfo, ViewSet, keyspace_name, table_name
from .keyspace import OWNER, Keyspace
from .open_view import EngineContext, OpenView, readonly_because
from .table import NAME, Table, check_bound, descr_of, dtype_from, row_dtype
from .version_plan import KeyspaceChoice, Plan, TableNames, check_view_name, plan_promote, plan_rollback, plan_undo

MOST_SEALS = 8  # versions between two folds of a store in memory
SOME = 4096  # frames that replay looks at before it enters the first of them
HOT = 256 << 20  # bytes of hot words, where nobody says how many
# What replay costs: measured on two slow cores, to decide when a checkpoint is due.
COSTS = 18e-6, 0.25e-6, 0.3e-9  # seconds a frame, a record, a byte


@dataclass(frozen=True)
class Recovery:
    """What opening took: frames and records replayed, seconds, and bytes that were accepted and made durable again."""

    frames: int
    records: int
    seconds: float
    rewritten: int


class Engine:
    """What a store is made of. `readonly`: nothing is written, not even an epoch."""

    def __init__(
        self,
        pool: Pool,
        durability: str = "commit",
        readonly: bool = False,
        verify: bool = True,
        now: Callable[[], int] = unix_ms,
        files: tuple[Catalog, RunFiles] | None = None,
        hot: int = HOT,
    ) -> None:
        """files: the catalog and where runs stand, None for neither; hot: bytes that hot words may take."""
        self.pool, self.log = pool, Log(pool, durability, now)
        self.dram = IndexMemory(Arena(), CacheBudget(hot))
        self._ground = EngineContext(self.log, verify, files[0] if files else None, self._clear)
        self._decided = 0  # the LSN of the last decision: names that are missing may be so because of it
        self.on_switch: Callable[[], None] | None = None  # main was promoted or rolled back; from any thread
        self.heads = ViewSet(self._new_tree)
        self._contents: dict[str, OpenView] = {}
        self.upkeep = Maintenance(self.log, *files, self._rotate, lambda: self.heads.trees) if files else None
        self.recovery = self._recover()
        self.log.on_failure = self._go_back
        if readonly:
            self.log.readonly = "the store was opened readonly"
        else:
            self.log.open_epoch()
            if self.upkeep:
                self.upkeep.remove_unneeded_files()

    def _new_tree(self, part: str, decision: dict[str, Any] | None) -> LayerTree:
        key = self.pool.hash_key
        if decision is None:
            return LayerTree(part, self.dram, int.from_bytes(key[:8], "little"), 0)
        seed = int.from_bytes(key[8:16], "little") ^ decision["id"]
        return LayerTree(part, self.dram, seed, dtype_from(decision["descr"]).itemsize, decision)

    @classmethod
    def on_medium(cls, medium: Medium, segment_size: int | None = None, **options: Any) -> Engine:
        """Create or recover directly on a medium."""
        pool = Pool.load(medium) if Pool.is_pool(medium) else Pool.create(medium, segment_size)
        return cls(pool, **options)

    # recovery

    def _recover(self) -> Recovery:
        start = time.perf_counter()
        replay, frames, records, length = Replay(self.pool, start=self._restore()), 0, 0, 0
        coming = iter(replay)
        while some := list(islice(coming, SOME)):
            self.heads.expect(some)
            for frame in some:
                self._apply(frame)
                frames, records, length = frames + 1, records + frame.count, length + frame.length
        self.pool.adopt(replay.segments)
        self.log.resume(replay)
        if self.upkeep:
            self.upkeep.complete_to = -frames, -records, -length
        return Recovery(
            frames, records, time.perf_counter() - start, sum(stop - start for start, stop in replay.undurable)
        )

    def _go_back(self) -> None:
        """A flush failed: make memory what the durable part of the log says. What users hold of it stays the same
        objects."""
        old, used = self.heads, self._contents
        self.heads, self._contents = ViewSet(self._new_tree), {}
        for frame in Replay(self.pool, last=self.log.durable, start=self._restore()):
            self._apply(frame)
        replayed, self._contents = self._contents, used
        self._follow({*self.heads.maps, *used})
        for contents in replayed.values():
            if self._contents.get(contents.view.name) is not contents:
                for part in contents.parts:
                    part.chain.close()
        self._decided = min(self._decided, self.log.durable)  # what was decided later never was
        old.discard()

    def _restore(self) -> LogEnd | None:
        """Memory as the catalog says; returns where in the log that ends."""
        state = self.upkeep.manifest if self.upkeep else None
        if state is not None:
            self.heads.restore(state)
        self._follow(self.heads.maps)
        return state.end if state is not None else None

    def _follow(self, names: Iterable[str], lsn: int = 0) -> None:
        """Make tables and keyspaces of these views what the heads say since the decision `lsn`. Those of snapshots are
        made when somebody reads them."""
        for name in names:
            view, contents = self.heads.maps.get(name), self._contents.get(name)
            if contents is not None and (view is None or view.lsn != contents.view.lsn):
                contents.leave(UnknownViewError(f"view {name!r} was deleted"), lsn)
                del self._contents[name]
                contents = None
            if view is not None and contents is None and view.is_head:
                self._contents[name] = OpenView(view, self.heads.trees, self._ground)
            elif view is not None and contents is not None and (view.is_head or view is not contents.view):
                contents.follow(view, self.heads.trees, lsn)

    def _apply(self, frame: Frame) -> None:
        """Memory as it is after this frame."""
        match frame.kind:
            case Kind.PUT:
                contents = self._writer_of(frame, keyspace_name(frame.table))
                contents.keyspaces[frame.table].replay(frame)
            case Kind.ROWS:
                self._writer_of(frame, table_name(frame.table)).by_id(frame.table).replay(frame)
            case Kind.CONTROL:
                decision = read_control(memoryview(self.pool.medium.data), frame)
                self._carry_out(decision, frame.lsn, frame.time)
            case Kind.PART | Kind.OPEN | Kind.MARK | Kind.NEXT:
                pass
            case _:
                raise self._strange(frame)

    def _writer_of(self, frame: Frame, part: str) -> OpenView:
        """Of the head whose open layer a frame names."""
        for contents in self._contents.values():
            top = contents.view.parts.get(part)
            if top is not None and top.id == frame.layer and not top.sealed:
                return contents
        raise self._strange(frame)

    @staticmethod
    def _strange(frame: Frame) -> CorruptionError:
        return CorruptionError(
            f"frame {frame.lsn} at offset {frame.offset:,} has kind {frame.kind}, table {frame.table} and layer "
            f"{frame.layer}: not written by this version, or damaged"
        )

    def _carry_out(self, decision: dict[str, Any], lsn: int, time: int) -> None:
        try:
            concerned = self.heads.carry_out(decision, lsn, time)
        except KeyError as error:
            raise CorruptionError(f"control frame {lsn} holds {decision!r}, and there is no {error}") from error
        self._follow(concerned, lsn)
        if self.upkeep is None and self.heads.seals > MOST_SEALS:
            self._fold_in_memory(lsn)

    def _decide(self, decision: dict[str, Any], head: str = MAIN) -> int:
        self._head(head)  # before it is in the log: what cannot be carried out could not be replayed
        if head != MAIN:
            decision["head"] = head
        lsn, time = append_control(self.log, decision)
        self._decided = lsn
        if self.log.durability == "commit" and "parts" in decision:
            self._contents[head].keep_shown(decision["parts"], lsn)
        self._carry_out(decision, lsn, time)
        return lsn

    def settle_decisions(self) -> None:
        """What was seen depends on all of them."""
        self.log.wait_durable(self._decided)

    # views

    @property
    def main(self) -> OpenView:
        return self._contents[MAIN]

    @property
    def keyspaces(self) -> list[Keyspace]:
        """Those of `main`."""
        return self.main.keyspaces

    @property
    def tables(self) -> dict[str, Table]:
        """Those of `main`."""
        return self.main.tables

    def view(self, name: str) -> OpenView:
        """What a view has. UnknownViewError: there is none of this name."""
        self.log.guard_read()
        contents = self._contents.get(name)
        if contents is None:
            with self.log.locks.state:
                contents = self._contents_of(name)
        self.log.wait_durable(contents.view.lsn if contents is not None else self._decided)
        if contents is None:
            raise self._unknown_view(name)
        return contents

    def _contents_of(self, name: str) -> OpenView | None:
        """Under the lock."""
        if name not in self._contents and name in self.heads.maps:
            self._contents[name] = OpenView(self.heads.maps[name], self.heads.trees, self._ground)
        return self._contents.get(name)

    def _unknown_view(self, name: str) -> UnknownViewError:
        return UnknownViewError(f"there is no view {name!r}; there are: {', '.join(sorted(self.heads.maps))}")

    def views(self) -> dict[str, ViewInfo]:
        """All of them, `main` first, then by age."""
        self.log.guard_read()
        with self.log.publisher.quiesced():
            names = sorted(self.heads.maps.values(), key=lambda view: view.lsn)
            found, lsn = {view.name: self.heads.info(view.name) for view in names}, self.log.lsn
        self.log.wait_durable(lsn)  # of all: the writes counted may be pending
        return found

    def view_info(self, name: str) -> ViewInfo:
        """Of one."""
        self.view(name)
        with self.log.publisher.quiesced():
            found, lsn = self.heads.info(name) if name in self.heads.maps else None, self.log.lsn
        self.log.wait_durable(lsn)
        if found is None:
            raise self._unknown_view(name)
        return found

    @property
    def switches(self) -> tuple[int, int]:
        """Promotions, rollbacks and undos of `main` so far, and the LSN of the last."""
        return self.heads.switches

    # decisions about versions

    @contextlib.contextmanager
    def _deciding(self) -> Iterator[ViewSet]:
        """Waits for all there is: a refusal, too, tells of writes that may be pending."""
        self.log.guard_write()
        try:
            with self.log.batch():
                yield self.heads
        finally:
            self.log.wait_durable(self.log.lsn)

    def _map(self, name: str, *kinds: str) -> ViewEntry:
        """The view of this name; InvalidError if it is not of one of these kinds."""
        view = self.heads.maps.get(name)
        if view is None:
            raise self._unknown_view(name)
        if kinds and view.kind not in kinds:
            raise InvalidError(f"{name!r} is a {view.kind}, not a {' or '.join(kinds)}")
        return view

    def _head(self, name: str) -> ViewEntry:
        view = self._map(name)
        if not view.is_head:
            raise ReadOnlyError(readonly_because(view))
        return view

    def _refuse_taken(self, name: str) -> None:
        check_view_name(name)
        if name in self.heads.maps:
            raise ExistsError(f"there is a view {name!r} already, a {self.heads.maps[name].kind}: delete it first")

    def _seal(self, view: ViewEntry) -> None:
        """Before something is cut from a head: no frame may open two layers of one part."""
        if view.is_head and any(top is not None and top.writes for top in view.parts.values()):
            self._decide({"op": "seal"}, view.name)

    def snapshot(self, name: str, head: str = MAIN) -> None:
        """Give a head's state of now a name."""
        with self._deciding():
            self._refuse_taken(name)
            self._decide({"op": "snapshot", "name": name}, self._head(head).name)

    def branch(self, name: str, at: str = MAIN) -> OpenView:
        """A new head, that begins as the view `at` is now."""
        with self._deciding():
            self._refuse_taken(name)
            self._seal(self._map(at))
            self._decide({"op": "branch", "name": name, "at": at})
        return self.view(name)

    def promote(self, name: str, tables: TableNames = None, keys: KeyspaceChoice = None, force: bool = False) -> None:
        """Give `main` what a branch wrote. ConflictError: main wrote to that meanwhile, unless forced."""
        with self._deciding() as heads:
            branch = self._map(name, "branch")
            self._exchange("promote", branch, plan_promote(heads, branch, tables, keys), MAIN, force)

    def rollback(self, name: str, tables: TableNames = None, keys: KeyspaceChoice = None, head: str = MAIN) -> None:
        """Give a head a snapshot's state."""
        with self._deciding() as heads:
            target, snapshot = self._head(head), self._map(name, "snapshot")
            self._exchange("rollback", snapshot, plan_rollback(heads, target, snapshot, tables, keys), head, True)

    def undo(self, force: bool = False) -> None:
        """Bring back what the last promote or rollback of `main` exchanged. ConflictError: that was written to since,
        unless forced."""
        with self._deciding() as heads:
            if UNDO not in heads.maps:
                raise UnknownViewError("there is nothing to undo: no promote or rollback since the last undo")
            self._exchange("undo", heads.maps[UNDO], plan_undo(heads), MAIN, force)

    def _exchange(self, op: str, source: ViewEntry, plan: Plan, head: str, force: bool) -> None:
        if plan.conflicts and not force:
            raise ConflictError(f"{'; '.join(plan.conflicts)}. Nothing was changed; with force, that is dropped")
        if not (plan.parts or plan.drop) and op != "undo":
            if op == "promote":
                raise InvalidError(
                    f"nothing to promote: branch {source.name!r} wrote nothing since it was cut or promoted"
                )
            return  # as it is already; what `undo` would bring back stays
        self._seal(source)
        self._decide({"op": op, "name": source.name, "parts": plan.parts, "drop": plan.drop}, head)
        if head == MAIN and self.on_switch:
            self.on_switch()

    def delete_view(self, name: str) -> None:
        """Forget a name. What others stand on stays."""
        with self._deciding():
            if self._map(name).kind == MAIN:
                raise InvalidError("`main` cannot be deleted")
            self._decide({"op": "delete_view", "name": name})

    # decisions

    def create_table(self, name: str, dtype: npt.DTypeLike, rows: int | None = None, head: str = MAIN) -> Table:
        """A new table. rows: ids are 0 to rows - 1 (dense)."""
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InvalidError(
                f"{name!r} cannot name a table: letters, digits, _ . : and -, at most 128, not beginning with . : or -"
            )
        rows = check_bound(rows)
        descr = descr_of(row_dtype(dtype))
        self.log.guard_write()
        with self.log.locks.append, self.log.locks.state:
            contents = self._contents[self._head(head).name]
            there = contents.tables.get(name)
            if there is None:
                number = self.heads.last_table + 1
                decision = {"op": "create_table", "id": number, "name": name, "descr": descr, "rows": rows}
                self._decide(decision, head)
            table = contents.tables[name]
        self.log.wait_durable(table.layer)
        if there is not None:
            raise ExistsError(f"there is a table {name!r} already, with rows of {there.row_dtype}")
        return table

    def drop_table(self, name: str, head: str = MAIN) -> None:
        """Remove a table with all its rows."""
        self.log.guard_write()
        self.table(name, head)
        with self.log.locks.append, self.log.locks.state, self.log.deferred():
            lsn = self._decide({"op": "drop_table", "id": self.table(name, self._head(head).name).id}, head)
        self.log.wait_durable(lsn)

    def table(self, name: str, view: str = MAIN) -> Table:
        """The table of this name."""
        return self.view(view).table(name)

    def clear_all(self, head: str = MAIN) -> None:
        """Empty all keyspaces at once (FLUSHALL)."""
        self.log.guard_write()
        with self.log.locks.append, self.log.locks.state:
            lsn = self._decide({"op": "clear", "keyspaces": list(range(KEYSPACES))}, self._head(head).name)
        self.log.wait_durable(lsn)

    def _clear(self, head: str, number: int) -> int:
        """Empty one. Under the lock."""
        return self._decide({"op": "clear", "keyspaces": [number]}, head)

    # checkpoints

    def _rotate(self) -> FrozenState:
        """Close all open runs at one place of the log, and say what there was then."""
        with self.log.locks.append, self.log.locks.state:
            if self.log.readonly:  # under the lock: a flush may have failed while this waited for it
                raise ReadOnlyError(self.log.readonly)
            heads = self.heads
            self._close_all()
            lonely = {part for part, tree in heads.trees.items() if tree.keyed and not heads.is_shared(part)}
            dead = [key for number in range(KEYSPACES) if keyspace_name(number) in lonely
                    for key in self.keyspaces[number].take_dead()]  # fmt: skip
            layers = [layer for tree in heads.trees.values() for layer in tree.layers.values() if layer.frozen]
            end = self.log.end_position()
            state = Manifest(end, heads.last_table, heads.collection_records(), heads.view_records(), heads.switches)
            return FrozenState(state, [FrozenLayer.of(layer) for layer in layers], dead, lonely, self.log.appended)

    def _close_all(self) -> None:
        """No layer stays that only those are shown who need not wait: it belongs to no state."""
        for contents in self._contents.values():
            contents.forget_former()
        self.heads.freeze_memtables()

    def _fold_in_memory(self, lsn: int) -> None:
        """What checkpoints and folds do elsewhere: without, each version would leave one more run to ask for ever."""
        self._close_all()
        for tree in self.heads.trees.values():
            for layer in tree.layers.values():
                merge_in_memory(layer, self.log.data, tree.number + (OWNER if tree.keyed else 0))
                layer.visible_since = lsn  # what is absent now may be so by a delete that is pending

    @property
    def is_cold(self) -> bool:
        """May a read have to wait for the disk to read an index?"""
        return any(part.is_cold for part in self.main.parts)

    @property
    def replay_cost(self) -> float:
        """Seconds that replaying the log from the last checkpoint on would take, about. 0 where there are none."""
        if self.upkeep is None:
            return 0.0
        frames, records, length = self.log.appended
        before, cost = self.upkeep.complete_to, COSTS
        return (frames - before[0]) * cost[0] + (records - before[1]) * cost[1] + (length - before[2]) * cost[2]

    # several things at once

    @contextlib.contextmanager
    def batch(self, length: int = 0) -> Iterator[None]:
        """Everything written inside takes effect together. length: an upper bound of what it takes in the log,
        reserved first."""
        self.log.guard_write()
        inner = DurabilityWait()
        try:
            with self.log.deferred() as inner, self.log.batch(length):
                yield
        finally:  # what was written before the body raised stays written: it is waited for, too
            self.log.wait_durable(inner.lsn if self.log.durability == "commit" else self.log.lsn)

    def gather(
        self, wanted: Mapping[str, npt.ArrayLike], default: Any = 0.0, view: str = MAIN
    ) -> dict[str, np.ndarray]:
        """Rows of several tables, of one moment: {name: ids} to {name: rows}."""
        return self.view(view).gather(wanted, default)

    def pool_many(
        self, wanted: Mapping[str, tuple[npt.ArrayLike, ...]], mode: str = "sum", view: str = MAIN
    ) -> dict[str, np.ndarray]:
        """Pooled rows of several tables, of one moment: {name: (ids, offsets[, weights])} to {name: rows}."""
        return self.view(view).pool_many(wanted, mode)

    def check(self) -> None:
        """Assert every invariant of the parts."""
        with self.log.locks.append, self.log.locks.state, self.log.deferred():
            self.log.check()
            self.heads.check()
            seen: set[Layer] = set()
            for name in self.heads.maps:
                self.view(name).check(seen)
