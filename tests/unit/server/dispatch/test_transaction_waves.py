"""Queues of transactions by waves: the replies of functions, in order, whatever comes among the commands."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

import pmkv
from pmkv_server.commands.execution import run
from pmkv_server.dispatch import transaction_waves
from pmkv_server.dispatch.waves import Waves
from tests.drawn_commands import Commands, same
from tests.unit.server.stand import Client, Stub


@pytest.fixture
def other() -> Iterator[Client]:
    with pmkv.open(pool=":memory:", capacity="64MiB") as store:
        yield Client(Stub(store))


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_same_as_by_functions(protocol: int, client: Client, other: Client) -> None:
    rng = random.Random(protocol)
    drawn = Commands(rng)
    client.session.protocol = other.session.protocol = protocol
    for _ in range(60):
        client("MULTI")
        commands = [drawn.one(b"") for _ in range(rng.choice((0, 1, 3, 30)))]
        commands = [words for words in commands if client(*words) == ("+", b"QUEUED")]
        client.session.broken = False
        kind, replies = client("EXEC")
        assert kind == "*"
        for words, one in zip(commands, replies, strict=True):
            assert same(words, one, other(*words)), words
    assert dict(client.server.store.scan()) == dict(other.server.store.scan())


def test_commands_for_waves_are_carried_out_together(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    waves, functions, carry_out = [], [], Waves.carry_out

    def counted(self: Waves, plan: Any, *arguments: Any) -> Any:
        waves.append(len(plan.commands))
        return carry_out(self, plan, *arguments)

    def watched(session: Any, entry: Any, words: Any) -> Any:
        functions.append(entry.name)
        return run(session, entry, words)

    monkeypatch.setattr(Waves, "carry_out", counted)
    monkeypatch.setattr(transaction_waves, "run", watched)
    lines = ["SET a 1", "INCR a", "DBSIZE", "SET a x", "INCR a", "SELECT 1", "GET a", "SET b 1", "SELECT 0", "GET a"]
    client.follows("MULTI => OK\n" + "".join(f"{line} => QUEUED\n" for line in lines))
    found = client.says("EXEC")
    assert found == '[OK, :2, :1, OK, -ERR value is not an integer or out of range, OK, nil, OK, OK, "x"]'
    assert waves == [2, 2, 2] and functions == ["dbsize", "incr", "select", "select", "get"]
    assert client.server.stats.by_command["set"].calls == 3


def test_long_words_are_not_copied(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transaction_waves, "SHORT_BYTES", 10)
    monkeypatch.setattr(transaction_waves, "QUEUED_TOGETHER", 2)
    client.follows("MULTI => OK\nSET a 1234567890 => QUEUED\n" + "APPEND a 1 => QUEUED\n" * 5 + "GET a => QUEUED")
    assert client.says("EXEC") == '[OK, :11, :12, :13, :14, :15, "123456789011111"]'
