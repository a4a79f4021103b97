"""Damage to what was acknowledged: a bit, a line, a sector, a page, a write that went astray, within one page.

On a log that ends in a MARK every frame before it is proved durable, so whatever happens to one of them, opening must
name it. What is damaged while the store is open must be noticed by the read that meets it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np

from pmkv.engine.engine import Engine
from pmkv.errors import CorruptionError
from pmkv.log.format import ALIGN, Frame, Kind
from pmkv.log.replay import Replay
from pmkv.log.segments import Pool
from pmkv.media.simulated import SimulatedMedium
from tests.crash.files import Content, Files
from tests.crash.life import open_engine
from tests.crash.operations import Bare, Model, state_of

Range = tuple[int, int]


def silent_damage(medium: SimulatedMedium, state: Model, spaces: int, rng: random.Random, tries: int) -> Iterator[str]:
    """Places where damage to a store that ended in a MARK is not noticed."""
    pool = Pool.load(medium)
    replay = Replay(pool)
    *frames, mark = list(replay)
    if mark.kind != Kind.MARK:
        yield f"the log ends in frame {mark.lsn} of kind {mark.kind}, not in a MARK"
    frames = [frame for frame in frames if frame.lsn <= mark.durable]  # not the NEXT that made room for the MARK
    for _ in range(tries):
        what, damaged = damage_frame(medium, frames, mark, rng)
        if damaged is not None and is_silent(damaged):
            yield what
    for start in [0] + [pool.start(index) for index in sorted(replay.segments)]:  # others hold what a cleaner moved
        damaged = copy_of(medium)
        flip(damaged.data, start, start + 64, rng)
        if start <= mark.offset and is_silent(damaged):
            yield f"a bit of the header at {start}"
    yield from silent_reads(medium, state, spaces, frames, rng)


def copy_of(medium: SimulatedMedium) -> SimulatedMedium:
    point = medium.point()
    return point.medium(np.zeros(len(point.units), bool))


def flip(data: np.ndarray, start: int, stop: int, rng: random.Random) -> None:
    data[rng.randrange(start, stop)] ^= 1 << rng.randrange(8)


def damage_frame(
    medium: SimulatedMedium, frames: list[Frame], mark: Frame, rng: random.Random
) -> tuple[str, SimulatedMedium | None]:
    """(what was done, the damaged medium; None where no byte of a frame changed)"""
    victim, other = rng.choice([frames[-1], *frames]), rng.choice(frames)
    start, stop = victim.offset, victim.body + victim.length
    damaged = copy_of(medium)
    kind = rng.choice(("a bit", "zeros", "zeros", "a stray write"))
    if kind == "a bit":
        flip(damaged.data, start, stop, rng)
    elif kind == "zeros":
        size = rng.choice((8, 64, 512, 4096))
        a = rng.randrange(start, stop) // size * size
        damaged.data[a : before(mark, a, a + size)] = 0
    else:
        source = medium.data[other.offset : other.body + other.length]
        b = before(mark, start, min(start + len(source), start // 4096 * 4096 + 4096))
        damaged.data[start:b] = source[: b - start]
    hit = any(changed(medium, damaged, frame) for frame in frames)
    return f"{kind} in frame {victim.lsn} of kind {victim.kind} at {start}", damaged if hit else None


def before(mark: Frame, start: int, stop: int) -> int:
    """The end of a range, short of the MARK that proves what it damages."""
    return min(stop, mark.offset) if start < mark.offset < stop else stop


def changed(medium: SimulatedMedium, damaged: SimulatedMedium, frame: Frame) -> bool:
    span = slice(frame.offset, frame.body + frame.length)
    return bool((medium.data[span] != damaged.data[span]).any())


def is_silent(damaged: SimulatedMedium) -> bool:
    try:
        Engine(Pool.load(damaged))
    except CorruptionError:
        return False
    return True


def silent_reads(
    medium: SimulatedMedium, state: Model, spaces: int, frames: list[Frame], rng: random.Random
) -> Iterator[str]:
    """Bits that flip after the store was opened, and are served."""
    bodies = [frame for frame in frames if frame.kind in (Kind.PUT, Kind.ROWS, Kind.PART) and frame.length]
    for victim in rng.sample(bodies, min(3, len(bodies))):
        open_one = copy_of(medium)
        store = Bare(Engine(Pool.load(open_one)))
        flip(open_one.data, victim.body, victim.body + victim.length, rng)
        yield from not_noticed(store, state, spaces, f"a bit of frame {victim.lsn} at {victim.offset}, flipped later")


def not_noticed(store: Bare, state: Model, spaces: int, what: str) -> Iterator[str]:
    """Each way of reading tells of damage or is right; afterwards the first one that was wrong."""
    try:
        for number, entries in state.spaces.items():
            for key, entry in entries.items():
                if store.keyspace(number).entry(key) != entry:
                    yield f"{what}: {key!r} is read wrong"
        found = state_of(store, spaces)
        if found != state:
            yield f"{what}: {found} instead of {state}"
    except CorruptionError:
        return


# what is derived from the log


def silent_loss(
    medium: SimulatedMedium, files: Files, of: Pool, state: Model, spaces: int, rng: random.Random, tries: int
) -> Iterator[str]:
    """Damage to catalog, files of runs and the records that they lead to, which is not noticed by opening or reading:
    what is shown then is wrong. of: the pool as the store that was left has it."""
    frames = [frame for frame in used_frames(of) if frame.kind in (Kind.PUT, Kind.ROWS, Kind.PART, Kind.MOVE)]
    kinds = ["lose the catalog", "change a record", "forget a record"]
    kinds += ["lose", "cut", "flip", "flip", "zero", "swap"] * bool(files.shelf.files)
    kinds += ["flip in the pool", "flip in the pool"] * bool(frames)
    for _ in range(tries):
        kind, pool, damaged = rng.choice(kinds), copy_of(medium), Files(files.pool_id, files.catalog, files.shelf.files)
        if kind == "flip in the pool":
            victim = rng.choice(frames)
            flip(pool.data, victim.body, victim.body + max(1, victim.length), rng)
        elif kind in ("change a record", "forget a record"):
            damage_catalog(damaged, kind, rng)
        elif kind == "lose the catalog":
            damaged = Files(files.pool_id, None, files.shelf.files)
        else:
            damage_file(damaged, kind, rng)
        try:
            store = Bare(open_engine(pool, damaged))
        except CorruptionError as error:
            if kind == "lose the catalog" and not of.reused:
                yield f"the log alone is refused: {error}"
            continue
        yield from not_noticed(store, state, spaces, kind)


def used_frames(pool: Pool) -> list[Frame]:
    """All frames of the log, and of what was moved."""
    replay = Replay(pool)
    ranges = [(pool.start(index) + ALIGN, pool.stop(index), pool.seed(index)) for index in [*pool.taken, *pool.moved]]
    return [frame for one in ranges for frame in replay.whole_frames(*one)]


def damage_file(files: Files, kind: str, rng: random.Random) -> None:
    contents = files.shelf.files
    name, other = rng.choice(sorted(contents)), rng.choice(sorted(contents))
    data = bytearray(contents[name].data)
    match kind:
        case "lose":
            del contents[name]
            return
        case "swap":
            contents[name], contents[other] = contents[other], contents[name]
            return
        case "cut":
            del data[rng.randrange(len(data)) :]
        case "flip":
            flip(np.frombuffer(data, np.uint8), 0, len(data), rng)
        case "zero":
            size = rng.choice((8, 512, 4096))
            at = rng.randrange(len(data)) // size * size
            data[at : at + size] = bytes(len(data[at : at + size]))
    contents[name] = Content(bytes(data), len(data))


def damage_catalog(files: Files, kind: str, rng: random.Random) -> None:
    records = files.catalog._records
    name = rng.choice(sorted(records))
    if kind == "forget a record":
        del records[name]
    else:
        record = bytearray(records[name])
        record[rng.randrange(len(record))] ^= 1 << rng.randrange(8)
        records[name] = bytes(record)
