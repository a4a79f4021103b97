"""Whoever works long lets others go first, and looks now and then whether it still should."""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import subprocess
import sys
import threading
import time
from types import BuiltinFunctionType, SimpleNamespace

import pytest

from pmkv.runtime import scheduling as turns
from pmkv.runtime.scheduling import GIL_YIELD_S, MAX_TURN_S, FairShare, GilYielder, yield_gil
from tests.engines import at_the_same_time


def test_a_rest_is_long_enough_for_another_thread() -> None:
    begun = time.perf_counter()
    yield_gil()
    assert time.perf_counter() - begun >= GIL_YIELD_S


def test_the_core_is_given_to_whoever_waits_for_it() -> None:
    assert turns._yield.__name__ == "sched_yield"
    assert not isinstance(turns._yield, BuiltinFunctionType), "it would keep the interpreter"


def test_a_core_that_others_keep_is_not_given_away_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now, given = 100.0, []

    def take_it_once() -> None:
        nonlocal now
        given.append(now)
        now += 0.01 if len(given) == 1 else 0

    monkeypatch.setattr(turns, "time", SimpleNamespace(perf_counter=lambda: now))
    monkeypatch.setattr(turns, "_yield", take_it_once)
    monkeypatch.setattr(turns, "_not_before", 0.0)
    while len(given) < 2:
        turns.yield_cpu()
        now += 0.001
    assert (
        given[0] + 0.01 * (1 + turns.YIELD_BACKOFF_RATIO)
        <= given[1]
        < given[0] + 0.01 * (1 + turns.YIELD_BACKOFF_RATIO) + 0.0011
    )
    turns.yield_cpu()
    assert len(given) == 3


def test_turns_pause_after_each_turn_and_not_before() -> None:
    paused: list[float] = []
    begun = time.perf_counter()
    work = GilYielder(lambda: paused.append(time.perf_counter()))
    while len(paused) < 3:
        work.give()
    assert paused[0] - begun >= MAX_TURN_S
    assert all(two - one >= MAX_TURN_S for one, two in itertools.pairwise(paused))


def test_a_turn_may_be_shorter() -> None:
    paused: list[float] = []
    work = GilYielder(lambda: paused.append(time.perf_counter()), turn=0.0)
    work.give()
    work.give()
    assert len(paused) == 2


def asked() -> tuple[int, int, int]:
    """Policy, nice and slice that this thread asked the system for; one before 6.12 has no slices of a thread's own."""
    room = ctypes.create_string_buffer(turns.ATTRIBUTES.size)
    call = {"x86_64": 315, "aarch64": 275}[platform.machine()]  # sched_getattr
    assert ctypes.CDLL(None).syscall(call, 0, room, len(room), 0) == 0
    _, policy, _, nice, _, slice_, _, _ = turns.ATTRIBUTES.unpack(room.raw)
    return policy, nice, slice_


@pytest.mark.parametrize("is_batch", [False, True])
def test_who_steps_up_keeps_its_rank(is_batch: bool) -> None:
    def step() -> None:
        turns.lower_priority(7) if is_batch else os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 7)
        policy, nice, before = asked()
        turns.short_slice()
        assert asked()[:2] == (policy, nice) == (os.SCHED_BATCH if is_batch else os.SCHED_OTHER, 7)
        assert asked()[2] == before or (asked()[2] < before and not is_batch), "what somebody chose stays"

    with at_the_same_time(step):
        pass


def test_what_pauses_may_end_the_work() -> None:
    def end() -> None:
        raise InterruptedError("given up")

    work = GilYielder(end)
    with pytest.raises(InterruptedError):
        while True:
            work.give()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Seconds that a test decides about, which begin at some time; and how long somebody slept."""
    clock = SimpleNamespace(now=100.0, slept=0.0)

    def sleep(seconds: float) -> None:
        clock.slept += seconds

    monkeypatch.setattr(turns, "time", SimpleNamespace(perf_counter=lambda: clock.now, sleep=sleep))
    monkeypatch.setattr(turns.sys, "getswitchinterval", lambda: 0.005)
    return clock


def test_operations_one_behind_the_other_are_a_long_stretch_after_a_switch_interval(clock: SimpleNamespace) -> None:
    stretch, long = FairShare(), []
    for _ in range(1200):
        if stretch.is_long():
            long.append(round(clock.now - 100, 4))
            stretch.yield_gil()
        clock.now += 0.00001
    assert long == [0.005, 0.01] and clock.slept == pytest.approx(2 * GIL_YIELD_S)


def test_who_holds_a_lock_when_it_is_time_rests_behind_the_next_one(clock: SimpleNamespace) -> None:
    stretch = FairShare()
    stretch.is_long()
    for _ in range(6):
        clock.now += 0.0009
        held = stretch.is_long()
    assert held and stretch.is_long(), "still"
    stretch.yield_gil()
    assert not stretch.is_long()


def test_operations_now_and_then_are_no_stretch(clock: SimpleNamespace) -> None:
    stretch = FairShare()
    for _ in range(100):
        assert not stretch.is_long()
        clock.now += 0.0051


def test_operations_of_some_milliseconds_are_one(clock: SimpleNamespace) -> None:
    stretch, long = FairShare(), 0
    for _ in range(100):
        if stretch.is_long():
            long += 1
            stretch.yield_gil()
        clock.now += 0.003
    assert long == 49, "each second one"


def test_the_switch_is_read_from_the_environment() -> None:
    look = "from pmkv.runtime import scheduling; print(scheduling.IS_ENABLED)"
    for setting, enabled in ({"PMKV_SCHED": "off"}, "False"), ({"PMKV_SCHED": "on"}, "True"), ({}, "True"):
        environment = {name: value for name, value in os.environ.items() if name != "PMKV_SCHED"} | setting
        said = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, check=True)
        assert said.stdout.strip() == enabled


def test_switched_off_nothing_is_asked_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[str] = []
    monkeypatch.setattr(turns, "IS_ENABLED", False)
    monkeypatch.setattr(turns, "_not_before", 0.0)
    monkeypatch.setattr(turns, "_yield", lambda: asked_for.append("yield"))
    monkeypatch.setattr(turns, "_schedule", lambda *how: asked_for.append("schedule"))
    monkeypatch.setattr(turns.os, "setpriority", lambda *how: asked_for.append("nice"))
    turns.lower_priority(5)
    turns.short_slice()
    turns.yield_cpu()
    assert not asked_for
