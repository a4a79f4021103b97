"""`pmkv check --salvage`: copy what is whole of a damaged store into a new one, and say what could not be known.

Every frame whose own checksum holds is applied in the order of LSNs, whatever is missing between them. So a deleted
key may come back, an old value may stand for a newer one, and half of a batch may be there. A frame of a layer whose
opening is lost is taken for one of `main`: the last version that is known may have writes that were another's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data_directory import DataDirectory
from ..engine.keyspace import OWNER
from ..engine.table import Table
from ..errors import ClosedError, CorruptionError, FlushError, FullError, InvalidError, PmkvError
from ..index.arena import Arena
from ..index.location_cache import CacheBudget
from ..kernels import location
from ..kernels.records import FLAG_DELETE, FLAG_PARTS, scan_records
from ..log import large_values
from ..log.decisions import read_control
from ..log.format import ALIGN, Flag, Frame, Kind, seed_of
from ..log.log import Log
from ..log.replay import Replay
from ..log.segments import Pool
from ..store import Store, open_store
from ..versions.layer import IndexMemory, LayerTree
from ..versions.view_set import MAIN, ViewSet, keyspace_name, table_name
from ..view import View


@dataclass
class Salvaged:
    """Report what was copied, and what was left out and why."""

    frames: int = 0
    records: int = 0
    problems: list[str] = field(default_factory=list)


def salvage(
    path: str | os.PathLike[str], target: str | os.PathLike[str], pool: str | os.PathLike[str] = "auto"
) -> Salvaged:
    """Make a new store in the empty directory `target` of the whole frames in `path`, which is only read."""
    if os.path.exists(target) and os.listdir(target):
        raise InvalidError(f"{target} is not empty: salvage into a new directory")
    place, result = DataDirectory(path, pool, None, "page", readonly=True), Salvaged()
    try:
        source = place.open_pool()
        with open_store(target, capacity=int(source.medium.data.size), durability="none") as store:
            copy = Copy(source, store, result.problems)
            # of equal LSNs what a cleaner moved comes last: it is what was there then, and is still
            for frame in sorted(whole_frames(source), key=lambda frame: (frame.lsn, frame.kind == Kind.MOVE)):
                try:
                    result.records += copy.apply(frame)
                    result.frames += 1
                except (FullError, FlushError, ClosedError):
                    raise
                except (LookupError, PmkvError) as error:
                    result.problems.append(f"frame {frame.lsn} at offset {frame.offset:,} is left out: {error}")
    finally:
        place.close()
    return result


def whole_frames(pool: Pool) -> Iterator[Frame]:
    """All of them, of every segment. Where a header is damaged its generation is taken to be 1: the frames' own
    checksums decide, and those of a segment that was used again are not found then."""
    replay = Replay(pool)
    for index in range(pool.count):
        seed = seed_of(pool.pool_id, pool.generations.get(index, 1))
        yield from replay.whole_frames(pool.start(index) + ALIGN, pool.stop(index), seed)


class Copy:
    """Applies frames of one pool to another store. Heads without contents say whose a frame is, and what the parts of a
    decision are called."""

    def __init__(self, source: Pool, store: Store, problems: list[str]) -> None:
        self._log = Log(source)  # for reading values in parts; it never writes
        self._data, self._store, self._problems = source.medium.data, store, problems
        dram = IndexMemory(Arena(), CacheBudget(0))
        self._view_set = ViewSet(
            lambda collection, decision: LayerTree(collection, dram, 0, 1 if decision else 0, decision)
        )
        self._names: dict[int, str] = {}

    def apply(self, frame: Frame) -> int:
        """Do what the frame did; returns how many records or rows were copied."""
        match frame.kind:
            case Kind.PUT:
                return self._put(frame, self._view(frame, keyspace_name(frame.table)))
            case Kind.ROWS:
                return self._rows(frame, self._view(frame, table_name(frame.table)))
            case Kind.CONTROL:
                decision = read_control(memoryview(self._data), frame)
                self._decide(decision, self._store.view(decision.get("head", MAIN)))
                self._view_set.carry_out(decision, frame.lsn, frame.time)
            case Kind.MOVE:
                return self._moved(frame)
        return 0

    def _moved(self, frame: Frame) -> int:
        """Do what the frames did from which a cleaner moved these records."""
        if frame.flags & Flag.DECISION:
            decision = read_control(memoryview(self._data), frame)
            if frame.table not in self._names:  # else the frame that created the table is there, too
                self._decide(decision, self._store)
                self._view_set.carry_out(decision, frame.lsn, frame.time)
        elif frame.flags & Flag.RECORDS:
            return self._put(frame, self._view(frame, keyspace_name(frame.table)))
        elif frame.count and not frame.flags & Flag.CHUNK:
            return self._rows(frame, self._view(frame, table_name(frame.table)))
        return 0

    def _view(self, frame: Frame, collection: str) -> View:
        """Return the view of the head that wrote a frame."""
        for name, view in self._view_set.maps.items():
            top = view.tops.get(collection)
            if top is not None and top.id == frame.layer and not top.sealed:
                top.writes += frame.count
                return self._store.view(name)
        return self._store

    def _put(self, frame: Frame, view: View) -> int:
        """In one call each, so that the copy has as few frames as the source, and fits where that did."""
        entries = list(self._records(frame))
        puts = [(key, value, expiry) for key, value, expiry in entries if value is not None]
        gone = [key for key, value, _ in entries if value is None]
        keyspace = view.keyspace(frame.table)
        if puts:
            keys, values, expiries = map(list, zip(*puts, strict=True))
            keyspace.put_entries(keys, values, expiries)
        keyspace.delete_many(gone)
        return len(entries)

    def _rows(self, frame: Frame, view: View) -> int:
        if frame.table not in self._names:
            raise LookupError(f"table {frame.table} is not known: the frame that created it is lost")
        table = view.table(self._names[frame.table])
        ids = self._data[frame.body : frame.body + 8 * frame.count].view(np.int64)
        if frame.flags & Flag.DELETED:
            table.delete(ids)
        else:
            table.put_stored(ids, self._data[frame.body + 8 * frame.count : frame.body + frame.length])
        return frame.count

    def _decide(self, decision: dict[str, Any], view: View) -> None:
        match decision:
            case {"op": "create_table", "id": number, "name": name}:
                if name in view.tables():  # its drop is lost
                    view.drop_table(name)
                described = {key: value for key, value in decision.items() if key not in ("head", "dram")}
                view.restore_table(described)
                self._keep(view.table(name), decision.get("dram"))
                self._names[number] = name
            case {"op": "set_dram", "id": number, "dram": choice}:
                self._keep(view.table(self._names[number]), choice)
            case {"op": "drop_table", "id": number}:
                view.drop_table(self._names[number])
            case {"op": "clear", "keyspaces": numbers}:
                for number in numbers:
                    view.keyspace(number).clear()
            case {"op": "snapshot", "name": name}:
                self._make_way(name)
                view.snapshot(name)
            case {"op": "branch", "name": name, "at": at}:
                self._make_way(name)
                self._store.branch(name, at)
            case {"op": "promote", "name": name}:
                self._store.promote(name, *self._scope(decision), force=True)
            case {"op": "rollback", "name": name}:
                view.rollback(name, *self._scope(decision))
            case {"op": "undo"}:
                self._store.undo(force=True)
            case {"op": "delete_view", "name": name}:
                self._store.delete_view(name)

    def _keep(self, table: Table, choice: Any) -> None:
        with contextlib.suppress(InvalidError):  # there is less DRAM here
            table.set_dram(choice)

    def _make_way(self, name: str) -> None:
        if name in self._store.views():  # its end is lost
            self._store.delete_view(name)

    def _scope(self, decision: dict[str, Any]) -> tuple[list[str] | None, list[int]]:
        """Names of the tables that were exchanged (None: all that there are), and numbers of keyspaces."""
        view_set = self._view_set
        trees = [view_set.trees[collection] for collection in decision["parts"]]
        names = [tree.decision["name"] for tree in trees if tree.decision is not None]
        numbers = [tree.number for tree in trees if tree.decision is None]
        dropped = [view_set.label(collection) for collection in decision["drop"]]
        if decision["op"] == "promote":  # what the branch dropped has a name there
            names += dropped
        elif set(dropped) - view_set.tables(view_set.maps[decision["name"]]).keys():
            return None, numbers  # the snapshot has none of that name
        return list(dict.fromkeys(names)), numbers

    def _records(self, frame: Frame) -> Iterator[tuple[bytes, bytes | None, int]]:
        """(key, value or None for a delete, expiry)."""
        bounds, expiries = np.empty((frame.count, 2), np.int64), np.empty(frame.count, np.int64)
        locations = np.empty(frame.count, np.uint64)
        owner = np.uint64(OWNER + frame.table)
        scan_records(self._data, frame.body, frame.body + frame.length, owner, bounds, expiries, locations)
        starts = (locations & location.OFFSET_MASK).astype(np.int64)
        for start, (a, b), expiry in zip(starts.tolist(), bounds.tolist(), expiries.tolist(), strict=True):
            word = int.from_bytes(self._data[start : start + 8].tobytes(), "little")
            flags, key = word >> 56, self._data[a:b].tobytes()
            if flags & FLAG_DELETE:
                yield key, None, 0
            elif flags & FLAG_PARTS:
                try:
                    yield key, large_values.read(self._log, owner, b), expiry
                except CorruptionError as error:
                    self._problems.append(f"key {key!r} of keyspace {frame.table} is left out: {error}")
            else:
                yield key, self._data[b : b + (word & 0xFFFFFFFF)].tobytes(), expiry
