"""What giving space back costs: overwrites of a pool that is 50, 80 or 90 % full of live rows.

Rows of 256 bytes are loaded in random order and overwritten `TIMES` over, uniformly or by Zipf's law, in batches that
are durable one by one. Each case has bars for the bytes written to the pool for each byte of users, for the speed of
the last tenth beside the second, and for the 99th percentile of a batch in these. Afterwards the store rests, and
everything is deleted.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import pmkv
from pmkv.log.segments import Reserve

from .measure import Comparison, Figure

WIDTH, BATCH = 256, 1024  # bytes of a row, rows in a batch
FRAMING = 1.02  # bytes of the log for each byte of ids and rows in batches of this size
TIMES, TENTHS = 10, 10
EXPONENT = 0.99
SLOWER, LATER = 0.8, 3.0  # bars: throughput and p99 of the last tenth beside the second
AT_REST, REST_S = 1.5, 10.0  # bars: bytes in use for each live byte, so many seconds after the last write
BARS = {("uniform", 50): 1.5, ("uniform", 80): 3.2, ("uniform", 90): 6.5, ("zipf", 80): 2.2, ("zipf", 90): 3.6}
Draw = Callable[[np.random.Generator, int], np.ndarray]


@dataclass
class Course:
    """Tells one case over time, a value for each batch: seconds it took, and where the pool stood after it."""

    name: str
    seconds: list[float] = field(default_factory=list)
    used: list[float] = field(default_factory=list)  # part of the pool
    amplification: list[float] = field(default_factory=list)

    def tenth(self, number: int) -> np.ndarray:
        """Return the seconds of the batches of one tenth, from 1 on."""
        return np.array_split(np.array(self.seconds), TENTHS)[number - 1]


def drawer(kind: str, rows: int) -> Draw:
    """Return what draws a batch of distinct ids: a batch writes a row once."""
    if kind == "uniform":
        return lambda random, count: random.integers(0, rows, count)
    weights = np.cumsum(np.arange(1, rows + 1) ** -EXPONENT)
    order = np.random.default_rng(1).permutation(rows)
    return lambda random, count: order[np.searchsorted(weights, random.random(count) * weights[-1])]


def disk_bytes(folder: Path) -> int:
    """Return what `du` counts for the files of a directory."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def load(store: pmkv.Store, rows: int) -> pmkv.Table:
    table = store.create_table("rows", dtype=("u1", WIDTH))
    for ids in np.array_split(np.random.default_rng(0).permutation(rows), max(1, rows // BATCH)):
        table.put(ids, np.zeros((ids.size, WIDTH), "u1"))
    store.checkpoint()
    return table


def overwrite(store: pmkv.Store, table: pmkv.Table, draw: Draw, batches: int, course: Course) -> int:
    """Write batches one after the other; return how many were left when the pool was full."""
    random, values = np.random.default_rng(2), np.ones((BATCH, WIDTH), "u1")
    for number in range(batches):
        ids = draw(random, BATCH)
        begun = time.perf_counter()
        try:
            table.put(ids, values)
        except pmkv.FullError:
            return batches - number
        course.seconds.append(time.perf_counter() - begun)
        if number % max(1, batches // TENTHS) == 0 and number:
            tell(course, number / batches, store.stats().space.write_amplification)
        if number % max(1, batches // 200) == 0:
            space = store.stats().space
            course.used.append(space.used / space.capacity)
            course.amplification.append(space.write_amplification)
    return 0


def tell(course: Course, done: float, amplification: float) -> None:
    """Print how far a case is: it takes minutes."""
    last = course.seconds[-max(1, len(course.seconds) // TENTHS) :]
    rate = BATCH * len(last) / sum(last)
    print(f"{course.name}: {done:.0%} written, {rate:,.0f} rows/s, {amplification:.2f} bytes for each", flush=True)


def rest(store: pmkv.Store, live: int) -> float:
    """Return the bytes in use for each live byte, as soon as the bar holds or its time is over."""
    deadline = time.monotonic() + REST_S
    while True:
        ratio = store.stats().space.used / live
        if ratio <= AT_REST or time.monotonic() > deadline:
            return ratio
        time.sleep(0.1)


def emptied(store: pmkv.Store, table: pmkv.Table, folder: Path) -> tuple[int, int]:
    """Delete everything. Return how many segments beyond those reserved are in use, and bytes on disk, when the store
    had its time."""
    table.delete(np.fromiter((id for ids, _ in table.scan() for id in ids), np.int64))
    deadline, pool = time.monotonic() + REST_S, store._log.pool
    while pool.used > Reserve.WRITE and time.monotonic() < deadline:
        time.sleep(0.1)
    return max(0, pool.used - Reserve.WRITE), disk_bytes(folder)


def one_case(folder: Path, kind: str, percent: int, pool: int) -> Iterator[Comparison | Figure | Course]:
    """Run one case; the figures, and its course at last."""
    rows = int(pool * percent / 100 / ((8 + WIDTH) * FRAMING))
    name, course = f"{kind}, {percent} % full", Course(f"{kind} {percent} %")
    with pmkv.open(folder, capacity=pool) as store:
        table = load(store, rows)
        before = store.stats()
        batches = TIMES * rows // BATCH
        left = overwrite(store, table, drawer(kind, rows), batches, course)
        yield Figure(f"{name}: writes refused, the pool was full", "part of all", [left / batches], 0.0)
        after = store.stats()
        written = max(1, batches - left) * BATCH * (8 + WIDTH)
        if len(course.seconds) < TENTHS:
            return
        bar = BARS[kind, percent]
        appended = after.space.write_amplification
        yield Figure(f"{name}: bytes written to the pool", "for each byte of users", [appended], bar)
        index = (after.run_bytes_written - before.run_bytes_written) / written
        yield Figure(f"{name}: bytes of indexes written", "for each byte of users", [index])
        second, last = course.tenth(2), course.tenth(TENTHS)
        sides = ("last tenth", "second tenth")
        rates = [BATCH * part.size / float(part.sum()) for part in (last, second)]
        yield Comparison(f"{name}: speed", "rows/s", [rates[0]], [rates[1]], SLOWER, sides)
        slow = [float(np.quantile(part, 0.99)) for part in (last, second)]
        yield Figure(f"{name}: p99 of a batch, last tenth", "of the second", [slow[0] / slow[1]], LATER)
        yield Figure(f"{name}: p99 of a batch, last tenth", "ms", [slow[0] * 1000])
        yield Figure(f"{name}: bytes in use at rest", "for each live byte", [rest(store, rows * (8 + WIDTH))], AT_REST)
        segments, left = emptied(store, table, folder)
        yield Figure(f"{name}: segments in use, all deleted", "beyond the reserve", [float(segments)], 3.0)
        yield Figure(f"{name}: bytes on disk, all deleted", "of the pool", [left / pool])
    yield course


def section(
    folder: Path, rounds: int, pool: int = 64 << 20, cases: tuple[tuple[str, int], ...] = tuple(BARS)
) -> list[Comparison | Figure]:
    """Run every case once: each lasts for many thousand batches."""
    found: list[Comparison | Figure] = []
    courses: list[Course] = []
    for kind, percent in cases:
        data = folder / f"{kind}{percent}"
        for one in one_case(data, kind, percent, pool):
            if isinstance(one, Course):
                courses.append(one)
            else:
                found.append(one)
        shutil.rmtree(data)
    chart(folder.parent / "space.png", courses)
    return found


def chart(path: Path, courses: list[Course]) -> None:
    """Draw fill, write amplification and throughput over time; without matplotlib say that there is no chart."""
    try:
        from matplotlib.figure import Figure as Drawing
    except ImportError:
        print("no chart: matplotlib is not installed (pip install pmkv[bench])")
        return
    drawing = Drawing(figsize=(8, 9), layout="constrained")
    fill, amplification, speed = drawing.subplots(3, sharex=True)
    for course in courses:
        place = np.linspace(0, TIMES, len(course.used))
        fill.plot(place, course.used, label=course.name)
        amplification.plot(place, course.amplification)
        parts = np.array_split(np.array(course.seconds), min(100, len(course.seconds)))
        rates = [BATCH * part.size / part.sum() for part in parts]
        speed.plot(np.linspace(0, TIMES, len(rates)), rates)
    fill.set(ylabel="part of the pool in use", ylim=(0, 1))
    amplification.set(ylabel="bytes written for each of users")
    speed.set(ylabel="rows a second", xlabel="times the data overwritten", ylim=(0, None))
    fill.legend()
    for axes in (fill, amplification, speed):
        axes.grid(alpha=0.3)
    drawing.savefig(path, dpi=120)
    print(f"chart: {path}")
