"""Keyspaces: values, expiry by an injected clock, counts, scans, and what is refused."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pmkv.engine.byte_batch import BytesArray, cut_batches, join
from pmkv.engine.engine import Engine
from pmkv.engine.keyspace import Keyspace
from pmkv.errors import CorruptionError, FullError, InvalidError
from pmkv.kernels import location
from pmkv.kernels.records import RECORD_HEADER
from pmkv.media.memory import MemoryMedium
from tests.engines import frames, small_engine


class Clock:
    """Milliseconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(clock: Clock) -> Engine:
    return Engine.on_medium(MemoryMedium(1 << 22), segment_size=1 << 16, now=clock)


@pytest.fixture
def space(engine: Engine) -> Keyspace:
    return engine.keyspaces[0]


@pytest.mark.parametrize("key", [b"", b"k", b"\0\xff\r\n", b"x" * 15000], ids=len)
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 1000, 16384, 16385, 100_000])
def test_any_bytes_come_back(space: Keyspace, key: bytes, length: int) -> None:
    value = random.Random(length).randbytes(length)
    space.put(key, value)
    assert space.get(key) == value and space.size(key) == length and key in space
    assert space.entry(key) == (value, 0) and space.expiry(key) == 0
    space.check()


def test_absent_keys(space: Keyspace) -> None:
    assert (
        space.get(b"k") is None
        and space.size(b"k") is None
        and space.expiry(b"k") is None
        and space.entry(b"k") is None
    )
    assert b"k" not in space and not space.delete(b"k") and not space.expire(b"k", 5)
    assert space.get_many([]) == [] and len(space) == 0 and space.random_key() is None


def test_keyspaces_are_apart(engine: Engine) -> None:
    for number, space in enumerate(engine.keyspaces):
        space.put(b"k", b"%d" % number)
    assert [space.get(b"k") for space in engine.keyspaces] == [b"%d" % number for number in range(16)]
    engine.keyspaces[3].clear()
    assert len(engine.keyspaces[3]) == 0 and len(engine.keyspaces[4]) == 1


