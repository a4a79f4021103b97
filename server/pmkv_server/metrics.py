"""Metrics for Prometheus, computed from the statistics of store and server at each scrape.

Names are those of redis_exporter where the meaning is the same; metrics that only pmkv has begin with pmkv_.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pmkv_server.bgsave import saved_at

# Fields of the store's statistics: name and help text of the metric
GAUGES = {
    "capacity": ("pmkv_pool_capacity_bytes", "Size of the pool in bytes."),
    "used": ("pmkv_pool_used_bytes", "Bytes of the pool's segments that hold log frames."),
    "segments": ("pmkv_pool_segments", "Number of segments in the pool."),
    "segments_free": ("pmkv_pool_segments_free", "Number of segments that hold no log frames."),
    "views": ("pmkv_views", "Number of views: main, branches, snapshots and undo."),
    "index_bytes": ("pmkv_index_bytes", "DRAM used by memtables, in bytes."),
    "location_cache_bytes": ("pmkv_location_cache_bytes", "DRAM used by the cache of locations, in bytes."),
    "location_cache_budget": (
        "pmkv_location_cache_budget_bytes",
        "DRAM that the cache of locations may use, in bytes.",
    ),
    "row_cache_bytes": ("pmkv_row_cache_bytes", "DRAM used by the cache of rows, in bytes."),
    "row_cache_budget": ("pmkv_row_cache_budget_bytes", "DRAM that the cache of rows may use, in bytes."),
    "runs": ("pmkv_runs", "Number of index files (runs) of the table or keyspace that has most."),
    "run_bytes": ("pmkv_run_bytes", "Size of all index files (runs), in bytes."),
    "is_cold": ("pmkv_cold", "1 while index files have not been read since the start, else 0."),
    "replay_seconds": (
        "pmkv_replay_seconds",
        "Estimated seconds that a restart now would take to replay the log.",
    ),
    "replay_records": ("redis_rdb_changes_since_last_save", "Records written since the last checkpoint."),
    "durable_lsn": ("pmkv_durable_lsn", "LSN up to which all frames are durable (rounded: metrics are 64-bit floats)."),
    "epoch": ("pmkv_epoch", "Number of times the store was opened for writing."),
    "recovery_seconds": ("pmkv_recovery_seconds", "Time that the last start took to replay the log, in seconds."),
    "recovery_frames": ("pmkv_recovery_frames", "Number of log frames replayed by the last start."),
    "recovery_records": ("pmkv_recovery_records", "Number of records replayed by the last start."),
}


COUNTERS = {
    "flushes": ("pmkv_flushes", "Group commits since the start."),
    "promotions": ("pmkv_promotions", "Promotes, rollbacks and undos of main since the store was created."),
    "checkpoints": ("redis_rdb_saves", "Checkpoints taken since the start."),
    "compactions": ("pmkv_compactions", "Compactions of index files (runs) since the start."),
    "run_bytes_written": ("pmkv_run_bytes_written", "Bytes of index files (runs) written since the start."),
    "location_cache_hits": (
        "pmkv_location_cache_hits",
        "Lookups of ids and keys that the cache of locations answered.",
    ),
    "location_cache_misses": (
        "pmkv_location_cache_misses",
        "Lookups of ids and keys that the cache of locations could not answer.",
    ),
    "row_cache_hits": ("pmkv_row_cache_hits", "Lookups of ids that the cache of rows answered."),
    "row_cache_misses": ("pmkv_row_cache_misses", "Lookups of ids that the cache of rows could not answer."),
}


class StoreCollector(Collector):
    """Collects the metrics of one server from `store.stats()` and `server.stats`."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        yield from self._of_the_server()
        stats = self._server.store.stats()
        yield from _of_the_store(stats)
        yield from self._of_checkpoints(stats)

    def _of_the_server(self) -> Iterator[Metric]:
        server, stats = self._server, self._server.stats
        yield GaugeMetricFamily(
            "redis_up", "1 while the store takes writes, 0 after a failed flush.", int(not server.store.failed)
        )
        yield GaugeMetricFamily("redis_uptime_in_seconds", "Seconds since the start.", time.time() - stats.started)
        yield GaugeMetricFamily(
            "redis_connected_clients", "Number of open connections of the Redis protocol.", len(server.sessions)
        )
        waiting = server.version_events.waiting
        yield GaugeMetricFamily("redis_blocked_clients", "Number of clients that wait for a version of main.", waiting)
        for name, value, help_text in (
            ("redis_connections_received", stats.connections, "Connections of the Redis protocol accepted."),
            ("redis_rejected_connections", stats.rejected, "Connections refused because --max-clients was reached."),
            (
                "pmkv_connections_cut_off",
                stats.cut_off,
                "Connections closed: the client sent more than client-query-buffer-limit and never read its replies.",
            ),
            (
                "pmkv_connections_output_cut_off",
                stats.output_cut_off,
                "Connections closed: the client left more replies unread than client-output-buffer-limit.",
            ),
            ("redis_commands_processed", stats.commands, "Commands of the Redis protocol received."),
            ("redis_net_input_bytes", stats.input_bytes, "Bytes received by the Redis protocol."),
            ("redis_net_output_bytes", stats.output_bytes, "Bytes sent by the Redis protocol."),
            ("pmkv_ticks", stats.ticks, "Passes of the event loop that served commands."),
        ):
            yield CounterMetricFamily(name, help_text, value)

    def _of_checkpoints(self, stats: Any) -> Iterator[Metric]:
        server, bgsave = self._server, self._server.bgsave
        succeeded = not (stats.maintenance_error or bgsave.failed)
        for name, value, help_text in (
            ("redis_loading_dump_file", 0, "Always 0: the server accepts connections only after recovery."),
            (
                "redis_rdb_bgsave_in_progress",
                int(bgsave.is_under_way),
                "1 while a SAVE or BGSAVE is in progress, else 0.",
            ),
            (
                "redis_rdb_current_bgsave_duration_sec",
                bgsave.seconds,
                "Seconds since the SAVE or BGSAVE in progress began; -1: none.",
            ),
            (
                "redis_rdb_last_bgsave_duration_sec",
                bgsave.last_seconds,
                "Seconds that the last SAVE or BGSAVE took; -1: none yet.",
            ),
            ("redis_rdb_last_bgsave_status", int(succeeded), "1 if the last checkpoint succeeded, else 0."),
            (
                "redis_rdb_last_save_timestamp_seconds",
                saved_at(server),
                "Unix time in seconds of the last checkpoint, or else of the start.",
            ),
            (
                "redis_aof_enabled",
                int(stats.durability != "none"),
                "1 if writes are synced (--durability commit or interval), else 0.",
            ),
            (
                "redis_aof_last_write_status",
                int(not stats.failed),
                "1 if the log can be written to, 0 after a failed flush.",
            ),
        ):
            yield GaugeMetricFamily(name, help_text, value)


