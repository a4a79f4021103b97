"""Plans of waves: which commands of a scan belong in one, and what is read of their arguments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pmkv_server.commands.actions import EXPIRES, GET_OLD, GT, KEEPTTL, LT, NX, RELATIVE, UNEXPIRE, XX
from pmkv_server.dispatch.wave_plan import (
    ACTION,
    KEY_BYTES,
    MOST_ARGUMENTS,
    NUMBER,
    OPTIONS,
    PLAN_COLUMNS,
    SECOND,
    TIME_LIMIT,
    integer,
    plan_wave,
)  # fmt: skip
from pmkv_server.dispatch.waves import entries_of_waves, specs_of
from pmkv_server.resp.scan import OTHER, Scan, Scanner, name_table
from tests.served import request
from tests.unit.server.stand import words_of

ENTRIES = entries_of_waves()
NAMES = name_table((entry.name.encode(), entry.arity, i) for i, entry in enumerate(ENTRIES, 1))


class Planned:
    """The plan of the lines of some connections."""

    def __init__(
        self, *lines: list[str], commands: int = 50, keys: int = 50, blind: bool = False, length: int = 1 << 20
    ) -> None:
        data = [b"".join(request(*words_of(line)) for line in some) for some in lines]
        self.found: Scan = Scanner(NAMES).scan(b"".join(data), list(map(len, data)))
        ends = [0, *(state[0] for state in self.found.states)]
        ranges = np.array(list(itertools.pairwise(ends)), np.int64)
        limits = np.array([commands, keys, blind, length], np.int64)
        planned, bounds = np.empty((commands, PLAN_COLUMNS), np.int64), np.empty((keys, 2), np.int64)
        reads, counts = np.empty(keys, np.bool_), np.empty(len(lines), np.int64)
        arrays = self.found.bounds, self.found.rows, ranges, specs_of(ENTRIES), limits, planned, bounds, reads
        count, key, self.may_write = plan_wave(self.found.blob, *arrays, counts)
        self.commands, self.reads, self.counts = planned[:count].tolist(), reads[:key].tolist(), counts.tolist()
        self.keys = [self.found.blob[start:stop].tobytes() for start, stop in bounds[:key].tolist()]

    @property
    def is_left_out(self) -> bool:
        """The first command is for its function."""
        return not self.commands and self.found.number(0) == OTHER


def test_each_connection_takes_part_up_to_its_first_other_command() -> None:
    plan = Planned(["GET a", "DBSIZE", "GET b"], ["SET c 1"], ["SET d 1 BAD", "GET d"], ["MGET e f", "GET g"])
    assert plan.counts == [1, 1, 0, 2] and plan.keys == [b"a", b"c", b"e", b"f", b"g"]
    assert plan.reads == [True, False, True, True, True] and plan.may_write
    assert [command[0] for command in plan.commands] == [0, 1, 3, 3]
    assert not Planned(["GET a", "TTL a", "PING"]).may_write


def test_limits_end_a_plan_without_leaving_anything_out() -> None:
    plan = Planned(["GET a"] * 5, ["GET b"], commands=3)
    assert plan.counts == [3, 0] and plan.found.number(5) != OTHER
    plan = Planned(["GET a", "MGET a b c"], ["GET d"], keys=3)
    assert plan.counts == [1, 1] and plan.found.number(1) != OTHER
    assert Planned(["MGET a b c d"], keys=3).is_left_out, "it would never have room"


def test_what_is_long_is_left_out() -> None:
    assert Planned([f"GET {'k' * (KEY_BYTES + 1)}"]).is_left_out and not Planned([f"GET {'k' * KEY_BYTES}"]).is_left_out
    assert Planned([f"SET a {'v' * 100}"], length=90).is_left_out
    many = ["MGET " + " ".join("k" * (MOST_ARGUMENTS - 1)), "MGET " + " ".join("k" * MOST_ARGUMENTS)]
    assert [Planned([line], keys=2 * MOST_ARGUMENTS).is_left_out for line in many] == [False, True]


def test_only_what_looks_nothing_up() -> None:
    plan = Planned(["SET a 1", "PING", "MSET a 1 b 2", "SETEX a 1 1", "SET a 1 NX"], ["GET a"], blind=True)
    assert plan.counts == [4, 0] and not any(plan.reads) and plan.found.number(5) != OTHER


READ = {
    "SET a 1": (0, 0), "SET a 1 nx": (NX, 0), "SET a 1 XX GET": (XX | GET_OLD, 0), "SET a 1 KeepTTL": (KEEPTTL, 0),
    "SET a 1 EX 5": (EXPIRES | RELATIVE, 5000), "SET a 1 PX 5 NX": (EXPIRES | RELATIVE | NX, 5),
    "SET a 1 EXAT 5": (EXPIRES, 5000), "SET a 1 pxat 5": (EXPIRES, 5),
    "SETEX a 7 1": (EXPIRES | RELATIVE, 7000), "PSETEX a 7 1": (EXPIRES | RELATIVE, 7),
    "GETEX a": (0, 0), "GETEX a PERSIST": (UNEXPIRE, 0), "GETEX a EX 1": (EXPIRES | RELATIVE, 1000),
    "EXPIRE a -5": (0, -5000), "PEXPIRE a 5 GT XX": (GT | XX, 5), "EXPIREAT a 5 lt": (LT, 5000),
    "INCR a": (0, 1), "DECR a": (0, -1), "INCRBY a -7": (0, -7), "DECRBY a -7": (0, 7), "SETRANGE a 3 x": (0, 3),
}  # fmt: skip


@pytest.mark.parametrize("line", READ)
def test_options_and_numbers(line: str) -> None:
    (command,) = Planned([line]).commands
    assert (command[OPTIONS], command[NUMBER]) == READ[line]


def test_two_numbers() -> None:
    (command,) = Planned(["GETRANGE a 2 -1"]).commands
    assert (command[NUMBER], command[SECOND]) == (2, -1)


LEFT_OUT = [
    "SET a 1 EX", "SET a 1 EX x", "SET a 1 EX 0", "SET a 1 EX -1", "SET a 1 NX XX", "SET a 1 EX 1 PX 1",
    "SET a 1 EX 1 KEEPTTL", "SET a 1 PERSIST", f"SET a 1 PX {TIME_LIMIT + 1}", "SETEX a 0 1", "SETEX a x 1",
    "GETEX a NX", "GETEX a PERSIST EX 1", "EXPIRE a x", "EXPIRE a 1 NX GT", "EXPIRE a 1 GT LT", "EXPIRE a 1 PERSIST",
    f"EXPIRE a {TIME_LIMIT}", "INCRBY a x", "INCRBY a 1234567890123456789", "GETRANGE a x 1", "GETRANGE a 1 x",
    "SETRANGE a -1 x", 'SETRANGE a 1 ""', "MSET a 1 b", "MSETNX a 1 b", "PING a b", "GET", "GET a b", "DBSIZE",
    "SET a 1 keepttlkeepttl",
]  # fmt: skip


@pytest.mark.parametrize("line", LEFT_OUT)
def test_mistakes_and_what_is_rare_are_left_to_the_functions(line: str) -> None:
    assert Planned([line]).is_left_out


@pytest.mark.parametrize(
    ("word", "value"),
    [("0", 0), ("7", 7), ("-7", -7), ("9" * 18, 10**18 - 1), ("-" + "9" * 18, 1 - 10**18)]
    + [(word, None) for word in ("", "-", "-0", "01", "+1", " 1", "1 ", "1a", "1" * 19, "0x1")],
)
def test_integers_are_canonical_and_short(word: str, value: int | None) -> None:
    data = np.frombuffer(b"#" + word.encode() + b"#", np.uint8)
    found, is_one = integer(data, 1, 1 + len(word))
    assert (int(found) if is_one else None) == value


def test_the_actions_are_those_of_the_table() -> None:
    for entry in ENTRIES:
        (command,) = Planned([" ".join([entry.name, *["1"] * (abs(entry.arity) - 1)])]).commands
        assert command[ACTION] == entry.action[0], entry.name
