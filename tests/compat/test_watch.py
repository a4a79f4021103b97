"""WATCH beside a real redis-server: generated steps of two clients, and the same replies from both servers.

pmkv gets a SAVE now and then as well: what happens in the background must not decide whether EXEC runs.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import pytest

from tests.compat.test_redis import redis_port  # noqa: F401 - a fixture
from tests.served import Raw, served

pytestmark = pytest.mark.compat

ROUNDS = 300
KEYS = ("a", "b")


def other_write(dice: random.Random) -> list[tuple[str | float, ...]]:
    """What another client does between WATCH and EXEC; a number is a pause in seconds."""
    key, other = dice.sample(KEYS, 2)
    expired = [("SET", key, 1, "PX", 1), (0.003,)]
    return dice.choice([
        [("SET", key, dice.randrange(3))], [("SET", key, 1, "NX")], [("SET", key, 1, "XX")], [("GETSET", key, 5)],
        [("DEL", key)], [("UNLINK", key, other)], [("SET", key, 1), ("DEL", key)], [("GETDEL", key)],
        [("EXPIRE", key, 100)], [("EXPIRE", key, -1)], [("PERSIST", key)], [("EXPIRE", key, 100, "XX")],
        [("GETEX", key)], [("GETEX", key, "EX", 100)], [("GETEX", key, "PERSIST")],
        [("RENAME", key, other)], [("RENAMENX", key, other)], [("COPY", key, other)], [("COPY", key, other, "REPLACE")],
        [("FLUSHDB",)], [("FLUSHALL",)], [("FLUSHDB",), ("SET", key, 1), ("FLUSHDB",)],
        [("APPEND", key, "")], [("APPEND", key, 1)], [("SETRANGE", key, 0, "")], [("SETRANGE", key, 0, 1)],
        [("INCR", key)], [("INCRBYFLOAT", key, 1)], [("MSET", key, 1, other, 2)], [("MSETNX", key, 1, other, 2)],
        [("GET", key)], [("EXISTS", key)], [("TYPE", key)], expired, [*expired, ("GET", key)], [*expired, ("DEL", key)],
        [*expired, ("FLUSHDB",)], [*expired, ("SET", key, 1)],
        [("MULTI",), ("SET", key, 1), ("DEL", key), ("EXEC",)], [("MULTI",), ("SET", key, 1), ("DISCARD",)],
    ])  # fmt: skip


def steps(seed: int) -> list[tuple[int, tuple[str | float, ...]]]:
    """The client (0 or 1) and what it sends."""
    dice, found = random.Random(seed), []
    for _ in range(dice.randrange(3)):
        found += [(1, step) for step in other_write(dice)]
    found += [(0, ("WATCH", *dice.sample(KEYS, dice.randrange(1, 3))))]
    for _ in range(dice.randrange(3)):
        who = int(dice.random() < 0.85)
        found += [(who, step) for step in other_write(dice) if who or step[0] not in ("MULTI", "EXEC", "DISCARD")]
        if dice.random() < 0.1:
            found += [(0, dice.choice([("UNWATCH",), ("WATCH", dice.choice(KEYS)), ("SELECT", 1)]))]
    return [*found, (0, ("MULTI",)), (0, ("SET", "c", seed)), (0, ("EXEC",)), (0, ("SELECT", 0)), (0, ("GET", "c"))]


def replies(port: int, seed: int, beside: Callable[[Raw], object] = lambda raw: None) -> list[tuple]:
    clients = Raw(port), Raw(port), Raw(port)
    clients[0]("FLUSHALL")
    found = []
    for who, words in steps(seed):
        if isinstance(words[0], float):
            time.sleep(words[0])
        else:
            found.append(clients[who](*words))
            beside(clients[2])
    for client in clients:
        client.close()
    return found


def test_exec_runs_when_redis_runs_it(redis_port: int, tmp_path) -> None:  # noqa: F811
    dice, ran = random.Random(7), []
    with served("--data", str(tmp_path), "--capacity", "256MiB") as server:
        for seed in range(ROUNDS):
            theirs = replies(redis_port, seed)
            ours = replies(server.port, seed, lambda raw: dice.random() < 0.05 and raw("SAVE"))
            assert ours == theirs, f"seed {seed}: {steps(seed)}"
            ran.append(theirs[-3][1] != b"-1")
    assert 0.1 < sum(ran) / ROUNDS < 0.9, "the steps should abort some transactions and let others run"
