"""A hundred histories for `make quick`, each looked at lightly: a first answer to whether a crash loses anything."""

from __future__ import annotations

import random

import pytest

from tests.crash.explore import Knobs, explore

pytestmark = [pytest.mark.crash, pytest.mark.quick]

HISTORIES, BLOCK = 100, 10
LIGHTLY = {"images": 2, "steps": 3, "twice": 0.02}  # `make test` looks at up to 24 images of a point of longer ones


@pytest.mark.parametrize("first_seed", range(1, HISTORIES, BLOCK))
def test_every_image_of_some_histories_recovers(first_seed: int) -> None:
    for seed in range(first_seed, first_seed + BLOCK):
        outcome = explore(seed, Knobs.drawn(random.Random(seed), **LIGHTLY))
        assert not isinstance(outcome, str), outcome
