"""The engine with one safeguard switched off: exploration must catch it, or it would not catch the mistake either.

Each mutant is a list of patches (object, attribute, replacement). Where two safeguards stand for one another, the
mutant is both of them off, and says so: an engine with either one alone is whole.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
from xxhash import xxh3_64_intdigest

from pmkv.engine import choose_newest, engine, recovery, wave
from pmkv.engine import table as table_module
from pmkv.engine.byte_batch import BytesArray
from pmkv.engine.keyspace import Keyspace
from pmkv.engine.table import Table
from pmkv.index.hash_table import HashTable
from pmkv.log import appender as appender_module
from pmkv.log import format as format_
from pmkv.log import group_commit as group_commit_module
from pmkv.log import large_values
from pmkv.log import replay as replay_module
from pmkv.log import segments as pool_module
from pmkv.log.access import AccessGuard
from pmkv.log.appender import LogAppender
from pmkv.log.durability import DurabilityGate
from pmkv.log.format import EPOCH_SHIFT, Flag, Frame, Kind
from pmkv.log.group_commit import GroupCommit
from pmkv.log.log import Log
from pmkv.log.replay import Replay
from pmkv.log.segments import Pool, Reserve
from pmkv.media.simulated import SimulatedMedium

Patch = tuple[Any, str, Any]
MUTANTS: dict[str, Callable[[], list[Patch]]] = {}

flush, rewrite, prepare = SimulatedMedium.flush, SimulatedMedium.rewrite, SimulatedMedium.prepare
store = SimulatedMedium.store
append_wave = wave._append
place, finish, flush_group = LogAppender._place, LogAppender.finish_open_frame, GroupCommit._flush_group
unpack_frame, check_frame, frames = format_.unpack_frame, format_.check_frame, Replay._frames


def mutant(name: str) -> Callable[[Callable[[], list[Patch]]], Callable[[], list[Patch]]]:
    def register(make: Callable[[], list[Patch]]) -> Callable[[], list[Patch]]:
        MUTANTS[name] = make
        return make

    return register


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for target, attribute, replacement in MUTANTS[name]():
            stack.enter_context(patch.object(target, attribute, replacement))
        yield


def is_header(ranges: Any) -> bool:
    """A flush of one header of 64 bytes at the beginning of a page: of the pool or of a segment."""
    return len(ranges) == 1 and ranges[0][0] % 4096 == 0 and ranges[0][1] - ranges[0][0] == 64


# --- flushes and fences


@mutant("a group is acknowledged without a flush")
def _() -> list[Patch]:
    return [(SimulatedMedium, "flush", lambda m, r, sync=True: flush(m, r, sync) if is_header(r) else None)]


@mutant("a wave does not wait for what it has written")
def _() -> list[Patch]:
    def unwaited(*arguments: Any) -> int:
        append_wave(*arguments)
        return 0

    return [(wave, "_append", unwaited)]


@mutant("the records of a wave are written one by one")
def _() -> list[Patch]:
    def unjoined(keyspace: Keyspace, keys: BytesArray, words: Any, records: Any) -> int:
        lsn = 0
        for i in range(records.keys.size):
            one = slice(i, i + 1)
            some = records.keys[one], records.values[one], records.expiries[one], records.flags[one]
            lsn = append_wave(keyspace, keys, words, records._replace(**dict(zip(records._fields, some))))
        return lsn

    return [(wave, "_append", unjoined)]


@mutant("a group is flushed without its first range")
def _() -> list[Patch]:
    return [(SimulatedMedium, "flush", lambda m, r, sync=True: flush(m, r if is_header(r) else r[1:], sync))]


@mutant("a group is flushed without its last range")
def _() -> list[Patch]:
    def short(m: SimulatedMedium, r: Any, sync: bool = True) -> None:
        flush(m, r[:-1] if len(r) > 1 else r, sync)

    return [(SimulatedMedium, "flush", short)]


@mutant("the last 8 bytes of a group are not flushed")
def _() -> list[Patch]:
    def short(m: SimulatedMedium, r: Any, sync: bool = True) -> None:
        flush(m, r if is_header(r) or not r else [*r[:-1], (r[-1][0], r[-1][1] // 8 * 8 - 8)], sync)

    return [(SimulatedMedium, "flush", short)]


@mutant("what is stored the medium's own way is never flushed")
def _() -> list[Patch]:
    stored: set[tuple[int, int]] = set()

    def noted(m: SimulatedMedium, at: int, raw: np.ndarray) -> int:
        stored.add((at, at + raw.size))
        return store(m, at, raw)

    def without(m: SimulatedMedium, r: Any, sync: bool = True) -> None:
        left = []
        for start, stop in r:
            for first, last in sorted(stored):
                if start <= first and last <= stop:
                    left.append((start, first))
                    start = last
            left.append((start, stop))
        flush(m, left, sync)

    return [(SimulatedMedium, "store", noted), (SimulatedMedium, "flush", without)]


@mutant("a group leaves the process, and is not synced")
def _() -> list[Patch]:
    return [(SimulatedMedium, "flush", lambda m, r, sync=True: flush(m, r, sync and is_header(r)))]


@mutant("a segment's header is not flushed")
def _() -> list[Patch]:
    return [(SimulatedMedium, "flush", lambda m, r, sync=True: None if is_header(r) and r[0][0] else flush(m, r, sync))]


@mutant("a write does not wait for its flush")
def _() -> list[Patch]:
    return [(DurabilityGate, "wait_durable", lambda self, lsn: None)]


@mutant("a read does not wait for what is pending")
def _() -> list[Patch]:
    return [(GroupCommit, "pending", lambda self: group_commit_module.NO_RANGES)]


@mutant("a count does not wait for what is pending")
def _() -> list[Patch]:
    def length(self: Any) -> int:
        with self._log.deferred():
            return counted[type(self)](self)

    counted = {Keyspace: Keyspace.__len__, Table: Table.__len__}
    return [(kind, "__len__", length) for kind in counted]


# --- ordering


@mutant("a group counts as durable before its flush")
def _() -> list[Patch]:
    def early(self: GroupCommit) -> None:
        self.durable = self.appender.lsn
        flush_group(self)

    return [(GroupCommit, "_flush_group", early)]


@mutant("a segment is used before it is prepared")
def _() -> list[Patch]:
    return [(SimulatedMedium, "prepare", lambda m, start, stop, **_: prepare(m, start, stop) if start == 0 else None)]


@mutant("a segment's header is stored before the segment is prepared")
def _() -> list[Patch]:
    def backwards(self: Pool, fill: bool = True) -> bool:
        index = self._free.pop()
        header = pool_module.pack_segment(self.pool_id, index, 1)
        self._store(self.start(index), header)
        self.medium.prepare(self.start(index), self.stop(index))
        self.medium.data[self.start(index) : self.start(index) + 64] = np.frombuffer(header, np.uint8)
        self.generations[index] = 1
        self._ready.insert(0, index)
        return True

    return [(Pool, "_prepare_one", backwards)]


@mutant("a write begins before there is room for all of it")
def _() -> list[Patch]:
    return [(LogAppender, "reserve", lambda self, lengths, purpose=Reserve.WRITE: None),
            (LogAppender, "reserve_bytes", lambda self, length: None)]  # fmt: skip


@mutant("no segment is kept back for recovery")
def _() -> list[Patch]:
    make_ready = Pool.make_ready
    return [(Pool, "make_ready", lambda self, count, purpose: make_ready(self, count, Reserve.LOG))]


# --- recovery


@mutant("what recovery accepted is not written again")
def _() -> list[Patch]:
    return [(SimulatedMedium, "rewrite", lambda m, ranges: None)]


@mutant("what recovery accepted is synced only, not written again")
def _() -> list[Patch]:
    return [(SimulatedMedium, "rewrite", flush)]


@mutant("headers that recovery saw are not written again")
def _() -> list[Patch]:
    return [(Pool, "unproved_headers", [])]


@mutant("recovery begins no epoch")
def _() -> list[Patch]:
    open_epoch = Log.open_epoch

    def same(self: Log) -> None:
        if self.lsn == 0:
            return open_epoch(self)
        self.group_commit.rewrite_unproved()

    return [(Log, "open_epoch", same)]


@mutant("a cut batch is written behind, not over")
def _() -> list[Patch]:
    return [(Replay, "_cut", lambda self, first: None)]


@mutant("a batch is not marked as one")
def _() -> list[Patch]:
    def single(self: LogAppender, kind: int, flags: int, *rest: int) -> int:
        return place(self, kind, flags & ~Flag.MORE, *rest)

    return [(LogAppender, "finish_open_frame", lambda self, more: finish(self, 0)), (LogAppender, "_place", single)]


@mutant("replay takes half a batch")
def _() -> list[Patch]:
    def halves(self: Replay) -> Iterator[Frame]:
        for frame in frames(self):
            self._accept(frame)
            yield frame

    return [(Replay, "__iter__", halves)]


# --- failures


@mutant("a failed flush is taken for a good one")
def _() -> list[Patch]:
    def ignoring(self: SimulatedMedium, ranges: Any, sync: bool = True) -> None:
        with contextlib.suppress(OSError):
            flush(self, ranges, sync)

    return [(SimulatedMedium, "flush", ignoring)]


@mutant("a failed flush is tried again")
def _() -> list[Patch]:
    def again(self: SimulatedMedium, ranges: Any, sync: bool = True) -> None:
        try:
            flush(self, ranges, sync)
        except OSError:
            flush(self, ranges, sync)

    return [(SimulatedMedium, "flush", again)]


@mutant("memory stays as it is after a failed flush")
def _() -> list[Patch]:
    return [(recovery.Replayer, "go_back", lambda self, last: None)]


@mutant("memory goes back to what is visible, not to what is durable")
def _() -> list[Patch]:
    init = Replay.__init__
    return [(Replay, "__init__", lambda self, pool, last=None, start=None: init(self, pool, start=start))]


@mutant("a store whose medium failed goes on writing")
def _() -> list[Patch]:
    return [(AccessGuard, "guard_write", AccessGuard.guard_read)]


# --- what makes a frame one


@mutant("no checksum is compared")
def _() -> list[Patch]:
    def trusting(data: memoryview, offset: int, length: int, seed: int) -> int:
        return int.from_bytes(data[offset : offset + 8], "little")

    def unpack(data: memoryview, offset: int, stop: int, seed: int) -> Frame | None:
        with patch.object(format_, "check_frame", trusting):
            return unpack_frame(data, offset, stop, seed)

    return [(replay_module, "unpack_frame", unpack)]


def checksum(make: Callable[[memoryview, int, int, int], int]) -> list[Patch]:
    return [(format_, "check_frame", make), (appender_module, "check_frame", make)]


@mutant("the checksum leaves out the body")
def _() -> list[Patch]:
    return checksum(lambda data, offset, length, seed: check_frame(data, offset, 0, seed))


@mutant("the checksum leaves out the header")
def _() -> list[Patch]:
    return checksum(
        lambda data, offset, length, seed: xxh3_64_intdigest(data[offset + 64 : offset + 64 + length], seed + offset)
    )


@mutant("the checksum leaves out the last word")
def _() -> list[Patch]:
    return checksum(lambda data, offset, length, seed: check_frame(data, offset, max(0, length - 8), seed))


@mutant("the checksum of a segment's header is not compared")
def _() -> list[Patch]:
    def trusting(data: memoryview, pool_id: bytes, index: int) -> int:
        _, magic, found, generation = format_._SEGMENT.unpack_from(data)
        return generation if magic == format_.SEGMENT_MAGIC and found == index else 0

    return [(pool_module, "unpack_segment", trusting)]


@mutant("the checksum of the pool's header is not compared")
def _() -> list[Patch]:
    unpack_pool = format_.unpack_pool
    return [(pool_module, "unpack_pool", lambda data: (True, *unpack_pool(data)[1:]))]


@mutant("neither LSN nor predecessor is compared (either one alone is enough)")
def _() -> list[Patch]:
    def frame_of(data: memoryview, offset: int, stop: int, seed: int) -> Frame | None:
        frame = unpack_frame(data, offset, stop, seed)
        return None if frame is None else frame._replace(previous=Anything())

    return [(replay_module, "follows", lambda frame, lsn: True), (replay_module, "unpack_frame", frame_of)]


class Anything(int):
    """Equal to every predecessor."""

    def __ne__(self, other: object) -> bool:
        return False


@mutant("records and rows are read without their checks")
def _() -> list[Patch]:
    init = engine.Engine.__init__
    return [(engine.Engine, "__init__", lambda self, pool, **options: init(self, pool, **options, verify=False))]


@mutant("parts of values have no checks")
def _() -> list[Patch]:
    return [(large_values, "check16", lambda *arguments: np.uint64(0))]


@mutant("a damaged key is taken for an absent one")
def _() -> list[Patch]:
    find = HashTable.find_keys
    return [(HashTable, "find_keys", lambda self, *arguments: find(self, *arguments[:-1], False))]


# --- torn or damaged


@mutant("the end of the log is taken for a torn tail")
def _() -> list[Patch]:
    return [(Replay, "_prove_end", lambda self, *end: None)]


@mutant("proof of damage is looked for in the last segment only")
def _() -> list[Patch]:
    prove = Replay._prove_end

    def near(self: Replay, *end: int) -> None:
        with patch.object(self._pool, "generations", {self.segments[-1]: 1}):
            prove(self, *end)

    return [(Replay, "_prove_end", near)]


@mutant("frames do not say what is durable")
def _() -> list[Patch]:
    pack = format_.pack_frame
    return [(appender_module, "pack_frame", lambda *a: pack(*a[:7], 0, *a[8:]))]


@mutant("frames say that they are durable themselves")
def _() -> list[Patch]:
    pack = format_.pack_frame
    return [(appender_module, "pack_frame", lambda *a: pack(*a[:7], a[6], *a[8:]))]


@mutant("a frame proves only what is older than it says")
def _() -> list[Patch]:
    prove = Replay._prove_end
    return [(Replay, "_prove_end", lambda self, start, lsn, *rest: prove(self, start, lsn + 1, *rest))]


@mutant("a NEXT frame is followed without a look at the header")
def _() -> list[Patch]:
    def enter(self: Replay, frame: Frame) -> int:
        index, generation = format_.NEXT.unpack_from(self._view, frame.body)
        self._pool.generations.setdefault(index, generation)
        self._enter_segment(index)
        return self._pool.start(index) + 64

    return [(Replay, "_enter", enter)]


@mutant("an idle log is not marked")
def _() -> list[Patch]:
    def pretend(self: Log) -> None:
        self.appender.last_is_mark = True

    return [(Log, "mark", pretend)]


# --- rows that are put only where they are newer


@mutant("rows are put whether or not they are newer than those that are stored")
def _() -> list[Patch]:
    def put_all(table: Table, ids: np.ndarray, raw: np.ndarray, field: str) -> int:
        table.put(ids, raw.tobytes())
        return len(set(ids.tolist()))

    return [(table_module, "put_newer", put_all)]


@mutant("of rows with one id the last is put, not the newest")
def _() -> list[Patch]:
    def last_of_each(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.sort(list({one: at for at, one in enumerate(ids.tolist())}.values())).astype(np.int64)

    return [(choose_newest, "newest_of_each", last_of_each)]


# --- rows that the first read writes


@mutant("a read leaves it to the next one to write the rows that it creates")
def _() -> list[Patch]:
    return [(Table, "_create", lambda table, ids: None)]


@mutant("a read creates only the first of the rows that it reads")
def _() -> list[Patch]:
    create = Table._create
    return [(Table, "_create", lambda table, ids: create(table, ids[:1]))]


assert EPOCH_SHIFT == 40 and Kind.NEXT == 8  # what the mutants above take for granted
