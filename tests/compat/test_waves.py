"""Pipelines of many clients at once to a real redis-server and to pmkv, which serves them in waves: the same replies.

Each client has keys that no other uses at the time, and others use afterwards.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator

import pytest

from tests.drawn_commands import Commands, Words, same
from tests.served import Raw, free_port, request, served, wait_for_port

pytestmark = pytest.mark.compat
CLIENTS, MOST = 8, 300
FEW, MANY = 6_000, 300_000  # commands


@pytest.fixture(scope="module")
def ports(needs_redis_server: str) -> Iterator[tuple[int, int]]:
    port = free_port()
    options = ["--port", str(port), "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([needs_redis_server, *options], stdout=subprocess.DEVNULL)
    try:
        wait_for_port(port)
        with served("--pool", ":memory:", "--capacity", "1GiB") as server:
            yield port, server.port
    finally:
        process.terminate()
        process.wait()


def asked_at_once(clients: list[Raw], pipelines: list[list[Words]]) -> list[list[tuple]]:
    """Send every client's pipeline before any reply is read; return the replies of each."""
    for client, commands in zip(clients, pipelines):
        client.send(b"".join(request(*words) for words in commands))
    return [[client.reply() for _ in commands] for client, commands in zip(clients, pipelines)]


def compare(ports: tuple[int, int], seed: int, count: int) -> None:
    rng = random.Random(seed)
    drawn, done = Commands(rng), 0
    sides = [[Raw(port) for _ in range(CLIENTS)] for port in ports]
    for clients in sides:
        clients[0]("FLUSHALL")
    while done < count:
        some = rng.sample(range(CLIENTS), rng.randrange(1, CLIENTS + 1))
        pipelines = [drawn.pipeline(b"p%d:" % prefix, MOST) for prefix in rng.sample(range(CLIENTS), len(some))]
        theirs, ours = (asked_at_once([clients[i] for i in some], pipelines) for clients in sides)
        for commands, redis, pmkv in zip(pipelines, theirs, ours):
            for i, (words, one, other) in enumerate(zip(commands, redis, pmkv)):
                before = b" | ".join(b" ".join(words) for words in commands[max(0, i - 5) : i])[:600]
                assert same(words, one, other), f"seed {seed}: {words}: redis {one}, pmkv {other}, after {before}"
        done += sum(map(len, pipelines))
    for clients in sides:
        for client in clients:
            client.close()


def test_the_same_replies(ports: tuple[int, int]) -> None:
    compare(ports, 1, FEW)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 12))
def test_the_same_replies_to_many_commands(seed: int, ports: tuple[int, int]) -> None:
    compare(ports, seed, MANY // 10)
