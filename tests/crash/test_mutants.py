"""The gate: exploration catches every mutant, by seeds over which it passes the engine as it is.

Prints for each mutant which seed killed it, and by what.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.crash.explore import Counts, Knobs, explore
from tests.crash.mutants import MUTANTS, mutated
from tests.crash.mutants_cleaning import CLEANING
from tests.crash.mutants_maintenance import MAINTENANCE
from tests.crash.mutants_versions import VERSIONS

pytestmark = pytest.mark.crash

SEEDS = range(7_000, 7_240)
# What killed each mutant when somebody wrote it down last (from what this prints): tried first, to be quick. Histories
# change, and then another seed is found.
LIKELY: dict[str, int] = json.loads((Path(__file__).parent / "killers.json").read_text())
FORK = get_context("fork")


def kind_of(name: str) -> str:
    """What a mutant is about."""
    kinds = {"versions": VERSIONS, "maintenance": MAINTENANCE, "cleaning": CLEANING}
    return next((kind for kind, names in kinds.items() if name in names), "log")


def lightly(seed: int, kind: str) -> Counts | str:
    """Many histories, each looked at lightly: with many views (of three in four only what the store shows as it goes,
    and after the crashes between its lives), with many checkpoints and folds, or of the log alone."""
    rng = random.Random(seed)
    if kind == "log":
        return explore(seed, Knobs.drawn(rng, images=8, twice=0.25, tier=None, views=0))
    fixed = {"tier": 2, "steps": 11, "segments": 14, "room": None, "left": None}
    if kind == "cleaning":
        return explore(seed, Knobs.drawn(rng, images=2, views=2 * (seed % 2), cleans=True, **fixed | {"steps": 14}))
    if kind == "versions":
        return explore(seed, Knobs.drawn(rng, images=0 if seed % 4 else 3, views=3, **fixed))
    return explore(seed, Knobs.drawn(rng, images=3, views=0, **fixed))


Killer = tuple[int, str]  # a seed, and what was noticed


def hunt(name: str, told: Connection) -> None:
    """Tells each seed that is tried, and then what killed the mutant."""
    with mutated(name):
        for seed in dict.fromkeys([LIKELY.get(name, SEEDS[0]), *SEEDS]):
            told.send((seed, ""))
            outcome = lightly(seed, kind_of(name))
            if isinstance(outcome, str):
                told.send((seed, outcome.splitlines()[0].partition("): ")[2]))
                break
        else:
            told.send(None)
    os._exit(0)  # the threads of the parent are not this process' to end


def killer_of(name: str) -> Killer | None:
    """In a process of its own: a mutant may read where there is no memory."""
    listening, told = FORK.Pipe(duplex=False)
    child = FORK.Process(target=hunt, args=(name, told))
    child.start()
    told.close()
    last: Killer | None = None
    with contextlib.suppress(EOFError):
        while True:
            last = listening.recv()
    child.join()
    deadline = time.monotonic() + 10
    while child.exitcode is None and time.monotonic() < deadline:
        time.sleep(0.001)  # the other thread, starting a process, has waited for this one, and notes its end soon
    assert child.exitcode is not None and child.exitcode <= 0, f"{name}: {child.exitcode}"
    return (last[0], f"its process ended by signal {-child.exitcode}") if child.exitcode and last else last


@pytest.fixture(scope="module")
def killers() -> dict[str, Killer | None]:
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(MUTANTS, pool.map(killer_of, MUTANTS)))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(name: str, killers: dict[str, Killer | None], capsys: pytest.CaptureFixture[str]) -> None:
    killer = killers[name]
    with capsys.disabled():
        words = f"killed by seed {killer[0]}: {killer[1][:140]}" if killer else "SURVIVED"
        print(f"\n  mutant: {name}\n    {words}", end=" ")
    assert killer, f"the exploration does not notice when {name}"


def test_the_engine_as_it_is_passes_over_the_seeds_that_kill(killers: dict[str, Killer | None]) -> None:
    seeds = sorted({(killer[0], kind_of(name)) for name, killer in killers.items() if killer})
    with ProcessPoolExecutor(2, FORK) as pool:
        failures = [outcome for outcome in pool.map(lightly, *zip(*seeds)) if isinstance(outcome, str)]
    assert not failures, failures[0]
