"""What commands of a wave reply and write, with a clock that stands still; they see what earlier ones have left."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import pmkv
from pmkv_server.dispatch.waves import SPACE_BYTES, Outcome, Waves
from pmkv_server.resp.scan import Scanner
from tests.engines import Clock
from tests.served import request
from tests.unit.server.stand import Stub, parsed, shown, words_of

PART = 1 << 20  # the longest value of a wave


class Bench:
    """A store whose clock is set by hand, and waves on its first keyspace."""

    def __init__(self, store: Any) -> None:
        self.store, self.space = store, store.keyspace(0)
        self.clock = store._engine.log.now = Clock()
        self.waves = Waves(Stub(store))
        self.scanner = Scanner(self.waves.name_table())

    def wave(self, *pipelines: list[bytes], protocols: list[int] | None = None, room: int = 1 << 22) -> Outcome:
        """Carry out what connections have sent."""
        found = self.scanner.scan(b"".join(b"".join(some) for some in pipelines), [len(b"".join(p)) for p in pipelines])
        ends = [0, *(state[0] for state in found.states)]
        plan = self.waves.plan(found, np.array(list(itertools.pairwise(ends)), np.int64))
        assert sum(plan.counts) == ends[-1], "some command is not for waves"
        return self.waves.carry_out(plan, self.space, protocols or [2] * len(pipelines), [room] * len(pipelines))

    def says(self, *lines: str, protocol: int = 2) -> list[str]:
        """Return the replies to the lines of one connection, and LEFT for one that left."""
        outcome = self.wave([request(*words_of(line)) for line in lines], protocols=[protocol])
        (share,) = outcome.shares()
        return [*map(shown, parsed(outcome.replies.tobytes())), *["LEFT"] * share.has_left]


@pytest.fixture
def bench() -> Iterator[Bench]:
    with pmkv.open(pool=":memory:", capacity="1GiB") as store:
        yield Bench(store)


def test_commands_see_what_earlier_ones_have_left(bench: Bench) -> None:
    lines = [
        "SET a 1", "INCR a", "APPEND a x", "GET a", "DEL a b", "GET a", "SETNX a 5", "SETNX a 6", "DECRBY a 7",
        "GETSET a z", "GETDEL a", "EXISTS a a", "MSET a 1 a 2 b 3", "MGET a b none a", "MSETNX c 1 b 2", "EXISTS a b c",
        "TYPE a", "TYPE c",
        "SETRANGE c 3 xy", "GETRANGE c 2 -1", "STRLEN c", "INCR n", "INCR n", "PING", "ECHO x",
    ]  # fmt: skip
    assert bench.says(*lines) == [
        "OK", ":2", ":2", '"2x"', ":1", "nil", ":1", ":0", ":-2", '"-2"', '"z"', ":0", "OK", '["2", "3", nil, "2"]',
        ":0", ":2", "string", "none", ":5", '"\\x00xy"', ":5", ":1", ":2", "PONG", '"x"',
    ]  # fmt: skip
    assert bench.space.get_many([b"a", b"b", b"c", b"n"]) == [b"2", b"3", b"\0\0\0xy", b"2"]
    assert bench.store._engine.log.appended[0] > 0
    bench.space.check()


def test_replies_of_resp3(bench: Bench) -> None:
    assert bench.says("GET a", "MGET a", "SET a 1 XX", "SET a 1 GET", protocol=3) == ["null", "[null]", "null", "null"]


def test_options_of_set(bench: Bench) -> None:
    assert bench.says("SET a 1 XX", "SET a 1 NX", "SET a 2 NX GET", "SET a 3 XX GET", "GET a") == [
        "nil", "OK", '"1"', '"1"', '"3"',
    ]  # fmt: skip
    found = bench.says(
        "SET a 1 EX 10", "SET a 2 KEEPTTL", "PTTL a", "SET a 3", "PTTL a", "SET none 1 KEEPTTL", "TTL none"
    )
    assert found == ["OK", "OK", ":10000", "OK", ":-1", "OK", ":-1"]


def test_times_to_live(bench: Bench) -> None:
    now = bench.clock.now
    lines = [
        "SETEX a 10 x",
        "TTL a",
        "PTTL a",
        "EXPIRETIME a",
        "PEXPIRETIME a",
        "EXPIRE a 5 GT",
        "EXPIRE a 20 GT",
        "TTL a",
    ]
    assert bench.says(*lines) == [
        "OK", ":10", ":10000", f":{(now + 10_500) // 1000}", f":{now + 10_000}", ":0", ":1", ":20",
    ]  # fmt: skip
    lines = ["PERSIST a", "PERSIST a", "TTL a", "EXPIRE a 5 GT", "EXPIRE a 5 XX", "EXPIRE a 5 LT", "TTL none"]
    assert bench.says(*lines) == [
        ":1", ":0", ":-1", ":0", ":0", ":1", ":-2",
    ]  # fmt: skip
    assert bench.says("GETEX a", "TTL a", "GETEX a PX 7", "PTTL a", "GETEX a PERSIST", "TTL a", "APPEND a y") == [
        '"x"', ":5", '"x"', ":7", '"x"', ":-1", ":2",
    ]  # fmt: skip
    assert bench.says("EXPIRE a 0", "EXISTS a", "SET b 1", "PEXPIREAT b 5", "GET b") == [":1", ":0", "OK", ":1", "nil"]
    bench.space.check()


def test_a_key_expires_between_two_waves_and_not_within_one(bench: Bench) -> None:
    assert bench.says("SET a 1 PX 1", "PTTL a", "GET a", "INCR a", "PTTL a") == ["OK", ":1", '"1"', ":2", ":1"]
    bench.clock.now += 1
    assert bench.says("GET a", "EXISTS a", "PTTL a", "SET a 1 XX", "INCR a", "TTL a") == [
        "nil", ":0", ":-2", "nil", ":1", ":-1",
    ]  # fmt: skip
    lookups = bench.store.lookups
    assert (lookups.hits, lookups.misses, lookups.expired) == (4, 3, 1)


@pytest.mark.parametrize(
    "line",
    [
        "SET a 1 PXAT 5", "GETEX a PXAT 5", "INCR text", "INCR empty", "INCR long", "GET parts", "APPEND parts x",
        "STRLEN parts", "EXPIRE parts 9", "SETRANGE a 9999999 x", "MGET a parts", "SET parts 1 GET", "GETDEL parts",
    ],
)  # fmt: skip
def test_what_leaves_a_wave_does_nothing_and_ends_it_for_its_connection(line: str, bench: Bench) -> None:
    values = {b"a": b"1", b"text": b"x", b"empty": b"", b"long": b"1" * 19, b"parts": b"x" * (PART + 1)}
    bench.space.put_many(values)
    outcome = bench.wave(
        [request("GET", "a"), request(*words_of(line)), request("SET", "b", "1")], [request("GET", "a")]
    )
    assert [(share.done, share.has_left) for share in outcome.shares()] == [(1, True), (1, False)]
    assert outcome.replies.tobytes() == 2 * b"$1\r\n1\r\n"
    assert bench.space.get_many([*values, b"b"]) == [*values.values(), None]


def test_values_in_parts_that_nobody_reads_do_not_matter(bench: Bench) -> None:
    bench.space.put(b"parts", b"x" * (PART + 1))
    assert bench.says("EXISTS parts", "TTL parts", "DEL parts", "SET parts 1") == [":1", ":-1", ":1", "OK"]


def test_replies_of_a_connection_end_where_its_room_does(bench: Bench) -> None:
    bench.space.put(b"a", b"x" * 100)
    outcome = bench.wave([request("GET", "a")] * 5, [request("PING")] * 5, room=150)
    assert [(share.done, share.has_left) for share in outcome.shares()] == [(2, False), (5, False)]
    assert outcome.shares()[0].stop == outcome.shares()[1].start == 2 * 108


def test_a_wave_ends_where_its_arrays_are_full(bench: Bench) -> None:
    half, long = SPACE_BYTES // 2, b"x" * (PART // 2)
    bench.space.put(b"a", long)
    (share,) = bench.wave([request("GET", "a")] * 20, room=1 << 30).shares()
    assert (share.done, share.has_left) == ((half - 32) // (len(long) + 11), False)
    (share,) = bench.wave([request("APPEND", "b", long[:1000])] * 200).shares()
    assert not share.has_left and bench.space.size(b"b") == 1000 * share.done < 200_000
    (share,) = bench.wave([request("MGET", *["a"] * 20)]).shares()
    assert (share.done, share.has_left) == (0, True), "it would never have room"


def test_who_depends_on_what_is_written(bench: Bench) -> None:
    bench.space.put(b"a", b"1")
    outcome = bench.wave(
        [request("GET", "a")], [request("SET", "b", "1")], [request("GET", "b")], [request("SET", "b", "2", "NX")],
        [request("SETNX", "a", "2")], [request("DEL", "none")], [request("PING")],
        [request("PING"), request("DEL", "a")],
    )  # fmt: skip
    written = bench.store._engine.log.lsn
    assert [share.lsn == written for share in outcome.shares()] == [False, True, True, True, False, False, False, True]
