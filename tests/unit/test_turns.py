"""Whoever works long lets others go first, and looks now and then whether it still should."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from pmkv.turns import REST, TURN, Turns, give_way, rest


def test_a_rest_is_long_enough_for_another_thread() -> None:
    begun = time.perf_counter()
    rest()
    assert time.perf_counter() - begun >= REST


def test_who_waits_for_the_core_has_it() -> None:
    seen: list[int] = []
    other = threading.Thread(target=lambda: seen.append(1))
    other.start()
    while not seen:
        give_way()
    other.join()


def test_turns_pause_after_each_turn_and_not_before() -> None:
    paused: list[float] = []
    turns, begun = Turns(lambda: paused.append(time.perf_counter())), time.perf_counter()
    while len(paused) < 3:
        turns.give()
    assert paused[0] - begun >= TURN
    assert all(two - one >= TURN for one, two in itertools.pairwise(paused))


def test_what_pauses_may_end_the_work() -> None:
    def end() -> None:
        raise InterruptedError("given up")

    turns = Turns(end)
    with pytest.raises(InterruptedError):
        while True:
            turns.give()
