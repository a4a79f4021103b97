"""Print a store's log, then its catalog and runs, entry by entry, for people and for golden tests. Reads only; what is
damaged is printed up to there."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np
import orjson

from ..catalog.lmdb_catalog import Catalog
from ..data_directory import DataDirectory
from ..engine.engine import KEYSPACES
from ..errors import CorruptionError
from ..index.run import Run, RunInfo
from ..index.run_files import RunFiles
from ..kernels import location
from ..kernels.records import FLAG_DELETE, FLAG_PARTS, scan_records
from ..log.decisions import read_control
from ..log.format import ALIGN, EPOCH_SHIFT, NEXT, Flag, Frame, Kind, epoch_of, unpack_frame
from ..log.replay import LogEnd, Replay
from ..log.segments import Pool

SHOWN = 64  # bytes of a key or value, and ids of a frame
PAGE = 1000  # keys of the directory at a time
DELETE = int(location.DELETE)


def dump(path: str | os.PathLike[str], out: TextIO, pool: str | os.PathLike[str] = "auto") -> None:
    """Print every frame of the store in a data directory, and what its last checkpoint says. CorruptionError where it
    ends in damage."""
    place = DataDirectory(path, pool, None, "page", readonly=True)
    try:
        opened, files = place.open_pool(), place.open_files()
        try:
            records = files[0].load() if files else None
            for line in lines(opened, LogEnd.from_dict(log_of(records)) if records else None):
                print(line, file=out)
        finally:
            for line in catalog_lines(*files) if files else ():
                print(line, file=out)
            if place.catalog_damage is not None:
                raise place.catalog_damage
    finally:
        place.close()


def catalog_lines(catalog: Catalog, run_files: RunFiles) -> Iterator[str]:
    """The records of the state, below those of a run its entries, then the ordered directory of keys."""
    for record, value in sorted((catalog.load() or {}).items()):
        yield f"catalog {record} {orjson.dumps(value).decode()}"
        if record.startswith("run/"):
            yield from ("    " + line for line in run_entries(RunInfo.from_dict(value), run_files))
    for number in range(KEYSPACES):
        yield from (f"catalog key {number} {shown(np.frombuffer(key, np.uint8))}" for key in keys(catalog, number))


def run_entries(info: RunInfo, run_files: RunFiles) -> Iterator[str]:
    try:
        run = Run(info, run_files.open(info.file), f"{info.file}:{info.offset}")
    except FileNotFoundError as error:
        raise CorruptionError(f"the catalog names {info.file} among the runs, and there is no such file") from error
    for places, locations in run.entries():
        for place, where in zip(places.tolist(), locations.tolist()):
            yield f"{place:016x} at {where & int(location.OFFSET_MASK)}{' delete' if where & DELETE else ''}"
    for word, expiries in (("adds", run.added), ("takes away", run.gone)):
        yield from (f"{word} expiry {expiry}" for expiry in expiries.tolist())


def keys(catalog: Catalog, number: int) -> Iterator[bytes]:
    """As the directory holds them: of a long one its beginning and its hash."""
    low = b""
    while page := catalog.keys(number, low, None, False, PAGE, lambda prefix, word: [prefix + b"... %016x" % word]):
        yield from page
        low = page[-1] + b"\0"


def log_of(records: dict[str, Any]) -> dict[str, Any]:
    """Return what a manifest says of the log, as `LogEnd` has it."""
    return {key: value for key, value in records["log"].items() if key not in ("last_table", "switches")}


def lines(pool: Pool, end: LogEnd | None = None) -> Iterator[str]:
    """The pool, then its frames in order, each with its contents indented below. end: of the log, as of the last
    checkpoint, None without one. If segments were emptied since the log began, those that are left come one by one up
    to there, and behind them those with what was moved."""
    yield f"pool {pool.pool_id.hex()}: {pool.count} segments of {pool.segment_size} bytes"
    is_cleaned = end is not None and bool(end.moved.reused or end.moved.segments)
    if end is not None and is_cleaned:
        for index, _ in end.segments:
            yield from segment_lines(pool, index, end.position)
        for index, _, stop in end.moved.segments:
            yield from segment_lines(pool, index, stop, " of moved records")
    replay = Replay(pool, start=end if is_cleaned else None)
    segment = replay.segments[-1] if replay.segments else -1
    for frame in replay:
        if replay.segments[-1] != segment:
            segment = replay.segments[-1]
            yield segment_head(pool, segment)
        yield from frame_lines(pool, frame)
    yield f"end at {replay.position}, durable up to {name(replay.durable)}"


def segment_head(pool: Pool, index: int, what: str = "") -> str:
    """Return the line of a segment."""
    return f"segment {index} generation {pool.generations[index]} at {pool.start(index)}{what}"


def segment_lines(pool: Pool, index: int, stop: int, what: str = "") -> Iterator[str]:
    """One segment, then its frames up to pool offset `stop`, if that is in it. CorruptionError: one is damaged."""
    yield segment_head(pool, index, what)
    at, last = pool.start(index) + ALIGN, stop if pool.start(index) < stop <= pool.stop(index) else pool.stop(index)
    while at < last:
        frame = unpack_frame(memoryview(pool.medium.data), at, pool.stop(index), pool.seed(index))
        if frame is None:
            raise CorruptionError(f"the frame at offset {at:,} of the pool is damaged: restore a backup")
        yield from frame_lines(pool, frame)
        if frame.kind == Kind.NEXT:
            return
        at = frame.end


def frame_lines(pool: Pool, frame: Frame) -> Iterator[str]:
    """One frame, and its contents indented below."""
    yield head(frame)
    yield from ("    " + line for line in body(pool.medium.data, frame))


def name(lsn: int) -> str:
    """An LSN as epoch.number."""
    return f"{epoch_of(lsn)}.{lsn & ((1 << EPOCH_SHIFT) - 1)}"


def head(frame: Frame) -> str:
    """One frame's header on one line."""
    time = datetime.datetime.fromtimestamp(frame.time / 1000, datetime.UTC).isoformat(timespec="milliseconds")
    flags = "".join(f" {flag.name}" for flag in Flag if frame.flags & flag)
    owner = f" {'keyspace' if frame.kind in (Kind.PUT, Kind.PART) else 'table'} {frame.table} layer {name(frame.layer)}"
    place = f"at {frame.offset}, {frame.length} bytes"
    line = f"{name(frame.lsn)} {Kind(frame.kind).name}{flags} {place}, durable {name(frame.durable)}, {time}"
    return f"{line}{owner if frame.kind in (Kind.PUT, Kind.PART, Kind.ROWS) else ''}"


