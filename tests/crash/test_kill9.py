"""kill -9 of the server under load: four connections write, it takes checkpoints and folds all the time, it dies, the
next one has all that was acknowledged.

Rounds: 5, or 200 with `make test-long` (or PMKV_TEST_ROUNDS). A round that fails prints its seed, which gives the load
again, not the moment.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.ledger import Ledger
from tests.served import Raw, Served, request

pytestmark = pytest.mark.crash

WRITERS = 4
ROWS = 6
UNITS = ("key", "other", "many", "multi", "rows", "gone", "large")
ROUNDS = int(os.environ.get("PMKV_TEST_ROUNDS", 200))
SEED = int(os.environ.get("PMKV_TEST_SEED", 0)) or random.randrange(1 << 30)


class Writer(threading.Thread):
    """One connection that pipelines numbered writes to units of its own until the server dies."""

    def __init__(self, port: int, ledger: Ledger, rng: random.Random) -> None:
        super().__init__()
        self.connection, self.ledger, self.rng, self.error = Raw(port), ledger, rng, None

    def run(self) -> None:
        try:
            while True:
                self.burst()
        except OSError:
            pass  # killed
        except BaseException as error:
            self.error = error

    def burst(self) -> None:
        """Some requests in one packet; each is acknowledged by its own replies."""
        requests = [self.draw() for _ in range(self.rng.choice((1, 1, 4, 16)))]
        self.connection.send(b"".join(b"".join(parts) for parts in requests))
        for parts in requests:
            replies = [self.connection.reply() for _ in parts]
            assert not any(kind == "-" for kind, _ in replies), replies
            self.ledger.acked += 1

    def draw(self) -> list[bytes]:
        unit = self.rng.choices(UNITS, (30, 10, 20, 20, 20, 20, 0.1))[0]
        alive = unit != "gone" or self.rng.random() < 0.5
        number = b"%d" % self.ledger.begin(unit, alive)
        key = f"{self.ledger.name}:{unit}:".encode()
        match unit:
            case "many":
                return [request("MSET", *[word for part in range(4) for word in (key + b"%d" % part, number)])]
            case "multi":
                sets = [request("SET", key + b"%d" % part, number) for part in range(4)]
                return [request("MULTI"), *sets, request("EXEC")]
            case "rows":
                rows = np.full((ROWS, 8), int(number), "<f4").tobytes()
                return [request("TABLE.PUT", self.ledger.name, np.arange(ROWS).tobytes(), rows)]
            case "gone" if not alive:
                return [request("DEL", key + b"0")]
            case "large":
                return [request("SET", key + b"0", number.ljust(3 << 20))]
        return [request("SET", key + b"0", number.ljust(self.rng.choice((8, 100, 2000))))]


def found_on(connection: Raw, name: str) -> dict[str, int]:
    """What is there of a writer: unit to number. Parts of a unit agree."""
    found: dict[str, int] = {}
    for unit in UNITS:
        if unit == "rows":
            numbers = rows_on(connection, name)
        else:
            keys = [f"{name}:{unit}:{part}" for part in range(4 if unit in ("many", "multi") else 1)]
            numbers = {None if value == b"-1" else int(value) for _, value in connection("MGET", *keys)[1]}
        assert len(numbers) == 1, f"half of a batch of {name}, {unit}: {numbers}"
        number = numbers.pop()
        if number is not None:
            found[unit] = number
    return found


def rows_on(connection: Raw, name: str) -> set[int | None]:
    _, (rows, there) = connection("TABLE.GET", name, np.arange(ROWS).tobytes(), "FOUND")
    assert len(set(there[1])) == 1, f"half of a batch of rows of {name}"
    return {int(number) for number in np.frombuffer(rows[1], "<f4")} if there[1][0] else {None}


def serve(folder: Path) -> Served:
    return Served("--rest-port", "off", "--data", str(folder), "--capacity", "16GiB", module="tests.crash.busy")


def wait_for_checkpoint(server: Served) -> None:
    """One is taken while the writers write; the kill comes at any moment of those that follow."""
    connection, latest = server.raw(), time.monotonic() + 20
    while int(re.search(rb"rdb_saves:(\d+)", connection("INFO", "persistence")[1])[1]) == 0:
        assert time.monotonic() < latest, "no checkpoint within 20 s of load"
        time.sleep(0.02)


def rounds(folder: Path, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(SEED)
    ledgers = [Ledger(f"w{number}") for number in range(WRITERS)]
    server, lost, files = serve(folder), 0, set()
    for ledger in ledgers:
        assert server.raw()("TABLE.CREATE", ledger.name, "DTYPE", "f4", "DIM", 8) == ("+", b"OK")
    for number in range(count):
        writers = [Writer(server.port, ledger, random.Random(rng.random())) for ledger in ledgers]
        for writer in writers:
            writer.start()
        waits = number % 3 != 2  # else it may die before its first checkpoint, or within it
        if waits:
            wait_for_checkpoint(server)
        time.sleep(rng.uniform(0.05, 0.5))
        server.kill()
        for writer in writers:
            writer.join()
            assert writer.error is None, f"seed {SEED}, round {number}: {writer.error}"
        new = {file.name for file in (folder / "runs").glob("*")} - files
        assert new or not waits, f"seed {SEED}, round {number}: a checkpoint, and no new file of runs"
        files |= new
        server = serve(folder)
        for ledger in ledgers:
            lost += ledger.begun - ledger.check(found_on(server.raw(), ledger.name))
    acked = sum(ledger.acked for ledger in ledgers)
    assert server.stop() == 0
    with capsys.disabled():
        print(f"\n  killed {count} times: {acked:,} acknowledged operations found, {lost:,} in flight lost,", end=" ")
        print(f"{len(files)} files of runs seen", end=" ")
    assert acked > 100 * count


def test_nothing_is_lost_or_halved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rounds(tmp_path, 5, capsys)


@pytest.mark.long
def test_nothing_is_lost_or_halved_over_many_rounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rounds(tmp_path, ROUNDS, capsys)