def test_put_many_applies_in_order(space: Keyspace) -> None:
    space.put_many([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")])
    assert space.get_many([b"b", b"a", b"c"]) == [b"2", b"3", None] and len(space) == 2
    space.put_many({})
    space.put_many({b"v": memoryview(b"view"), b"w": bytearray(b"array")})
    assert space.get(b"v") == b"view" and space.get(b"w") == b"array"


def test_spans_go_in_and_come_out_as_bytes_do(space: Keyspace, clock: Clock) -> None:
    list(space.scan())  # from now on there is an order to be kept
    keys, values = [b"a", b"bb", b"", b"a"], [b"1", b"", b"x" * 9000, b"last"]
    space.put_entries(*(BytesArray(*join(items)) for items in (keys, values)), np.array([0, clock.now + 1, 0, 0]))
    wanted = BytesArray(*join([b"none", *keys]))
    assert list(space.get_spans(wanted)) == space.get_many(list(wanted)) == [None, b"last", b"", b"x" * 9000, b"last"]
    assert [key for key, _ in space.scan()] == [b"", b"a", b"bb"]
    clock.now += 1
    assert list(space.get_spans(wanted))[2] is None
    space.put_entries(BytesArray(*join([b"long"])), BytesArray(*join([b"y" * 20_000])), [0])  # in parts
    assert space.get(b"long") == b"y" * 20_000
    assert space.get_spans([b"a", b"long"]) is None
    space.check()


def test_a_long_put_many_crosses_frames_and_segments(space: Keyspace) -> None:
    items = {b"key:%d" % i: random.Random(i).randbytes(i % 900) for i in range(2000)}
    space.put_many(items)
    assert space.get_many(list(items)) == list(items.values()) and len(space) == 2000
    space.check()


def test_expiry_is_by_the_clock(space: Keyspace, clock: Clock) -> None:
    space.put(b"a", b"1", ttl=5)
    space.put(b"b", b"2", expire_at=clock.now + 2000)
    space.put(b"c", b"3")
    assert space.expiry(b"a") == clock.now + 5000 and len(space) == 3
    clock.now += 2000
    assert space.get_many([b"a", b"b", b"c"]) == [b"1", None, b"3"] and len(space) == 2
    assert space.keys(0, 100) == (0, sorted([b"a", b"c"], key=space.keys(0, 100)[1].index))
    assert not space.delete(b"b") and not space.expire(b"b", 0)
    clock.now += 3000
    assert len(space) == 1 and dict(space.scan()) == {b"c": b"3"}
    clock.now -= 5000  # a clock that is set back: only what somebody asked for stays expired
    assert len(space) == 2 and space.get_many([b"a", b"b"]) == [b"1", None]
    space.check()


def test_expiry_given_and_taken(space: Keyspace, clock: Clock) -> None:
    space.put(b"a", b"x" * 50_000)
    assert space.expire(b"a", clock.now + 10) and space.expiry(b"a") == clock.now + 10
    assert space.expire(b"a", 0) and space.expiry(b"a") == 0 and space.get(b"a") == b"x" * 50_000
    space.expire(b"a", clock.now - 1)
    assert space.get(b"a") is None and len(space) == 0
    space.put(b"b", b"y", expire_at=-5)
    assert space.get(b"b") is None and len(space) == 0
    space.put(b"b", b"y", ttl=1)
    space.put(b"b", b"z")
    clock.now += 5000
    assert space.get(b"b") == b"z" and len(space) == 1
    space.check()


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf")])
def test_a_ttl_is_above_zero(space: Keyspace, ttl: float) -> None:
    with pytest.raises(InvalidError, match="ttl="):
        space.put(b"a", b"1", ttl=ttl)


def test_delete_counts_once(space: Keyspace) -> None:
    space.put_many({b"a": b"1", b"b": b"2"})
    assert space.delete_many([b"a", b"a", b"c"]) == 1 and len(space) == 1
    space.put(b"a", b"again")
    assert space.get(b"a") == b"again" and len(space) == 2


def test_cursors_meet_what_is_there_all_the_time(space: Keyspace) -> None:
    names = [b"key:%d" % i for i in range(3000)]
    space.put_many([(name, b"") for name in names])
    seen, cursor, step = set(), 0, 0
    while True:
        cursor, some = space.keys(cursor, 50)
        seen.update(some)
        step += 1
        space.put_many([(b"new:%d:%d" % (step, i), b"") for i in range(60)])  # the index grows under the cursor
        space.delete(b"new:%d:0" % step)
        if not cursor:
            break
    assert seen >= set(names)


def test_scan_is_ordered_bounded_and_both_ways(space: Keyspace) -> None:
    items = {random.Random(i).randbytes(3): b"%d" % i for i in range(500)} | {b"\xff\xff": b"last", b"": b"first"}
    space.put_many(items)
    ordered = sorted(items.items())
    assert list(space.scan()) == ordered and list(space.scan(reverse=True)) == ordered[::-1]
    low, high = ordered[100][0], ordered[200][0]
    assert list(space.scan(start=low, stop=high)) == ordered[100:200]
    assert list(space.scan(start=low, stop=high, reverse=True, limit=5)) == ordered[195:200][::-1]
    for prefix in (b"\xff", b"\xff\xff", ordered[7][0][:1]):
        assert list(space.scan(prefix=prefix)) == [item for item in ordered if item[0].startswith(prefix)]
    assert list(space.scan(start=b"b", stop=b"a")) == []


def test_scan_sees_what_came_and_went_after_the_first(space: Keyspace) -> None:
    space.put_many([(b"%04d" % i, b"") for i in range(3000)])
    assert len(list(space.scan())) == 3000
    space.delete_many([b"%04d" % i for i in range(0, 3000, 2)])
    space.put(b"0000a", b"new")
    assert len(list(space.scan())) == 1501 and next(iter(space.scan(start=b"0000"))) == (b"0000a", b"new")
    space.put(b"0000", b"back")
    assert next(iter(space.scan())) == (b"0000", b"back")
    space.clear()
    assert list(space.scan()) == []


def test_random_key_is_one_of_them(space: Keyspace) -> None:
    space.put_many({b"a": b"", b"b": b""})
    assert {space.random_key() for _ in range(60)} == {b"a", b"b"}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("text", b"", "a key must be bytes, not str"),
        (b"k", "text", "a value must be bytes, not str"),
        (b"k", 5, "a value must be bytes, not int"),
        (b"x" * 65537, b"", "65,537 bytes is too long: at most 65,536"),
    ],
)
def test_what_is_no_key_or_value_is_refused(space: Keyspace, key: object, value: object, words: str) -> None:
    with pytest.raises(InvalidError, match=words):
        space.put(key, value)
    assert len(space) == 0


