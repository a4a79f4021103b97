"""The gate: exploration catches every mutant, by seeds over which it passes the engine as it is.

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


Killer = tuple[int, str]  # a seed, and what was noticed


def hunt(name: str) -> Killer | None:
    """What killed a mutant."""
    with mutated(name):
        for seed in SEEDS:
            outcome = lightly(seed)
            if isinstance(outcome, str):
                return seed, outcome.splitlines()[0].partition("): ")[2]
    return None


@pytest.fixture(scope="module")
def killers() -> Iterator[dict[str, Killer | None]]:
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        yield dict(zip(MUTANTS, pool.map(hunt, MUTANTS)))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(name: str, killers: dict[str, Killer | None], capsys: pytest.CaptureFixture[str]) -> None:
    killer = killers[name]
    with capsys.disabled():
        words = f"killed by seed {killer[0]}: {killer[1][:140]}" if killer else "SURVIVED"
        print(f"\n  mutant: {name}\n    {words}", end=" ")
    assert killer, f"the exploration does not notice when {name}"


def test_the_engine_as_it_is_passes_over_the_seeds_that_kill(killers: dict[str, Killer | None]) -> None:
    seeds = sorted({killer[0] for killer in killers.values() if killer})
    with ProcessPoolExecutor(2, get_context("fork")) as pool:
        failures = [outcome for outcome in pool.map(lightly, seeds) if isinstance(outcome, str)]
    assert not failures, failures[0]
