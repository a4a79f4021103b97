"""The guards of the server against clients that ask for much, and of the engine against decisions that replay could not
carry out: each is switched off in turn, and a scenario must notice. `test_schedule.py` has the gate for replies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import pytest

import pmkv
from pmkv.engine import engine as engine_module
from pmkv.engine.watches import KeyWatches, Watch
from pmkv.errors import CorruptionError, InvalidError
from pmkv_server.commands import keys as keys_module
from pmkv_server.commands import transactions
from pmkv_server.dispatch import tick
from pmkv_server.dispatch.tick import Dispatcher
from pmkv_server.net import output_limits
from pmkv_server.net.connection import SERVED, Connection
from pmkv_server.net.output_limits import OutputWatch
from tests.served import request
from tests.unit.server.stand import Stub, Wire, dispatching, settled, until

pytestmark = pytest.mark.crash

PATIENCE_S = 2.0
VALUE = bytes(100_000)
NEVER = 1 << 62


class World:
    """A server without sockets, and its clients."""

    def __init__(self, server: Stub) -> None:
        self.server, self.store, self.dispatcher = server, server.store, server.dispatcher

    def connect(self) -> Wire:
        return Wire(self.server, Connection(self.server, self.dispatcher))


async def a_client_that_does_not_read_is_served_no_further(world: World) -> None:
    """A few megabytes wait for it, not all that it asked for."""
    world.store.put(b"a", VALUE)
    lazy = world.connect()
    lazy.transport.slow = True
    for _ in range(30):
        lazy.send(request("GET", "a") * 10)
        await settled()
    assert lazy.transport.buffered < 8 << 20, "replies are made for a client that does not read"


async def a_pipeline_is_answered_in_turns(world: World) -> None:
    """What one client gets in one tick is bounded in bytes."""
    world.store.put(b"a", VALUE)
    greedy, most = world.connect(), 0
    write = greedy.transport.write

    def measured(data: Any) -> None:
        nonlocal most
        most = max(most, len(data))
        write(data)

    greedy.transport.write = measured  # type: ignore[method-assign]
    greedy.send(request("GET", "a") * 300)
    await until(lambda: len(greedy.transport.sent) >= 300 * len(VALUE), PATIENCE_S)
    assert most < 6 << 20, "one tick made the replies to a whole pipeline"


async def a_client_beyond_the_limit_of_output_is_cut_off(world: World) -> None:
    world.store.put(b"a", VALUE)
    admin, lazy = world.connect(), world.connect()
    await admin.answers('CONFIG SET client-output-buffer-limit "normal 1mb 0 0"')
    world.server.limits.set_output("normal 1mb 0 0")
    lazy.transport.slow = True
    for _ in range(20):
        lazy.ask("GET a")
        await settled()
    assert lazy.transport.aborted, "nobody looks at what a client leaves unread"


async def a_client_beyond_the_limit_of_input_is_cut_off(world: World) -> None:
    world.store.put(b"a", VALUE)
    world.server.limits.set_query("1mb")
    lazy = world.connect()
    lazy.transport.slow = True
    for _ in range(200):
        lazy.send(request("GET", "a") * 300)
        await settled()
        if lazy.transport.aborted:
            return
    raise AssertionError("a client that sends and never reads fills memory")


async def a_tick_ends(world: World) -> None:
    """Commands that are run one by one are left to later ticks when the time is over."""
    busy, other = world.connect(), world.connect()
    now = iter(range(1 << 30))
    with patch.object(tick, "clock", lambda: next(now) / 1000):
        busy.send(request("CLIENT", "ID") * 5_000)
        other.ask("PING")
        await until(other.replies, PATIENCE_S)
    assert len(busy.transport.sent) < 5_000 * 4, "a PING waited for a whole pipeline of others"


async def a_watched_key_that_was_written_ends_a_transaction(world: World) -> None:
    one, other = world.connect(), world.connect()
    assert await one.answers("WATCH a", "MULTI", "SET a mine") == ["OK", "OK", "QUEUED"]
    assert await other.answers("SET a theirs") == ["OK"]
    assert await one.answers("EXEC") == ["nil"], "a write of somebody else was overwritten"


async def a_watched_key_that_comes_and_goes_ends_a_transaction(world: World) -> None:
    one, other = world.connect(), world.connect()
    assert await one.answers("WATCH b", "MULTI", "SET b mine") == ["OK", "OK", "QUEUED"]
    assert await other.answers("SET b theirs", "DEL b") == ["OK", ":1"]
    assert await one.answers("EXEC") == ["nil"], "the key is absent as it was, but was written"


async def a_reply_too_long_for_memory_is_refused(world: World) -> None:
    world.store.put_many({b"%d" % i: VALUE for i in range(40)})
    client = world.connect()
    with patch.object(transactions, "MAX_REPLY_BYTES", 1 << 20):
        commands = ["MULTI", *(f"GET {i}" for i in range(40)), "EXEC"]
        replies = await client.answers(*commands)
    assert len(replies[-1]) < 3 << 20 and "take more than" in replies[-1], "EXEC gathers replies without a bound"


async def a_decision_that_cannot_be_replayed_is_refused(world: World) -> None:
    log, engine = world.store._engine.log, world.store._engine
    with log.locks.append, log.locks.state, pytest.raises(InvalidError):
        engine.decide({"op": "promote", "name": "nobody", "parts": [], "drop": []}, "main")


async def a_scan_of_very_many_keys_looks_at_a_page_at_a_time(world: World) -> None:
    world.store.put_many({b"%06d" % i: b"" for i in range(20_000)})
    client, looked, walk = world.connect(), [], type(world.store.keyspace(0)).keys

    def counted(self: Any, cursor: int = 0, count: int = 10) -> Any:
        looked.append(count)
        return walk(self, cursor, count)

    with patch.object(type(world.store.keyspace(0)), "keys", counted):
        await client.answers("SCAN 0 COUNT 10000000")
    assert max(looked) < 20_000, "one look at the index takes all keys"


def unbounded(session: Any, queue: Any) -> Any:
    """The replies of EXEC, however long."""
    with patch.object(transactions, "MAX_REPLY_BYTES", NEVER):
        return reply(session, queue)


def serves_on(self: Connection) -> bool:
    """The state that matters, but for whether the client reads."""
    return self.state == SERVED and not self.session.closing


reply = transactions._reply
Scenario = Callable[[World], Awaitable[None]]
SCENARIOS: list[Scenario] = [
    a_client_that_does_not_read_is_served_no_further,
    a_pipeline_is_answered_in_turns,
    a_client_beyond_the_limit_of_output_is_cut_off,
    a_client_beyond_the_limit_of_input_is_cut_off,
    a_tick_ends,
    a_watched_key_that_was_written_ends_a_transaction,
    a_watched_key_that_comes_and_goes_ends_a_transaction,
    a_reply_too_long_for_memory_is_refused,
    a_decision_that_cannot_be_replayed_is_refused,
    a_scan_of_very_many_keys_looks_at_a_page_at_a_time,
]


def play(scenario: Scenario) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(2) as executor, pmkv.open(pool=":memory:", capacity="256MiB") as store:
            server = Stub(store)
            dispatching(server, executor)
            try:
                await scenario(World(server))
            finally:
                await settled()

    asyncio.run(run())


MUTANTS: dict[str, tuple[Scenario, Any, str, Any]] = {
    "a client that does not read is served on": (
        a_client_that_does_not_read_is_served_no_further, Connection, "_may_serve", serves_on,
    ),
    "the replies of a tick have no bound": (
        a_pipeline_is_answered_in_turns, output_limits, "PAUSE_BYTES", NEVER,
    ),
    "what a client leaves unread is not watched": (
        a_client_beyond_the_limit_of_output_is_cut_off, OutputWatch, "excess", lambda *how: None,
    ),
    "what a client sends unread has no bound": (
        a_client_beyond_the_limit_of_input_is_cut_off, Connection, "_cut_off", lambda self: None,
    ),
    "a tick takes as long as it takes": (a_tick_ends, Dispatcher, "is_time_over", property(lambda self: False)),
    "a write does not tell who watches the key": (
        a_watched_key_that_was_written_ends_a_transaction, KeyWatches, "mark", lambda self, key64s: None,
    ),
    "EXEC compares records, and asks nobody who wrote": (
        a_watched_key_that_comes_and_goes_ends_a_transaction, Watch, "changed_key", lambda self: None,
    ),
    "the replies of EXEC have no bound": (
        a_reply_too_long_for_memory_is_refused, transactions, "_reply", unbounded,
    ),
    "a decision is logged unchecked": (
        a_decision_that_cannot_be_replayed_is_refused, engine_module, "check_decision", lambda *how: None,
    ),
    "a scan looks at all keys at once": (
        a_scan_of_very_many_keys_looks_at_a_page_at_a_time, keys_module, "LOOK_KEYS", NEVER,
    ),
}  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_the_server_as_it_is(scenario: Scenario) -> None:
    play(scenario)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_noticed(name: str) -> None:
    scenario, *mutation = MUTANTS[name]
    with patch.object(*mutation), pytest.raises((AssertionError, TimeoutError, CorruptionError)):
        play(scenario)


def test_every_scenario_has_a_mutant() -> None:
    assert {scenario for scenario, *_ in MUTANTS.values()} == set(SCENARIOS)
