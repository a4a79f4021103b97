"""Exploration at its two sizes, its own counts, and hypothesis on top to shrink what fails.

    make test           100,000 images
    make test-long      3,000,000 images, and the share of them that is opened as files by pmkv.open

PMKV_TEST_SEED sets the first seed, PMKV_TEST_IMAGES the number of images.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.crash.explore import Counts, History, Knobs, explore_for

pytestmark = pytest.mark.crash

QUICK, LONG = 100_000, 3_000_000
MEMORY = Path("/dev/shm")
FIRST_SEED = int(os.environ.get("PMKV_TEST_SEED", 1))
IMAGES = int(os.environ.get("PMKV_TEST_IMAGES", 0))


def run(images: int, first_seed: int, capsys: pytest.CaptureFixture[str], full_opens: Path | None = None) -> Counts:
    start = time.perf_counter()
    counts, failures = explore_for(IMAGES or images, first_seed, folder=full_opens)
    with capsys.disabled():
        print(f"\n  explored in {time.perf_counter() - start:,.0f} s: {counts}", end=" ")
    assert not failures, failures[0]
    return counts


def test_every_image_recovers_to_what_was_promised(capsys: pytest.CaptureFixture[str]) -> None:
    counts = run(QUICK, FIRST_SEED, capsys)
    assert counts.twice > counts.images / 10 and counts.damages > counts.histories


@pytest.fixture
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """On a file system in memory, where there is one: what is tried is the way through files, not how long a disk takes
    to sync them."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@pytest.mark.long
def test_every_image_recovers_for_an_hour(capsys: pytest.CaptureFixture[str], quick_folder: Path) -> None:
    counts = run(LONG, 1_000_000 + FIRST_SEED, capsys, quick_folder)
    assert counts.opened > counts.images / 200


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),  # a history is a large thing to draw
)
@given(st.randoms(use_true_random=False), st.integers(0, 1 << 30))
def test_histories_that_shrink(rng: random.Random, noise: int) -> None:
    """The same with hypothesis' random numbers: what fails is told as the shortest history that does."""
    history = History(noise, Knobs(segments=5, steps=4, images=12), rng=rng)
    history.explore()


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_tells_the_same_history_again(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    def told() -> str:
        History(seed, told=True).explore()
        return capsys.readouterr().out

    assert told() == told() != ""
