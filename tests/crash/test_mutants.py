"""The gate: exploration catches every mutant, and passes the engine as it is over the same seeds.

Prints for each mutant which seed killed it, and by what.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests.crash.explore import Counts, Knobs, explore
from tests.crash.mutants import MUTANTS, mutated

pytestmark = pytest.mark.crash

SEEDS = range(7_000, 7_060)


def lightly(seed: int) -> Counts | str:
    """Many histories, each looked at lightly."""
    return explore(seed, Knobs.drawn(random.Random(seed), images=8, twice=0.25))


def hunt(name: str) -> str | None:
    """What killed a mutant."""
    with mutated(name):
        return next((outcome for outcome in map(lightly, SEEDS) if isinstance(outcome, str)), None)


@pytest.fixture(scope="module")
def killers() -> Iterator[dict[str, str | None]]:
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        yield dict(zip(MUTANTS, pool.map(hunt, MUTANTS)))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(name: str, killers: dict[str, str | None], capsys: pytest.CaptureFixture[str]) -> None:
    killer = killers[name]
    with capsys.disabled():
        print(f"\n  mutant: {name}\n    killed by {(killer or 'NOTHING').splitlines()[0][:160]}", end=" ")
    assert killer, f"the exploration does not notice when {name}"


def test_the_engine_as_it_is_passes_over_the_same_seeds() -> None:
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        failures = [outcome for outcome in pool.map(lightly, SEEDS) if isinstance(outcome, str)]
    assert not failures, failures[0]
