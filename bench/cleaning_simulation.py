"""Simulates what cleaning costs, to choose how moved records are pointed at: `python -m bench.cleaning_simulation`.

A pool of SEGMENTS segments is filled in random order and then overwritten TIMES over. A pass begins when few segments
are left, moves what lives in the victims that the policy chooses, and frees them. Three ways to point at what was moved
differ in what they write to indexes, at ENTRY bytes for each record named:

- rewrite: a pass writes the runs of the table anew, with every live record (what pmkv does);
- relocation runs: a pass writes a run of the moved records; merging these later writes each about MERGES times more;
- forwarding tables write nothing, but take FORWARD bytes of DRAM for each moved record until the runs are merged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from pmkv.log.segments import Reserve
from pmkv.maintenance.cleaning_policy import MIN_WIN, Candidate, choose_victims

SEGMENTS, RECORDS, TIMES = 128, 256, 6  # records in a segment
SHORT_SHARE, WRITER_SHARE = 4, 4  # of the slack, and of the free segments that a pass leaves to writers
ENTRY, FORWARD, MERGES = 20, 16, 2
WIDTHS, FILLS, SKEWS = (64, 256, 1024), (50, 70, 80, 90), ("uniform", "Zipf 0.99", "90:10")


@dataclass
class Outcome:
    """What one simulation took: records moved for each one written, and passes for each time the data was written."""

    moved: float
    passes: float


class PoolModel:
    """Holds where each record stands. where: its segment; fill: records ever put into each segment."""

    def __init__(self, live: int, random: np.random.Generator) -> None:
        self.where, self.live = np.full(live, -1), np.zeros(SEGMENTS, np.int64)
        self.free, self.order = list(range(SEGMENTS)), list[int]()  # in the order in which they were filled
        self.heads, self.room = {"log": -1, "moved": -1}, {"log": 0, "moved": 0}
        self.moved = self.passes = 0
        for record in random.permutation(live):
            self.put(int(record), "log")

    def put(self, record: int, head: str) -> None:
        """Append a record at one of the two write heads."""
        if not self.room[head]:
            self.heads[head], self.room[head] = self.free.pop(), RECORDS
            self.order.append(self.heads[head])
        if self.where[record] >= 0:
            self.live[self.where[record]] -= 1
        self.where[record] = self.heads[head]
        self.live[self.heads[head]] += 1
        self.room[head] -= 1

    def clean_if_due(self) -> None:
        """Run a pass if few segments are left, and further ones until writers have one."""
        slack = SEGMENTS - Reserve.WRITE - self.where.size // RECORDS
        short = max(2, slack // SHORT_SHARE)
        if len(self.free) < short + Reserve.WRITE:
            self.clean(short)
        while len(self.free) <= Reserve.WRITE:
            self.clean(short)

    def clean(self, wanted: int) -> None:
        """Run one pass that would gain so many segments, if there is room."""
        spare = len(self.free) - Reserve.WRITE
        candidates = [
            Candidate(index, int(self.live[index]), len(self.order) - place)
            for place, index in enumerate(self.order)
            if index not in self.heads.values()
        ]
        room = (1 + max(0, spare) * (WRITER_SHARE - 1) // WRITER_SHARE) * RECORDS + self.room["moved"]
        victims = [one.index for one in choose_victims(candidates, RECORDS, room, wanted, MIN_WIN)]
        for record in np.flatnonzero(np.isin(self.where, victims)).tolist():
            self.put(record, "moved")
            self.moved += 1
        self.order = [index for index in self.order if index not in victims]
        self.free = victims + self.free
        self.passes += 1


def simulate(fill: int, skew: str) -> Outcome:
    random = np.random.default_rng(7)
    live = SEGMENTS * RECORDS * fill // 100
    pool, writes = PoolModel(live, random), TIMES * live
    for record in drawn(skew, live, writes, random).tolist():
        if not pool.room["log"]:
            pool.clean_if_due()
        pool.put(record, "log")
    return Outcome(pool.moved / writes, pool.passes / TIMES)


def drawn(skew: str, live: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Return which records are written, one after another."""
    if skew == "uniform":
        return random.integers(0, live, count)
    if skew == "90:10":
        hot = random.random(count) < 0.9
        return np.where(hot, random.integers(0, live // 10, count), random.integers(live // 10, live, count))
    weights = np.cumsum(np.arange(1, live + 1) ** -0.99)
    return random.permutation(live)[np.searchsorted(weights, random.random(count) * weights[-1])]


def index_bytes(outcome: Outcome, width: int) -> tuple[float, float]:
    """Return what rewriting and relocation runs write to indexes for each byte of users."""
    return outcome.passes * ENTRY / (width + 8), outcome.moved * ENTRY * (1 + MERGES) / (width + 8)


def main() -> None:
    columns = [f"{way}, {width} B" for width in WIDTHS for way in ("rewrite", "relocate")]
    title = "bytes written for each byte of users: to the pool, and to indexes"
    table = Table("overwrites", "full", "pool", *columns, "DRAM of forwarding", title=title)
    for skew in SKEWS:
        for fill in FILLS:
            outcome = simulate(fill, skew)
            ways = [f"{one:.2f}" for width in WIDTHS for one in index_bytes(outcome, width)]
            dram = f"{outcome.moved * FORWARD:.0f} B a record"
            table.add_row(skew, f"{fill} %", f"{1 + outcome.moved:.2f}", *ways, dram)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
