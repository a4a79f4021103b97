"""Statistics of a store, by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .engine.engine import Engine
from .errors import CorruptionError
from .log.format import epoch_of
from .maintenance.space import SpaceStats, space_of


@dataclass(frozen=True)
class Stats:
    """Statistics of one moment; sizes are in bytes."""

    path: str | None
    granularity: str
    durability: str
    readonly: bool
    failed: str | None
    capacity: int
    segment_size: int
    segments: int
    segments_free: int
    used: int  # segments that hold the log, or what a cleaner moved
    lsn: int
    durable_lsn: int
    epoch: int
    flushes: int
    keys: dict[int, int]  # live keys of each keyspace that has some
    tables: dict[str, int]  # rows of each table
    views: int  # names that can be read, `main` among them
    promotions: int  # promotions, rollbacks and undos of `main` so far
    index_bytes: int  # DRAM of the indexes
    location_cache_bytes: int  # DRAM of the location cache
    location_cache_budget: int
    location_cache_hits: int  # keys looked up below the memtables and found in the location cache
    location_cache_misses: int
    # of each table of `main` on file: rows, bytes, hits, misses, fills, evictions, and pages read from disk for gets
    row_cache: dict[str, dict[str, int]]
    row_cache_bytes: int  # DRAM of the row cache
    row_cache_budget: int  # 0: there is no row cache, as rows are in DRAM or on persistent memory anyway
    row_cache_curve: dict[float, float]  # hit ratios to expect by DRAM, in budgets; none while too little was looked up
    row_cache_hits: int  # ids looked up below the memtables and found in the row cache
    row_cache_misses: int
    checkpoints: int  # since the store was opened, as compactions and bytes written
    compactions: int
    checkpointed_at: int  # unix ms of the last checkpoint since then, 0 for none
    maintenance_error: str | None  # why the last checkpoint, compaction or cleaning failed, if it did
    replay_seconds: float  # that replaying the log from the last checkpoint on would take, about
    replay_records: int
    runs: int  # on file, of the table or keyspace that has most
    run_bytes: int  # of their files
    run_bytes_written: int
    is_cold: bool  # are there runs that were not read yet since the store was opened?
    recovery_seconds: float
    recovery_frames: int
    recovery_records: int
    space: SpaceStats  # where the bytes of the pool are, and what each view pins

    def asdict(self) -> dict[str, Any]:
        """Return the statistics as a dict of plain Python values."""
        return asdict(self)


def stats_of(engine: Engine, path: Path | None) -> Stats:
    """Collect the statistics of an engine. path: its data directory."""
    pool, log, recovery, maintenance = engine.pool, engine.log, engine.recovery, engine.maintenance
    stacks = [collection.stack for collection in engine.main.collections]
    caches = [stack.cache for stack in stacks if stack.cache is not None]
    cached = {table.name: table.stack for table in engine.tables.values() if table.stack.rows is not None}
    rows = {name: stack.rows for name, stack in cached.items() if stack.rows is not None}
    budget = engine.dram.rows

    def collect() -> Stats:
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
            used=pool.used * pool.segment_size,
            lsn=log.lsn,
            durable_lsn=log.durable,
            epoch=epoch_of(log.lsn),
            flushes=log.flushes,
            keys={number: count for number, count in counted(enumerate(engine.keyspaces)) if count},
            tables=dict(counted(engine.tables.items())),
            views=len(engine.view_set.maps),
            promotions=engine.main_changes[0],
            index_bytes=engine.dram.arena.used * 8,
            location_cache_bytes=engine.dram.budget.used,
            location_cache_budget=engine.dram.budget.size,
            location_cache_hits=sum(index.hits for index in caches),
            location_cache_misses=sum(index.misses for index in caches),
            row_cache={
                name: cache.figures() | {"pages_read": cached[name].reads.pages} for name, cache in rows.items()
            },
            row_cache_bytes=budget.used if budget else 0,
            row_cache_budget=budget.size if budget else 0,
            row_cache_curve=budget.curve.ratios() if budget else {},
            row_cache_hits=sum(cache.hits for cache in rows.values()),
            row_cache_misses=sum(cache.misses for cache in rows.values()),
            checkpoints=maintenance.checkpoints if maintenance else 0,
            compactions=maintenance.compactions if maintenance else 0,
            checkpointed_at=maintenance.checkpointed_at if maintenance else 0,
            maintenance_error=maintenance.problem if maintenance else None,
            replay_seconds=engine.replay_cost,
            replay_records=log.appended[1] - maintenance.complete_to[1] if maintenance else 0,
            runs=max(len(stack.runs) for stack in stacks),
            run_bytes=maintenance.nbytes if maintenance else 0,
            run_bytes_written=maintenance.bytes_written if maintenance else 0,
            is_cold=engine.is_cold,
            recovery_seconds=recovery.seconds,
            recovery_frames=recovery.frames,
            recovery_records=recovery.records,
            space=space_of(log, engine.view_set, maintenance.cleaner if maintenance else None),
        )

    with log.publisher.entry, log.locks.state:
        return log.deferring(collect)[0]


def counted(collections: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, int]]:
    """Yield names and counts, leaving out collections that are too damaged to count: reading those raises."""
    for name, collection in collections:
        with contextlib.suppress(CorruptionError):
            yield name, len(collection)
