"""kill -9 during sustained updates, then the time from the kill to the first correct read; and what it costs to have
that: throughput and bytes written beside checkpoints (`bench.maintenance`), reads of several runs (`bench.runs`).

A table of 64-byte rows; updates are batches of 2,000 random ids, acknowledged over the network. A row tells its id and
the number of the batch that wrote it, so that a read says at once whether it is the one that was acknowledged. Sizes
take turns, so that a slow moment of the machine is one of both; while one is measured, the server of the other stands
still. It begins when the checkpoints behind the bulk load are through: right after one, a replay takes longer.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import redis.exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

import pmkv_client

from . import maintenance, runs, servers
from .measure import Comparison, Figure

IDS = 10_000_000
SMALL = 10_000
BATCH, LOADED = 2_000, 50_000  # rows a request
PATIENCE = 300.0  # seconds: a count right after a start looks in files that nobody has read yet
ROW = ("i4", 16)
SECONDS, GROWTH = 1.0, 1.3  # the bars
CAUGHT_UP = 0.2  # seconds of replay: more is due to be checkpointed
FIRST_KILL, LAST_KILL = 1.0, 4.0  # seconds of updates


def rows_of(ids: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """What the batches wrote under these ids."""
    rows = np.empty((ids.size, ROW[1]), ROW[0])
    rows[:, 0], rows[:, 1], rows[:, 2:] = ids, batches, (ids ^ batches)[:, None]
    return rows


class Ledger:
    """Which batch was the last to write each id, as acknowledged. One batch may be in between."""

    def __init__(self, ids: int) -> None:
        self.batches = np.zeros(ids, np.int32)
        self.number = 0
        self.last = self.doubtful = np.empty(0, np.int64)  # ids of the last acknowledged batch, of one under way

    def begin(self, ids: np.ndarray) -> np.ndarray:
        """The rows of the next batch."""
        self.number += 1
        self.doubtful = ids
        return rows_of(ids, np.full(ids.size, self.number, np.int32))

    def acknowledge(self) -> None:
        self.batches[self.doubtful] = self.number
        self.last, self.doubtful = self.doubtful, self.doubtful[:0]

    def check(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """BenchError unless these are the rows that were acknowledged, or those of the batch that was under way."""
        maybe = np.isin(ids, self.doubtful) & (rows[:, 1] == self.number)
        wanted = rows_of(ids, np.where(maybe, self.number, self.batches[ids]).astype(np.int32))
        if not np.array_equal(rows, wanted):
            wrong = int(ids[np.flatnonzero((rows != wanted).any(axis=1))[0]])
            raise servers.BenchError(f"the row of id {wrong} is not the one that was acknowledged before the kill")

    def settle(self, rows: np.ndarray) -> None:
        """The rows of the doubtful ids, read after a restart: all of the batch arrived, or nothing."""
        arrived = rows[:, 1] == self.number
        if arrived.any() and not arrived.all():
            raise servers.BenchError("half of the batch that was under way survived the kill")
        if arrived.any():
            self.acknowledge()
        self.doubtful = self.doubtful[:0]


class Victim:
    """A server with one table, that is updated, killed and started again."""

    def __init__(self, folder: Path, ids: int, seed: int) -> None:
        self.ids, self.ledger, self.random = ids, Ledger(ids), np.random.default_rng(seed)
        self.folder, self.port = folder, servers.free_port()
        capacity = f"{4 + 4 * ids * 80 // (1 << 30)}GiB"
        self.command = servers.pmkv_command(folder, self.port, "--capacity", capacity)
        self.process = self._start()
        with self._client() as client:
            table = client.create_table("rows", dtype=ROW)
            for first in range(0, ids, LOADED):
                some = np.arange(first, min(first + LOADED, ids))
                table.put(some, rows_of(some, np.zeros(some.size, np.int32)))
            latest = time.monotonic() + PATIENCE
            while client.info()["pmkv_replay_seconds"] > CAUGHT_UP:
                if time.monotonic() > latest:
                    raise servers.BenchError(f"checkpoints did not follow the load of {ids:,} ids in {PATIENCE:.0f} s")
                time.sleep(0.1)

    def _start(self) -> subprocess.Popen[bytes]:
        return servers.start(self.command, self.port, self.folder)

    def _client(self) -> pmkv_client.Client:
        """One that never tries again: whether a batch is acknowledged is what is counted."""
        url, never = f"pmkv://127.0.0.1:{self.port}", Retry(NoBackoff(), 0)
        return pmkv_client.connect(url, retry=never, socket_timeout=PATIENCE)

    def update_until_killed(self) -> None:
        with contextlib.suppress(redis.exceptions.ConnectionError), self._client() as client:
            table = client.table("rows")
            while True:
                ids = np.unique(self.random.integers(0, self.ids, BATCH))
                table.put(ids, self.ledger.begin(ids))
                self.ledger.acknowledge()

    def kill(self) -> float:
        """Update, kill at a random moment, start; returns the seconds from the kill to the first correct read."""
        updates = threading.Thread(target=self.update_until_killed)
        updates.start()
        time.sleep(self.random.uniform(FIRST_KILL, LAST_KILL))
        killed = time.perf_counter()
        self.process.kill()
        self.process.wait()
        self.process = self._start()
        updates.join()  # its connection is gone; it counts what was acknowledged until then
        with self._client() as client:
            ids = self.ledger.last
            reply = client.execute_command("TABLE.GET", "rows", ids.tobytes())
            taken = time.perf_counter() - killed
            self.ledger.check(ids, np.frombuffer(reply, ROW[0]).reshape(ids.size, ROW[1]))
            self._look_around(client.table("rows"))
        return taken

    def _look_around(self, table: pmkv_client.Table) -> None:
        if self.ledger.doubtful.size:
            self.ledger.settle(table.get(self.ledger.doubtful))
        ids = self.random.integers(0, self.ids, LOADED)
        self.ledger.check(ids, table.get(ids))
        if len(table) != self.ids:
            raise servers.BenchError(f"the table has {len(table):,} rows after the kill, and had {self.ids:,}")

    def end(self) -> None:
        servers.stop(self.process)


@contextlib.contextmanager
def victims(folder: Path, sizes: list[int]) -> Iterator[list[Victim]]:
    with contextlib.ExitStack() as stack:
        made = []
        for size in sizes:
            made.append(Victim(folder / f"rows-{size}", size, seed=size))
            stack.callback(made[-1].end)
        yield made


@contextlib.contextmanager
def standing_still(others: Iterable[Victim]) -> Iterator[None]:
    """What they have left to do in the background would take half the machine from the one that is measured."""
    processes = [other.process for other in others]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def killed(folder: Path, rounds: int, ids: int) -> list[Figure]:
    sizes = [SMALL, ids]
    taken: dict[int, list[float]] = {size: [] for size in sizes}
    with victims(folder, sizes) as both:
        for number in range(rounds + 1):
            for victim in both:
                with standing_still(other for other in both if other is not victim):
                    seconds = victim.kill()
                if number:  # the first start reads the programs from the disk
                    taken[victim.ids].append(seconds)
    growth = median(taken[ids]) / median(taken[SMALL])
    named = [Figure(f"kill -9 to the first correct read, {size:,} ids", "s", taken[size], SECONDS) for size in sizes]
    return [*named, Figure(f"the same, median of {ids:,} ids over {SMALL:,}", "x", [growth], GROWTH)]


def section(folder: Path, rounds: int, ids: int = IDS) -> list[Comparison | Figure]:
    return [
        *killed(folder / "killed", rounds, ids),
        *maintenance.updates(folder / "updates", rounds, ids),
        *maintenance.gets_beside_checkpoints(folder / "gets", rounds),
        *runs.reads(folder / "reads", rounds, min(ids, IDS)),
    ]
