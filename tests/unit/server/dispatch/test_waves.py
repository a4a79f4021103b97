"""Waves reply and leave behind what the functions of their commands do, and are counted as these are."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import pmkv
from pmkv_server.commands import COMMANDS
from pmkv_server.dispatch.waves import Plan, Waves, entries_of_waves
from pmkv_server.resp.scan import Scan, Scanner
from tests.drawn_commands import Commands, Words, same
from tests.served import request
from tests.unit.server.stand import Client, Stub, parsed

COUNT = 3_000


@pytest.fixture
def other() -> Iterator[Stub]:
    with pmkv.open(pool=":memory:", capacity="64MiB") as store:
        yield Stub(store)


@pytest.fixture
def waves(server: Stub) -> Waves:
    return Waves(server)


def scanned(waves: Waves, commands: list[Words]) -> Scan:
    data = b"".join(request(*words) for words in commands)
    return Scanner(waves.name_table(), 1 << 16).scan(data, [len(data)])


def planned(waves: Waves, commands: list[Words]) -> Plan:
    return waves.plan(scanned(waves, commands), np.array([[0, len(commands)]]))


def by_functions(client: Client, commands: list[Words]) -> list[tuple]:
    return [client(*words) for words in commands]


def by_waves(waves: Waves, client: Client, commands: list[Words]) -> list[tuple]:
    """The replies to commands, with a function only where a wave ends."""
    found, done, replies = scanned(waves, commands), 0, []
    while done < len(commands):
        plan = waves.plan(found, np.array([[done, len(commands)]]))
        outcome = waves.carry_out(plan, client.session.keyspace, [client.session.protocol], [1 << 30])
        replies += parsed(outcome.replies.tobytes())
        done = len(replies)
        if done < len(commands) and (outcome.shares()[0].has_left or not found.number(done)):
            replies.append(client(*commands[done]))
            found.rows[done, 3] = 0
            done += 1
    return replies


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_same_as_by_functions(protocol: int, waves: Waves, client: Client, server: Stub, other: Stub) -> None:
    rng = random.Random(protocol)
    drawn, done, plain = Commands(rng), 0, Client(other)
    client.session.protocol = plain.session.protocol = protocol
    while done < COUNT:
        commands = [drawn.one(b"") for _ in range(rng.choice((1, 2, 10, 120)))]
        ours, theirs = by_waves(waves, client, commands), by_functions(plain, commands)
        for words, one, two in zip(commands, ours, theirs, strict=True):
            assert same(words, one, two), words
        done += len(commands)
    spaces = [one.store.keyspace(0) for one in (server, other)]
    assert dict(spaces[0].scan()) == dict(spaces[1].scan())
    for space in spaces:
        space.check()
    calls = [{name: figures.calls for name, figures in one.stats.by_command.items()} for one in (server, other)]
    assert calls[0] == calls[1]
    assert vars(server.store.lookups) == vars(other.store.lookups)


def test_every_command_with_an_action_has_a_number_of_its_own() -> None:
    entries = entries_of_waves()
    names = [entry.name for entry in entries]
    assert names == [entry.name for entry in COMMANDS.values() if entry.action is not None] and len(set(names)) > 30
    assert not any(entry.is_container or entry.waits for entry in entries)


def test_a_plan_that_is_kept_outlives_the_next_one(waves: Waves, store: Any) -> None:
    kept = planned(waves, [(b"SET", b"a", b"1"), (b"GET", b"a")]).kept()
    planned(waves, [(b"DEL", b"x", b"y", b"z"), (b"TTL", b"b")])
    assert [kept.words(0), kept.words(1)] == [[b"SET", b"a", b"1"], [b"GET", b"a"]]
    outcome = waves.carry_out_in_worker(kept, store.keyspace(0), [2], [1 << 20])
    assert outcome.replies.tobytes() == b"+OK\r\n$1\r\n1\r\n" and outcome.wrote


def test_shares_of_connections_that_sent_nothing(waves: Waves, store: Any) -> None:
    found = scanned(waves, [(b"PING",)])
    outcome = waves.carry_out(waves.plan(found, np.array([[0, 0], [0, 1]])), store.keyspace(0), [2, 2], [99, 99])
    assert [(share.done, share.start, share.stop) for share in outcome.shares()] == [(0, 0, 0), (1, 0, 7)]
    assert [share.last for share in outcome.shares()] == ["NULL", "ping"] and not outcome.wrote
