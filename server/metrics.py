"""What Prometheus may ask of a server, read when it asks: nothing is counted twice. Names are redis_exporter's where the
meaning is the same; what only pmkv has begins with pmkv_."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

KEYSPACES = 16


class StoreCollector(Collector):
    """Reads `store.stats()`, the tables and `server.stats`."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        with self._server.store.deferred():  # a scrape reveals counts, not values, and waits for no flush
            yield from self._of_the_server()
            yield from self._of_keyspaces()
            yield from self._of_tables()
            yield from self._of_the_store()

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

    def _of_keyspaces(self) -> Iterator[Metric]:
        keys = GaugeMetricFamily("redis_db_keys", "Keys in a keyspace.", labels=["db"])
        for number in range(KEYSPACES):
            keys.add_metric([f"db{number}"], len(self._server.store.keyspace(number)))
        yield keys

    def _of_tables(self) -> Iterator[Metric]:
        rows = GaugeMetricFamily("pmkv_table_rows", "Rows in a table.", labels=["table"])
        width = GaugeMetricFamily("pmkv_table_row_bytes", "Bytes of one row of a table.", labels=["table"])
        for name, table in self._server.store.tables().items():
            rows.add_metric([name], len(table))
            width.add_metric([name], table.width)
        yield from (rows, width)

    def _of_the_store(self) -> Iterator[Metric]:
        """Every number of the store's statistics by its own name."""
        for name, value in self._server.store.stats().asdict().items():
            if isinstance(value, int | float):
                yield GaugeMetricFamily(f"pmkv_{name}", f"{name} of the store's statistics.", value)


def registry(server: Any) -> CollectorRegistry:
    """What one server exports, with the memory and file numbers of its process."""
    made = CollectorRegistry()
    made.register(StoreCollector(server))
    ProcessCollector(registry=made)
    return made
