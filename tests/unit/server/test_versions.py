"""Whole batches are of one version while somebody promotes and rolls back as fast as that goes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.served import Raw, Served, request, served

SECONDS, PATIENCE = 2.0, 20.0
ROWS = np.arange(64, dtype="<i8")
IDS = ROWS.tobytes()
KEYS = [f"k{i}" for i in range(32)]


@pytest.fixture(params=["memory", "file"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    pool = ["--pool", ":memory:"] if request.param == "memory" else ["--data", str(tmp_path)]
    with served(*pool, "--capacity", "256MiB") as started:
        yield started


def fill(client: Raw, number: int) -> None:
    """All that the readers look at says `number`."""
    client("MSET", *(word for key in KEYS for word in (key, number)))
    for name in ("s", "t"):
        client("TABLE.PUT", name, IDS, np.full(len(ROWS), number, "<f4").tobytes())


def keys(client: Raw) -> set[float]:
    _, values = client("MGET", *KEYS)
    return {float(value) for _, value in values}


def tables(client: Raw) -> set[float]:
    _, blobs = client("TABLE.MGET", 2, "s", IDS, "t", IDS)
    return {value for _, blob in blobs for value in np.frombuffer(blob, "<f4").tolist()}


def transaction(client: Raw) -> set[float]:
    words = [["MULTI"], ["GET", KEYS[0]], ["TABLE.GET", "s", IDS], ["MGET", *KEYS], ["TABLE.GET", "t", IDS], ["EXEC"]]
    client.send(b"".join(request(*one) for one in words))
    replies = [client.reply() for _ in words]
    (_, first), (_, rows), (_, values), (_, others) = replies[-1][1]
    return {float(first), *np.frombuffer(rows + others, "<f4").tolist(), *(float(value) for _, value in values)}


def test_no_batch_is_of_two_versions(server: Served) -> None:
    publisher = server.raw()
    for name in ("s", "t"):
        publisher("TABLE.CREATE", name, "DTYPE", "f4")
    fill(publisher, 1)
    publisher("SNAPSHOT.CREATE", "one")
    looks = keys, tables, transaction
    end, over, mixed = time.monotonic() + SECONDS, threading.Event(), []
    seen: dict[Callable[[Raw], set[float]], set[float]] = {look: set() for look in looks}

    def read(look: Callable[[Raw], set[float]]) -> None:
        client = server.raw()
        while not over.is_set():
            found = look(client)
            seen[look] |= found
            if len(found) != 1:
                mixed.append((look.__name__, found))
        client.close()

    readers = [threading.Thread(target=read, args=[look]) for look in looks]
    for reader in readers:
        reader.start()
    number = switches = 0

    def have_met() -> bool:
        return switches > 10 and all(len(versions) > 2 for versions in seen.values())

    try:
        while (now := time.monotonic()) < end or (not have_met() and now < end + PATIENCE):
            number = number + 1
            name = f"b{number}"
            assert publisher("BRANCH.CREATE", name, "AT", "one") == ("+", b"OK")
            assert publisher("VIEW.USE", name) == ("+", b"OK")
            fill(publisher, number + 1)
            assert publisher("VIEW.USE", "main") == ("+", b"OK")
            for words in (["BRANCH.PROMOTE", name, "FORCE"], ["SNAPSHOT.ROLLBACK", "one"], ["VIEW.UNDO"]):
                assert publisher(*words) == ("+", b"OK")
                switches += 1
            assert publisher("VIEW.DELETE", name) == ("+", b"OK")
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert not mixed
    _, (count, _) = publisher("VIEW.WAIT", switches - 1, 1000)
    assert count == (":", b"%d" % switches)
    assert have_met(), (switches, seen)
    publisher.close()
