"""The engine: 16 keyspaces and any number of tables over one log on one medium. No threads: those are the store's.

Memory is what the catalog says, and what replay makes of the log behind it; a decision (create, drop, clear) is
appended as a control frame and carried out by the same code that replays it. After a failed flush the same replay
brings memory back to what is durable. Without a catalog (a store in memory) the log is all there is.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import CorruptionError, ExistsError, InvalidError, ReadOnlyError, UnknownNameError
from .index.heap import Heap
from .index.hot import Budget
from .index.run import Run
from .index.shelf import Shelf
from .keyspace import Keyspace
from .log.control import append_control, read_control
from .log.format import Frame, Kind
from .log.pool import Pool
from .log.replay import LogEnd, Replay
from .log.writer import Deferral, Log, unix_ms
from .media.base import Medium
from .table import NAME, Table, descr_of, dtype_from, row_dtype
from .versions.catalog import Catalog
from .versions.chain import Chain, Dram
from .versions.state import PartState, State
from .versions.upkeep import Closed, Rotation, Upkeep

KEYSPACES = 16
HOT = 256 << 20  # bytes of hot words, where nobody says how many
MOST_ROWS = 1 << 47
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
        files: tuple[Catalog, Shelf] | None = None,
        hot: int = HOT,
    ) -> None:
        """files: the catalog and where runs stand, None for neither; hot: bytes that hot words may take."""
        self.pool, self._verify = pool, verify
        self.log = Log(pool, durability, now)
        self.dram = Dram(Heap(), Budget(hot))
        directory = files[0] if files else None
        self.keyspaces = [Keyspace(number, self.log, self.dram, verify, directory) for number in range(KEYSPACES)]
        self.tables: dict[str, Table] = {}
        self._tables: dict[int, Table] = {}
        self._creations: dict[int, dict[str, Any]] = {}  # the decision that created each table
        self._last_table = 0  # ids are never used again
        self._decided = 0  # the LSN of the last decision: names that are missing may be so because of it
        self.upkeep = Upkeep(self.log, *files, self._rotate, self._chain_of) if files else None
        self.recovery = self._recover()
        self.log.on_failure = self._go_back
        if readonly:
            self.log.readonly = "the store was opened readonly"
        else:
            self.log.open_epoch()
            if self.upkeep:
                self.upkeep.tidy()

    @classmethod
    def on_medium(cls, medium: Medium, segment_size: int | None = None, **options: Any) -> Engine:
        """Create or recover directly on a medium."""
        pool = Pool.load(medium) if Pool.is_pool(medium) else Pool.create(medium, segment_size)
        return cls(pool, **options)

    # recovery

    def _recover(self) -> Recovery:
        start = time.perf_counter()
        replay, frames, records, length = Replay(self.pool, start=self._restore()), 0, 0, 0
        for frame in replay:
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
        """A flush failed: make memory what the durable part of the log says. Tables that users hold keep their
        identity."""
        former, self._tables, self.tables, self._creations, self._last_table = self._tables, {}, {}, {}, 0
        for keyspace in self.keyspaces:
            keyspace.reset(0)
        for frame in Replay(self.pool, last=self.log.durable, start=self._restore()):
            self._apply(frame)
        for number, table in former.items():
            if number in self._tables:
                table.become(self._tables[number])
                self._tables[number] = self.tables[table.name] = table
            else:
                table.drop()

    def _restore(self) -> LogEnd | None:
        """Memory as the catalog says; returns where in the log that ends."""
        state = self.upkeep.committed if self.upkeep else None
        if state is None:
            return None
        for part, kept in state.parts.items():
            if kept.decision is not None:
                self._carry_out(kept.decision, kept.layer, kept.runs)
            else:
                self.keyspaces[int(part.partition("/")[2])].reset(kept.layer, kept.runs)
        self._last_table = state.last_table
        return state.end

    def _apply(self, frame: Frame) -> None:
        """Memory as it is after this frame."""
        match frame.kind:
            case Kind.PUT:
                self.keyspaces[frame.table].replay(frame)
            case Kind.ROWS if frame.table in self._tables:
                self._tables[frame.table].replay(frame)
            case Kind.CONTROL:
                self._carry_out(read_control(memoryview(self.pool.medium.data), frame), frame.lsn)
            case Kind.PART | Kind.OPEN | Kind.MARK | Kind.NEXT:
                pass
            case _:
                raise CorruptionError(
                    f"frame {frame.lsn} at offset {frame.offset:,} has kind {frame.kind} and table {frame.table}: "
                    "not written by this version, or damaged"
                )

    def _carry_out(self, decision: dict[str, Any], lsn: int, runs: tuple[Run, ...] = ()) -> None:
        match decision:
            case {"op": "create_table", "id": number, "name": name, "descr": descr, "rows": rows}:
                table = Table(number, name, dtype_from(descr), rows, lsn, self.log, self.dram, self._verify, runs)
                self.tables[name] = self._tables[number] = table
                self._creations[number] = decision
                self._last_table = max(self._last_table, number)
            case {"op": "drop_table", "id": number}:
                table = self._tables.pop(number)
                del self.tables[table.name], self._creations[number]
                table.drop()
            case {"op": "clear", "keyspaces": numbers}:
                for number in numbers:
                    self.keyspaces[number].reset(lsn)
            case _:
                raise CorruptionError(f"control frame {lsn} holds {decision!r}, which this version does not know")

    def _decide(self, decision: dict[str, Any]) -> int:
        lsn = self._decided = append_control(self.log, decision)
        self._carry_out(decision, lsn)
        return lsn

    # decisions

    def create_table(self, name: str, dtype: npt.DTypeLike, rows: int | None = None) -> Table:
        """A new table. rows: ids are 0 to rows - 1 (dense)."""
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InvalidError(
                f"{name!r} cannot name a table: letters, digits, _ . : and -, at most 128, not beginning with . : or -"
            )
        rows = self._check_rows(rows)
        descr = descr_of(row_dtype(dtype))
        self.log.guard_write()
        with self.log.lock:
            there = self.tables.get(name)
            if there is None:
                number = self._last_table + 1
                self._decide({"op": "create_table", "id": number, "name": name, "descr": descr, "rows": rows})
            table = self.tables[name]
        self.log.settle(table.layer)
        if there is not None:
            raise ExistsError(f"there is a table {name!r} already, with rows of {there.row_dtype}")
        return table

    @staticmethod
    def _check_rows(rows: Any) -> int | None:
        if rows is None:
            return None
        if not isinstance(rows, int | np.integer) or not 0 < rows <= MOST_ROWS:
            raise InvalidError(f"rows={rows!r}: a dense table has 1 to {MOST_ROWS:,} rows; None for any int64 ids")
        return int(rows)

    def drop_table(self, name: str) -> None:
        """Remove a table with all its rows."""
        self.log.guard_write()
        self.table(name)
        with self.log.lock, self.log.deferred():
            lsn = self._decide({"op": "drop_table", "id": self.table(name).id})
        self.log.settle(lsn)

    def table(self, name: str) -> Table:
        """The table of this name."""
        self.log.guard_read()
        table = self.tables.get(name)
        if table is None:
            self.log.settle(self._decided)
            raise UnknownNameError(f"there is no table {name!r}; there are: {', '.join(sorted(self.tables)) or 'none'}")
        return table

    def keyspace(self, number: int) -> Keyspace:
        """One of the 16."""
        if not 0 <= number < len(self.keyspaces):
            raise InvalidError(f"there is no keyspace {number}: they are 0 to {len(self.keyspaces) - 1}")
        return self.keyspaces[number]

    def clear_all(self) -> None:
        """Empty all keyspaces at once (FLUSHALL)."""
        self.log.guard_write()
        with self.log.lock:
            lsn = self._decide({"op": "clear", "keyspaces": list(range(KEYSPACES))})
        self.log.settle(lsn)

    # checkpoints

    def _chain_of(self, part: str) -> Chain | None:
        """The chain of a part as it is now; None where there is no such table any more."""
        kind, _, number = part.partition("/")
        if kind == "keyspace":
            return self.keyspaces[int(number)].chain
        table = self._tables.get(int(number))
        return table.chain if table is not None else None

    def _rotate(self) -> Rotation:
        """Close all open runs at one place of the log, and say what there was then."""
        with self.log.lock:
            if self.log.readonly:  # under the lock: a flush may have failed while this waited for it
                raise ReadOnlyError(self.log.readonly)
            parts, closed, dead = {}, {}, []
            for number, keyspace in enumerate(self.keyspaces):
                runs = keyspace.chain.rotate()
                dead += keyspace.take_dead()
                if keyspace.layer or runs or keyspace.chain.runs:
                    name = f"keyspace/{number}"
                    parts[name] = PartState(keyspace.layer, keyspace.chain.runs)
                    closed |= {name: Closed(keyspace.chain, runs, keyspace.chain.runs)} if runs else {}
            for number, table in self._tables.items():
                runs, name = table.chain.rotate(), f"table/{number}"
                parts[name] = PartState(table.layer, table.chain.runs, self._creations[number])
                closed |= {name: Closed(table.chain, runs, table.chain.runs)} if runs else {}
            return Rotation(State(self.log.end_here(), self._last_table, parts), closed, dead, self.log.appended)

    @property
    def is_cold(self) -> bool:
        """May a read have to wait for the disk to read an index?"""
        return any(part.is_cold for part in (*self.keyspaces, *self.tables.values()))

    @property
    def replay_cost(self) -> float:
        """Seconds that replaying the log from the last checkpoint on would take, about. 0 where there are none."""
        if self.upkeep is None:
            return 0.0
        since = zip(self.log.appended, self.upkeep.complete_to)
        return sum((now - then) * cost for (now, then), cost in zip(since, COSTS))

    # several things at once

    @contextlib.contextmanager
    def batch(self, length: int = 0) -> Iterator[None]:
        """Everything written inside takes effect together. length: an upper bound of what it takes in the log,
        reserved first."""
        self.log.guard_write()
        inner = Deferral()
        try:
            with self.log.deferred() as inner, self.log.batch(length):
                yield
        finally:  # what was written before the body raised stays written: it is waited for, too
            self.log.settle(inner.lsn if self.log.durability == "commit" else self.log.lsn)

    def gather(self, wanted: Mapping[str, npt.ArrayLike], default: Any = 0.0) -> dict[str, np.ndarray]:
        """Rows of several tables, of one moment: {name: ids} to {name: rows}."""
        with self.log.deferred() as seen, self.log.lock:
            rows = {name: self.table(name).get(ids, default) for name, ids in wanted.items()}
        self.log.settle(seen.lsn)
        return rows

    def pool_many(self, wanted: Mapping[str, tuple[npt.ArrayLike, ...]], mode: str = "sum") -> dict[str, np.ndarray]:
        """Pooled rows of several tables, of one moment: {name: (ids, offsets[, weights])} to {name: rows}."""
        with self.log.deferred() as seen, self.log.lock:
            pooled = {name: self.table(name).pool(*bags, mode=mode) for name, bags in wanted.items()}
        self.log.settle(seen.lsn)
        return pooled

    def check(self) -> None:
        """Assert every invariant of the parts."""
        with self.log.lock:
            self.log.check()
            for part in (*self.keyspaces, *self.tables.values()):
                part.check()
            assert {table.name: table for table in self._tables.values()} == self.tables
