"""A thousand interrupted operations, and mutants that they notice; ten thousand are
`python -m tests.crash.interrupt --rounds 10000`."""

from __future__ import annotations

import contextlib
from unittest.mock import patch

import pytest

from tests.crash.interrupt import InterruptedHistory, Outcomes, interrupt
from tests.crash.mutants_interrupt import INTERRUPT

pytestmark = pytest.mark.crash

OPERATIONS, BLOCKS = 1000, 4
HISTORIES_OF_A_MUTANT = 120


@pytest.mark.parametrize("block", range(BLOCKS))
def test_an_interrupted_operation_is_whole_or_did_not_happen(block: int, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = interrupt(OPERATIONS // BLOCKS, seed=1 + 1000 * block)
    with capsys.disabled():
        print(f"\n  seeds from {1 + 1000 * block}: {outcomes}", end=" ")
    assert outcomes.before and outcomes.after and outcomes.twice


@pytest.mark.parametrize("name", INTERRUPT)
def test_a_mutant_is_noticed(name: str) -> None:
    with contextlib.ExitStack() as stack:
        for target, attribute, replacement in INTERRUPT[name]():
            stack.enter_context(patch.object(target, attribute, replacement))
        for seed in range(HISTORIES_OF_A_MUTANT):
            try:
                InterruptedHistory(seed, Outcomes()).run(40)
            except Exception:  # a violation, or an error that no operation may raise
                return
    pytest.fail(f"interrupted histories do not notice when {name}")
