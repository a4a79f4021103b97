"""Waves on a keyspace: one look at all keys, one batch of records, and nothing of it if anything raises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pmkv.engine.byte_batch import BytesArray, join
from pmkv.engine.engine import Engine
from pmkv.engine.watches import Watch
from pmkv.engine.wave import WaveFound, WaveRecords, run_wave
from pmkv.errors import FullError, ReadOnlyError
from pmkv.kernels.records import FLAG_DELETE
from tests.engines import Clock, reopen, small_engine

Written = list[tuple[int, bytes | None, int]]  # place of the key, value (None: a delete), expiry


def records(written: Written) -> WaveRecords:
    values = BytesArray(*join([value or b"" for _, value, _ in written]))
    flags = np.array([0 if value is not None else FLAG_DELETE for _, value, _ in written], np.int64)
    places, expiries = (np.array([one[i] for one in written], np.int64) for i in (0, 2))
    return WaveRecords(places, values, expiries, flags, all(value is None for _, value, _ in written))


def wave(
    engine: Engine, keys: list[bytes], written: Written = (), reads: list[bool] | None = None, number: int = 0
) -> tuple[list[bytes | None], list[int], tuple[int, int]]:
    """Run one; return the value found for each key, the expiries, and the LSNs."""
    found: list[WaveFound] = []

    def decide(one: WaveFound) -> WaveRecords | None:
        found.append(one)
        return records(written) if written else None

    asked = np.array([True] * len(keys) if reads is None else reads)
    lsns = run_wave(engine.keyspaces[number], BytesArray(*join(keys)), asked, bool(written), decide)
    (one,) = found
    rows = one.rows[one.numbers].tolist()
    return (
        [one.data[at : at + size].tobytes() if at >= 0 else None for at, size, _, _ in rows],
        [r[2] for r in rows],
        lsns,
    )


def test_keys_are_looked_up_once_and_records_are_written_in_order() -> None:
    engine = small_engine()
    engine.keyspaces[0].put_many({b"a": b"1", b"b": b"2"})
    before = engine.log.appended[:2]
    written = [(0, b"x", 0), (1, None, 0), (3, b"y", 0), (0, b"z", 0)]
    values, _, (read, last) = wave(engine, [b"a", b"b", b"a", b"none"], written)
    assert values == [b"1", b"2", b"1", None] and read == 0 < last == engine.log.lsn == engine.log.durable
    assert engine.log.appended[:2] == (before[0] + 1, before[1] + 4), "one frame"
    for space in (engine.keyspaces[0], reopen(engine).keyspaces[0]):
        assert space.get_many([b"a", b"b", b"none"]) == [b"z", None, b"y"]
    engine.check()


def test_a_key_that_need_not_be_looked_up_is_found_absent() -> None:
    engine = small_engine()
    engine.keyspaces[0].put_many({b"a": b"1", b"b": b"2"})
    values, _, _ = wave(engine, [b"a", b"b", b"b"], reads=[False, True, False])
    assert values == [None, b"2", b"2"]
    assert wave(engine, [b"a"], [(0, b"x", 0)], reads=[False])[0] == [None]


def test_expiries_are_judged_by_one_look_at_the_clock_and_stay_so() -> None:
    engine = small_engine(now=Clock())
    clock, space = engine.log.now, engine.keyspaces[0]
    space.put(b"gone", b"1", expire_at=clock.now + 10)
    space.put(b"there", b"2", expire_at=clock.now + 11)
    clock.now += 10
    values, expiries, _ = wave(engine, [b"gone", b"there"], [(1, b"3", clock.now + 5)])
    assert values == [None, b"2"] and expiries == [0, clock.now + 1]
    clock.now -= 10
    assert space.get_many([b"gone", b"there"]) == [None, b"3"], "who was told that it is gone is not told otherwise"
    engine.check()


@pytest.mark.parametrize("place", ["decide", "append"])
def test_an_exception_writes_nothing(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = small_engine()
    space = engine.keyspaces[0]
    space.put(b"a", b"1")

    def interrupted(*_: object) -> None:
        raise ZeroDivisionError

    def decide(found: WaveFound) -> WaveRecords:
        return interrupted() if place == "decide" else records([(0, b"2", 0)])

    with monkeypatch.context() as patch:
        if place == "append":
            patch.setattr(type(space), "_enter", interrupted)
        with pytest.raises(ZeroDivisionError):
            run_wave(space, BytesArray(*join([b"a"])), np.array([True]), True, decide)
    assert space.get(b"a") == b"1" and reopen(engine).keyspaces[0].get(b"a") == b"1"
    assert wave(engine, [b"a"], [(0, b"3", 0)])[0] == [b"1"]
    assert space.get(b"a") == b"3"


def test_a_wave_of_several_frames_is_one_batch() -> None:
    engine = small_engine()
    many = [(i, b"x" * 200, 0) for i in range(40)]
    keys = [b"k%d" % i for i in range(40)]
    wave(engine, keys, many)
    assert engine.log.appended[0] > 2
    assert reopen(engine).keyspaces[0].get_many(keys) == [b"x" * 200] * 40


def test_a_full_pool_takes_deletes_and_refuses_the_rest_whole() -> None:
    engine = small_engine(segments=6)
    space, held = engine.keyspaces[0], []
    with pytest.raises(FullError):
        for i in range(1000):
            space.put(b"k%d" % i, b"x" * 500)
            held.append(b"k%d" % i)
    with pytest.raises(FullError):
        wave(engine, [held[0], b"new"], [(0, None, 0), (1, b"x" * 900, 0)])
    assert space.get(held[0]) is not None
    wave(engine, [held[0]], [(0, None, 0)])
    assert space.get(held[0]) is None


def test_watches_are_marked_by_what_is_written_and_not_by_what_is_read() -> None:
    engine = small_engine()
    space, watch = engine.keyspaces[0], Watch()
    watch.add(space, b"a")
    wave(engine, [b"a", b"b"], [(1, b"1", 0)])
    with engine.log.locks.append, engine.log.locks.state:
        assert watch.changed_key() is None
    wave(engine, [b"a"], [(0, b"1", 0), (0, None, 0)])
    with engine.log.locks.append, engine.log.locks.state:
        assert engine.log.deferring(watch.changed_key)[0] == b"a"
    watch.release()


def test_who_may_not_write_hears_of_it_before_anything_is_decided() -> None:
    engine = small_engine()
    engine.versions.snapshot("s")
    never: Callable[[WaveFound], None] = lambda found: pytest.fail("decided")  # noqa: E731
    with pytest.raises(ReadOnlyError):
        run_wave(engine.view("s").keyspace(0), BytesArray(*join([b"a"])), np.array([True]), True, never)