def _of_the_store(stats: Any) -> Iterator[Metric]:
    for field, (name, help_text) in GAUGES.items():
        yield GaugeMetricFamily(name, help_text, getattr(stats, field))
    yield GaugeMetricFamily(
        "pmkv_pending_frames", "Number of log frames that are not durable yet.", stats.lsn - stats.durable_lsn
    )
    for field, (name, help_text) in COUNTERS.items():
        yield CounterMetricFamily(name, help_text, getattr(stats, field))
    yield _labelled(
        "redis_db_keys",
        "Number of live keys in a keyspace.",
        "db",
        {f"db{number}": n for number, n in stats.keys.items()},
    )
    yield _labelled(
        "pmkv_row_cache_expected_hit_ratio",
        "Share of lookups of ids that the cache of rows would answer with so many times its DRAM.",
        "dram",
        {f"{size:g}": ratio for size, ratio in stats.row_cache_curve.items()},
    )
    yield from _of_space(stats.space)
    yield _labelled("pmkv_table_rows", "Number of live rows in a table.", "table", stats.tables)


def _of_space(space: Any) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "pmkv_takes_writes", "1 while a segment is left for writers, 0 while the pool is full.", int(space.takes_writes)
    )
    yield _labelled(
        "pmkv_space_bytes",
        "Bytes of the pool: free, reserved for deletes, cleaning and recovery, and by estimate live or dead.",
        "kind",
        {kind: getattr(space, kind) for kind in ("live", "dead", "reserved", "free")},
    )
    yield _labelled(
        "pmkv_space_pinned_bytes",
        "Estimated bytes that deleting a view, this one alone, would give back.",
        "view",
        space.pinned_by,
    )
    for name, value, help_text in (
        ("pmkv_space_moved_bytes", space.moved, "Bytes that the cleaner has moved since the start."),
        ("pmkv_space_freed_bytes", space.freed, "Bytes of the segments that the cleaner has freed since the start."),
    ):
        yield CounterMetricFamily(name, help_text, value)


def _labelled(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def registry(server: Any) -> CollectorRegistry:
    """Return the registry of one server's metrics, with the memory and file descriptors of its process."""
    metrics = CollectorRegistry()
    metrics.register(StoreCollector(server))
    ProcessCollector(registry=metrics)
    return metrics
