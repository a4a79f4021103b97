"""Feast over pmkv: apply, materialize, push and read. Start `pmkv serve`, then: python examples/feast/run.py [URL]

Needs `pip install pmkv-client[feast]`. The repository of features is copied into a folder that is removed at the end.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from feast import FeatureStore

HERE = Path(__file__).parent


def offline_data(now: datetime) -> pd.DataFrame:
    """Return what a batch job knows of three drivers, an hour ago."""
    count = 3
    return pd.DataFrame({
        "driver_id": [1001, 1002, 1003],
        "at": [now - timedelta(hours=1)] * count,
        "created": [now] * count,
        "trips": [10, 20, 30],
        "rating": [4.5, 4.0, 3.5],
        "earned": [100.0, 200.0, 300.0],
        "name": ["Ada", "Grace", "Edsger " + "W. " * 40],  # a long one does not fit into its row
        "languages": [["en"], ["en", "fr"], ["nl"]],
        "taste": [[0.5, 0.25], [1.0, 2.0], [0.0, 0.125]],
    })  # fmt: skip


def main(url: str = "pmkv://localhost:7379") -> None:
    """Run the example against a server."""
    os.environ["FEATURE_STORE_URL"] = url
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("feature_store.yaml", "features.py"):
            shutil.copy(HERE / name, folder)
        os.chdir(folder)
        sys.path.insert(0, folder)
        try:
            show(datetime.now(UTC))
        finally:
            os.chdir(before)
            sys.path.remove(folder)


def show(now: datetime) -> None:
    """Apply the features in the current folder, fill the store, and read it."""
    import features

    Path("data").mkdir()
    offline_data(now).to_parquet("data/trips.parquet")
    store = FeatureStore(".")
    store.apply([features.driver, features.driver_trips, features.driver_profile, features.ranking])
    store.materialize(now - timedelta(days=1), now)
    print("materialized:", read(store, 1001, 1003))

    push = {
        "driver_id": [1001, 1002],
        "created": [now, now],
        "trips": [11, 99],
        "rating": [4.6, 1.0],
        "earned": [110.0, 0.0],
    }
    push["at"] = [now, now - timedelta(hours=2)]  # the second event is older than what is stored: it is left out
    store.push("trips_now", pd.DataFrame(push))
    print("pushed:", read(store, 1001, 1002))
    print("nobody knows:", read(store, 4))
    store.teardown()


def read(store: FeatureStore, *drivers: int) -> list[dict[str, object]]:
    """Return all features of some drivers, in one call to the server."""
    service = store.get_feature_service("ranking")
    found = store.get_online_features(service, [{"driver_id": driver} for driver in drivers]).to_dict()
    return [{name: found[name][row] for name in sorted(found)} for row in range(len(drivers))]


if __name__ == "__main__":
    main(*sys.argv[1:])
