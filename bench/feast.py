"""get_online_features of 50 floats in 5 views, and pushes of 1,000 rows, by Feast: PmkvOnlineStore beside Feast's own
store on a redis-server, in turn."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from . import servers
from .measure import Comparison, Figure, Ratio, in_pairs

VIEWS, FEATURES, ENTITIES, CALLS = 5, 10, 5_000, 30
LATENCY_BARS = {1: 1.0, 100: 0.65, 500: 0.7}  # of Redis' p50, by rows of a request
PUSH_BAR = 3.0


class Side:
    """A feature store over one server."""

    def __init__(self, folder: Path, online: dict[str, Any]) -> None:
        import pandas as pd
        from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig, ValueType
        from feast.types import Float32

        folder.mkdir(parents=True, exist_ok=True)
        config = RepoConfig(
            project="bench", provider="local", registry=str(folder / "registry.db"), online_store=online,
            entity_key_serialization_version=3,
        )  # fmt: skip
        self.store = FeatureStore(config=config)
        driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
        self.features, views = [], []
        self._names = [f"f{number}" for number in range(FEATURES)]
        for number in range(VIEWS):
            batch = FileSource(path=str(folder / "none.parquet"), timestamp_field="at")
            source = PushSource(name=f"p{number}", batch_source=batch)
            views.append(FeatureView(
                name=f"v{number}", entities=[driver], ttl=timedelta(days=7), source=source,
                schema=[Field(name=name, dtype=Float32) for name in self._names],
            ))  # fmt: skip
            self.features += [f"v{number}:{name}" for name in self._names]
        self.store.apply([driver, *views])
        self._frame = pd.DataFrame

    def push(self, first: int, count: int) -> None:
        """Push rows of so many drivers to all views."""
        frame = {name: [float(first + number)] * count for number, name in enumerate(self._names)}
        rows = self._frame({**frame, "driver_id": range(first, first + count), "at": [datetime.now(UTC)] * count})
        for number in range(VIEWS):
            self.store.push(f"p{number}", rows)

    def p50(self, rows: int) -> float:
        """Return the median of the seconds of a request of so many rows."""
        taken = []
        for call in range(CALLS):
            wanted = [{"driver_id": (call * 37 + row) % ENTITIES} for row in range(rows)]
            begin = time.perf_counter()
            self.store.get_online_features(self.features, wanted, full_feature_names=True)
            taken.append(time.perf_counter() - begin)
        return median(taken)

    def requests_a_second(self) -> dict[str, float]:
        return {f"get_online_features of {rows} rows": 1 / self.p50(rows) for rows in LATENCY_BARS}

    def pushed_a_second(self) -> dict[str, float]:
        begin = time.perf_counter()
        self.push(0, 1000)
        return {f"push of 1,000 rows to {VIEWS} views": 1000 * VIEWS / (time.perf_counter() - begin)}


@contextlib.contextmanager
def sides(folder: Path) -> Iterator[tuple[Side, Side]]:
    """Start both servers. BenchError: Feast or the redis package that its store needs is missing."""
    with (
        servers.pmkv(folder / "pmkv", "--durability", "interval", "--capacity", "2GiB") as ours,
        servers.redis(folder / "redis", "everysec") as theirs,
    ):
        try:
            yield (
                Side(folder / "a", {"type": "pmkv_client.feast.PmkvOnlineStore", "url": f"pmkv://127.0.0.1:{ours}"}),
                Side(folder / "b", {"type": "redis", "connection_string": f"127.0.0.1:{theirs}"}),
            )
        except ImportError as error:
            raise servers.BenchError(f"{error}: `make ml` installs Feast") from None


def section(folder: Path, rounds: int) -> list[Comparison | Figure]:
    with sides(folder) as (ours, theirs):
        for side in (ours, theirs):
            for first in range(0, ENTITIES, 1000):
                side.push(first, 1000)
        gc.collect()
        gc.freeze()  # else one push of several waits for a pass over all that Feast has imported, on either side
        reads = in_pairs(ours.requests_a_second, theirs.requests_a_second, rounds, "1/s", {})
        pushes = in_pairs(ours.pushed_a_second, theirs.pushed_a_second, rounds, "rows/s", {})
    for one in pushes:
        one.bar = PUSH_BAR
    times = [
        Ratio(f"p50 of {one.name}, over Redis", "times", [1 / ratio for ratio in one.ratio.values], bar)
        for one, bar in zip(reads, LATENCY_BARS.values(), strict=True)
    ]
    return [*reads, *pushes, *times]
