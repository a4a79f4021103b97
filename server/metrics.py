"""What Prometheus may ask of a server, read when it asks: nothing is counted twice. Names are redis_exporter's where
the meaning is the same; what only pmkv has begins with pmkv_."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

# names in the store's statistics, and what they are called here
GAUGES = {
    "capacity": ("pmkv_pool_capacity_bytes", "Bytes of the pool."),
    "used": ("pmkv_pool_used_bytes", "Bytes of the segments that hold the log."),
    "segments": ("pmkv_pool_segments", "Segments of the pool."),
    "segments_free": ("pmkv_pool_segments_free", "Segments that hold nothing."),
    "index_bytes": ("pmkv_index_bytes", "DRAM of the indexes."),
    "durable_lsn": (
        "pmkv_durable_lsn",
        "Everything up to this LSN is durable (rounded to 53 bits, as all numbers here).",
    ),
    "epoch": ("pmkv_epoch", "How many times the store was opened for writing."),
    "recovery_seconds": ("pmkv_recovery_seconds", "What the last start took to read the log."),
    "recovery_frames": ("pmkv_recovery_frames", "Frames replayed by the last start."),
    "recovery_records": ("pmkv_recovery_records", "Records replayed by the last start."),
}


class StoreCollector(Collector):
    """Reads `store.stats()` and `server.stats`."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        yield from self._of_the_server()
        yield from _of_the_store(self._server.store.stats())

    def _of_the_server(self) -> Iterator[Metric]:
        server, stats = self._server, self._server.stats
        yield GaugeMetricFamily("redis_up", "Whether the store takes reads and writes.", int(not server.store.failed))
        yield GaugeMetricFamily("redis_uptime_in_seconds", "Since the start.", time.time() - stats.started)
        yield GaugeMetricFamily("redis_connected_clients", "Over the Redis protocol.", len(server.sessions))
        for name, value, meaning in (
            ("redis_connections_received", stats.connections, "Connections accepted."),
            ("redis_rejected_connections", stats.rejected, "Connections refused, for there were too many."),
            ("redis_commands_processed", stats.commands, "Commands of the Redis protocol."),
            ("redis_net_input_bytes", stats.input_bytes, "Bytes of requests."),
            ("redis_net_output_bytes", stats.output_bytes, "Bytes of replies."),
            ("pmkv_ticks", stats.ticks, "Turns of the loop that served commands."),
        ):
            yield CounterMetricFamily(name, meaning, value)


def _of_the_store(stats: Any) -> Iterator[Metric]:
    for field, (name, meaning) in GAUGES.items():
        yield GaugeMetricFamily(name, meaning, getattr(stats, field))
    yield GaugeMetricFamily("pmkv_pending_frames", "Frames not durable yet.", stats.lsn - stats.durable_lsn)
    yield CounterMetricFamily("pmkv_flushes", "Groups made durable.", stats.flushes)
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