def body(data: np.ndarray, frame: Frame) -> Iterator[str]:
    """Yield the lines that describe the body of a frame."""
    match frame.kind:
        case Kind.PUT:
            yield from records(data, frame)
        case Kind.MOVE:
            yield f"{frame.count} moved"
        case Kind.ROWS:
            ids = data[frame.body : frame.body + 8 * frame.count].view(np.int64)
            more = f" ... {ids[-1]}" if frame.count > SHOWN else ""
            yield f"{frame.count} ids: {' '.join(map(str, ids[:SHOWN]))}{more}"
        case Kind.CONTROL:
            yield orjson.dumps(read_control(memoryview(data), frame)).decode()
        case Kind.NEXT:
            yield "segment {} generation {}".format(*NEXT.unpack_from(memoryview(data), frame.body))


def records(data: np.ndarray, frame: Frame) -> Iterator[str]:
    """The records of a PUT frame."""
    bounds, expiries = np.empty((frame.count, 2), np.int64), np.empty(frame.count, np.int64)
    locations = np.empty(frame.count, np.uint64)
    scan_records(data, frame.body, frame.body + frame.length, np.uint64(0), bounds, expiries, locations)
    starts = (locations & location.OFFSET_MASK).astype(np.int64)
    for start, (a, b), expiry in zip(starts.tolist(), bounds.tolist(), expiries.tolist(), strict=True):
        word = int.from_bytes(data[start : start + 8].tobytes(), "little")
        value, flags = data[b : b + (word & 0xFFFFFFFF)], word >> 56
        ending = f" expires {expiry}" if expiry else ""
        if flags & FLAG_DELETE:
            yield f"delete {shown(data[a:b])}"
        elif flags & FLAG_PARTS:
            total = int.from_bytes(value[:8].tobytes(), "little")
            yield f"{shown(data[a:b])} = {total} bytes in {value.size // 8 - 1} parts{ending}"
        else:
            yield f"{shown(data[a:b])} = {shown(value)}{ending}"


def shown(raw: np.ndarray) -> str:
    """Bytes as Python writes them, not too many."""
    text = raw[:SHOWN].tobytes()
    return repr(text)[1:] + (f"... ({raw.size} bytes)" if raw.size > SHOWN else "")