def test_a_damaged_record_is_reported_and_never_served(space: Keyspace, engine: Engine) -> None:
    space.put_many({b"a": b"1" * 40, b"b": b"2" * 40})
    where = space.records([b"b"])[0][0] & int(location.OFFSET_MASK)
    for byte in (0, 5, 16, 30):  # lengths, flags, the key, the value
        engine.log.data[where + byte] ^= 4
        with pytest.raises(CorruptionError, match="record of keyspace 0 at offset"):
            space.get_many([b"a", b"b"])
        engine.log.data[where + byte] ^= 4
    assert space.get(b"b") == b"2" * 40


def test_a_full_pool_can_be_read_and_emptied(space: Keyspace, engine: Engine) -> None:
    stored = 0
    with pytest.raises(FullError, match=r"the pool is full.*larger capacity"):
        while True:
            space.put(b"%d" % stored, bytes(10_000))
            stored += 1
    assert stored > 100 and len(space) == stored and space.get(b"0") == bytes(10_000)
    assert space.delete_many([b"%d" % i for i in range(stored)]) == stored
    assert len(space) == 0
    engine.check()


def test_join_and_cut() -> None:
    blob, bounds = join([b"ab", b"", b"cde"])
    assert blob.tobytes() == b"abcde" and bounds.tolist() == [[0, 2], [2, 2], [2, 5]]
    assert join([])[1].shape == (0, 2)
    sizes = np.array([10] * 25)
    assert list(cut_batches(sizes, 100, 45)) == [[(0, 4, 40), (4, 14, 100), (14, 24, 100), (24, 25, 10)]]
    assert list(cut_batches(sizes, 100, 100)) == [[(0, 10, 100), (10, 20, 100), (20, 25, 50)]]
    assert list(cut_batches(np.array([500, 1]), 100, 50)) == [[(0, 1, 500), (1, 2, 1)]]


def test_a_clock_that_was_ahead_once_hides_nothing_from_scans(engine: Engine, clock: Clock) -> None:
    keys = engine.keyspaces[0]
    keys.put(b"kept", b"1", ttl=60)
    keys.put(b"lasting", b"2")
    clock.now += 10**9
    assert list(keys.scan()) == [(b"lasting", b"2")]
    clock.now -= 10**9
    assert list(keys.scan()) == [(b"kept", b"1"), (b"lasting", b"2")]


def test_a_scan_meets_the_first_pieces_of_a_put_for_which_there_was_no_room() -> None:
    engine = Engine.on_medium(MemoryMedium(4096 + 24 * (1 << 20)), segment_size=1 << 20)
    keys = engine.keyspaces[0]
    keys.put(b"a", b"")
    assert len(list(keys.scan())) == 1
    with pytest.raises(FullError):
        keys.put_many([(b"%03d" % i, bytes(200_000)) for i in range(150)])
    assert len(keys) > 1, "the first atomic piece is in"
    assert sum(1 for _ in keys.scan()) == len(keys)
    engine.check()


@pytest.mark.parametrize("cursor", [-1, 1 << 64])
def test_what_is_no_cursor_is_refused(engine: Engine, cursor: int) -> None:
    with pytest.raises(InvalidError, match="is no cursor: begin with 0"):
        engine.keyspaces[0].keys(cursor)


@pytest.mark.parametrize("key", [bytearray(b"k"), memoryview(b"k"), "k", None, 3])
def test_only_bytes_are_keys(engine: Engine, key: object) -> None:
    """A bytearray could be stored, but not be found in the order of keys: it has no hash."""
    with pytest.raises(InvalidError, match=f"a key must be bytes, not {type(key).__name__}"):
        engine.keyspaces[0].put(key, b"v")


def test_keys_are_returned_from_any_cursor_and_for_any_count(engine: Engine) -> None:
    keys = engine.keyspaces[0]
    keys.put_many({b"%d" % i: b"" for i in range(300)})
    for count in (0, 1, 7, 1000):
        cursor, seen = 0, []
        while True:
            cursor, some = keys.keys(cursor, count)
            seen += some
            if not cursor:
                break
        assert sorted(seen) == sorted(b"%d" % i for i in range(300))
    assert keys.keys((1 << 64) - 1)[0] == 0


def test_a_key_damaged_after_it_was_written_is_not_counted_as_another() -> None:
    engine = small_engine(segments=16)
    space = engine.keyspaces[0]
    space.put_many({b"a": b"1", b"b": b"1"})
    engine.versions.snapshot("s")
    space.delete(b"a")  # hides one below, which nobody has looked for yet
    frame = frames(engine.pool.medium)[-1]
    engine.pool.medium.data[frame.body + RECORD_HEADER] ^= 1
    with pytest.raises(CorruptionError, match="is damaged"):
        len(space)
