"""Signals: the first stops, repetitions are ignored, a later one ends the process."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from pmkv_server import signals as module
from pmkv_server.signals import IGNORED, STOPPING, StopSignals
from tests.unit.server.stand import until


def test_a_signal_during_the_start_stops_the_server_once_it_can_be() -> None:
    before = [signal.getsignal(number) for number in (*STOPPING, *IGNORED)]
    stopped: list[bool] = []
    with StopSignals() as signals:
        for number in (*IGNORED, *STOPPING, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert signals.received_at is not None

        async def run() -> None:
            signals.attach(asyncio.get_running_loop(), lambda: stopped.append(True))

        asyncio.run(run())
    assert stopped == [True]
    assert [signal.getsignal(number) for number in (*STOPPING, *IGNORED)] == before


async def test_repeated_signals_stop_once_and_a_later_one_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[bool] = []
    ended: list[int] = []
    with StopSignals() as signals:
        signals.attach(asyncio.get_running_loop(), lambda: stopped.append(True))
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(os.getpid(), number)
        await until(lambda: stopped)
        assert stopped == [True]
        monkeypatch.setattr(module.signal, "raise_signal", ended.append)
        monkeypatch.setattr(module, "REPEATED_S", 0.0)
        signals.receive()
    assert (stopped, ended) == ([True], [signal.SIGKILL])
