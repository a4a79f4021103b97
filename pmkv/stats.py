"""Figures of a store, by name."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .engine import Engine
from .log.format import epoch_of


@dataclass(frozen=True)
class Stats:
    """Bytes unless said otherwise."""

    path: str | None
    granularity: str
    durability: str
    readonly: bool
    failed: str | None
    capacity: int
    segment_size: int
    segments: int
    segments_free: int
    used: int  # segments that hold the log
    lsn: int
    durable_lsn: int
    epoch: int
    flushes: int
    keys: dict[int, int]  # live keys of each keyspace that has some
    tables: dict[str, int]  # rows of each table
    index_bytes: int  # DRAM of the indexes
    recovery_seconds: float
    recovery_frames: int
    recovery_records: int

    def asdict(self) -> dict[str, Any]:
        """As plain Python."""
        return asdict(self)


def stats_of(engine: Engine, path: Path | None) -> Stats:
    """Gather them."""
    pool, log, recovery = engine.pool, engine.log, engine.recovery
    with log.lock, log.deferred():
        return Stats(
            path=str(path) if path else None,
            granularity=pool.medium.granularity.word,
            durability=log.durability,
            readonly=log.readonly is not None,
            failed=str(log.failed) if log.failed else None,
            capacity=int(pool.medium.data.size),
            segment_size=pool.segment_size,
            segments=pool.count,
            segments_free=pool.free,
            used=len(pool.taken) * pool.segment_size,
            lsn=log.lsn,
            durable_lsn=log.durable,
            epoch=epoch_of(log.lsn),
            flushes=log.flushes,
            keys={keyspace.number: len(keyspace) for keyspace in engine.keyspaces if len(keyspace)},
            tables={name: len(table) for name, table in engine.tables.items()},
            index_bytes=engine.dram.heap.used * 8,
            recovery_seconds=recovery.seconds,
            recovery_frames=recovery.frames,
            recovery_records=recovery.records,
        )
