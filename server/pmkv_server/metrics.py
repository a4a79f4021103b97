"""What Prometheus may ask of a server, read when it asks: nothing is counted twice. Names are redis_exporter's where
the meaning is the same; what only pmkv has begins with pmkv_."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pmkv_server.bgsave import saved_at

# names in the store's statistics, and what they are called here
GAUGES = {
    "capacity": ("pmkv_pool_capacity_bytes", "Bytes of the pool."),
    "used": ("pmkv_pool_used_bytes", "Bytes of the segments that hold the log."),
    "segments": ("pmkv_pool_segments", "Segments of the pool."),
    "segments_free": ("pmkv_pool_segments_free", "Segments that hold nothing."),
    "views": ("pmkv_views", "Views: main, branches, snapshots, undo."),
    "index_bytes": ("pmkv_index_bytes", "DRAM of the indexes."),
    "hot_bytes": ("pmkv_hot_bytes", "DRAM of hot words' locations."),
    "hot_budget": ("pmkv_hot_budget_bytes", "DRAM that hot words' locations may take."),
    "runs": ("pmkv_runs", "Indexes on file of the table or keyspace that has most."),
    "run_bytes": ("pmkv_run_bytes", "Bytes of the files of indexes."),
    "is_cold": ("pmkv_cold", "Whether there are indexes on file that were not read yet since the start."),
    "replay_seconds": ("pmkv_replay_seconds", "What a restart now would take to replay the log, about."),
    "replay_records": ("redis_rdb_changes_since_last_save", "Records written since the last checkpoint."),
    "durable_lsn": (
        "pmkv_durable_lsn",
        "Everything up to this LSN is durable (rounded to 53 bits, as all numbers here).",
    ),
    "epoch": ("pmkv_epoch", "How many times the store was opened for writing."),
    "recovery_seconds": ("pmkv_recovery_seconds", "What the last start took to read the log."),
    "recovery_frames": ("pmkv_recovery_frames", "Frames replayed by the last start."),
    "recovery_records": ("pmkv_recovery_records", "Records replayed by the last start."),
}


COUNTERS = {
    "flushes": ("pmkv_flushes", "Groups made durable."),
    "switches": ("pmkv_switches", "Promotes, rollbacks and undos of main, since there is this store."),
    "checkpoints": ("redis_rdb_saves", "Checkpoints taken."),
    "folds": ("pmkv_folds", "Times that indexes on file were made one."),
    "run_bytes_written": ("pmkv_run_bytes_written", "Bytes of indexes written to files."),
    "hot_hits": ("pmkv_hot_hits", "Words found among the hot ones."),
    "hot_misses": ("pmkv_hot_misses", "Words looked for among the hot ones in vain."),
}


class StoreCollector(Collector):
    """Reads `store.stats()` and `server.stats`."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        yield from self._of_the_server()
        stats = self._server.store.stats()
        yield from _of_the_store(stats)
        yield from self._of_checkpoints(stats)

    def _of_the_server(self) -> Iterator[Metric]:
        server, stats = self._server, self._server.stats
        yield GaugeMetricFamily("redis_up", "Whether the store takes reads and writes.", int(not server.store.failed))
        yield GaugeMetricFamily("redis_uptime_in_seconds", "Since the start.", time.time() - stats.started)
        yield GaugeMetricFamily("redis_connected_clients", "Over the Redis protocol.", len(server.sessions))
        waiting = server.switches.waiting
        yield GaugeMetricFamily("redis_blocked_clients", "Waiting for main to be promoted or rolled back.", waiting)
        for name, value, meaning in (
            ("redis_connections_received", stats.connections, "Connections accepted."),
            ("redis_rejected_connections", stats.rejected, "Connections refused, for there were too many."),
            (
                "pmkv_connections_cut_off",
                stats.cut_off,
                "Connections closed: the client never read its replies.",
            ),
            ("redis_commands_processed", stats.commands, "Commands of the Redis protocol."),
            ("redis_net_input_bytes", stats.input_bytes, "Bytes of requests."),
            ("redis_net_output_bytes", stats.output_bytes, "Bytes of replies."),
            ("pmkv_ticks", stats.ticks, "Turns of the loop that served commands."),
        ):
            yield CounterMetricFamily(name, meaning, value)

    def _of_checkpoints(self, stats: Any) -> Iterator[Metric]:
        server, saving = self._server, self._server.saving
        good = not (stats.upkeep_error or saving.failed)
        for name, value, meaning in (
            ("redis_loading_dump_file", 0, "Serving only begins when everything is there."),
            ("redis_rdb_bgsave_in_progress", int(saving.is_under_way), "Whether a client's BGSAVE is under way."),
            ("redis_rdb_current_bgsave_duration_sec", saving.seconds, "For how long; -1 without one."),
            ("redis_rdb_last_bgsave_duration_sec", saving.last_seconds, "How long the last took; -1 for none."),
            ("redis_rdb_last_bgsave_status", int(good), "Whether the last checkpoint succeeded, whoever asked for it."),
            ("redis_rdb_last_save_timestamp_seconds", saved_at(server), "When it was taken, or the start."),
            ("redis_aof_enabled", int(stats.durability != "none"), "Whether the log is synced."),
            ("redis_aof_last_write_status", int(not stats.failed), "Whether it could be written to."),
        ):
            yield GaugeMetricFamily(name, meaning, value)


def _of_the_store(stats: Any) -> Iterator[Metric]:
    for field, (name, meaning) in GAUGES.items():
        yield GaugeMetricFamily(name, meaning, getattr(stats, field))
    yield GaugeMetricFamily("pmkv_pending_frames", "Frames not durable yet.", stats.lsn - stats.durable_lsn)
    for field, (name, meaning) in COUNTERS.items():
        yield CounterMetricFamily(name, meaning, getattr(stats, field))
    yield _labelled(
        "redis_db_keys", "Keys in a keyspace.", "db", {f"db{number}": n for number, n in stats.keys.items()}
    )
    yield _labelled("pmkv_table_rows", "Rows in a table.", "table", stats.tables)


def _labelled(name: str, meaning: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def registry(server: Any) -> CollectorRegistry:
    """What one server exports, with the memory and file numbers of its process."""
    made = CollectorRegistry()
    made.register(StoreCollector(server))
    ProcessCollector(registry=made)
    return made
