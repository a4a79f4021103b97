"""Decisions are checked before they are logged: whatever is asked for, the next process reads the log."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pmkv.engine.decision_check import check_decision
from pmkv.engine.engine import Engine
from pmkv.errors import InvalidError, PmkvError
from tests.engines import contents, reopen, small_engine

DTYPES = [
    "f4", ">i8", "f4,i2", ("f4", 3), ("f4", (2, 0)), ("f4", (1,) * 40), "O", "S0", "U5", "S7", "M8[ns]", "m8", "V3",
    "c16", [("a", "f4"), ("a", "f4")], [(("title", "a"), "f4")], [("", "f4")], [("a b", "i2", (2, 2))], [("é", "f2")],
    [("a", [("b", [("c", "u1")])])], {"names": ["a", "b"], "formats": ["i2", "f4"], "offsets": [4, 0]},
    {"names": ["a"], "formats": ["i2"], "itemsize": 64}, np.dtype([("a", "i1"), ("b", "i8")], align=True), bool, object,
    None, 7, "no such", "f4\x00", np.dtype("f4").newbyteorder(), np.void, [], (), [("a", "f4", -1)], ("u1", 1 << 17),
]  # fmt: skip
NAMES = [
    "t",
    "",
    "a" * 129,
    "t\n",
    "é",
    5,
    None,
    b"t",
    "main",
    "undo",
    ".t",
    "t:1",
    np.str_("n"),
    "\ud800",
    "b",
    "s",
    ["t"],
]
COUNTS = [None, 0, 1, -1, True, 1.0, 1 << 47, 1 << 64, np.int64(9), np.float32(3), "4", float("nan"), 10**30]
SCOPES = [
    None,
    True,
    False,
    [],
    [0],
    [16],
    [-1],
    ["0"],
    3,
    "t",
    ["t", "t"],
    ["none"],
    [None],
    {"t"},
    (),
    iter(["t"]),
    [3.0],
]
CALLS: list[Callable[[Engine, Callable], Any]] = [
    lambda engine, one: engine.create_table(one(NAMES), one(DTYPES), one(COUNTS), exist_ok=one(COUNTS)),
    lambda engine, one: engine.drop_table(one(NAMES)),
    lambda engine, one: engine.keyspaces[one(COUNTS)].clear(),
    lambda engine, one: engine.clear_all(one(NAMES)),
    lambda engine, one: engine.versions.snapshot(one(NAMES), one(["main", *NAMES])),
    lambda engine, one: engine.versions.branch(one(NAMES), one(["main", *NAMES])),
    lambda engine, one: engine.versions.promote(one(["b", *NAMES]), one(SCOPES), one(SCOPES), one(COUNTS)),
    lambda engine, one: engine.versions.rollback(one(["s", *NAMES]), one(SCOPES), one(SCOPES), one(["main", *NAMES])),
    lambda engine, one: engine.versions.undo(one(COUNTS)),
    lambda engine, one: engine.versions.delete_view(one(NAMES)),
]


def test_whatever_is_asked_for_the_log_can_be_read() -> None:
    done = refused = 0
    for seed in range(12):
        dice, engine = random.Random(seed), small_engine(segments=64)

        def one(options: list[Any], dice: random.Random = dice) -> Any:
            return options[0] if dice.random() < 0.3 else dice.choice(options)

        for _ in range(100):
            try:
                dice.choice(CALLS)(engine, one)
                done += 1
            except (PmkvError, TypeError, ValueError, AttributeError, IndexError):
                refused += 1
            for table in engine.tables.values():
                table.put([0], np.zeros((1, *table.shape), table.dtype))
            if dice.random() < 0.15:
                before, engine = contents(engine), reopen(engine)
                assert contents(engine) == before, seed
        engine.check()
    assert done > 80 and refused > 150


@pytest.mark.parametrize(
    ("decision", "why"),
    [
        ({"op": "create_table", "id": 1, "name": "t", "descr": [np.dtype("f4"), []], "rows": None}, "not JSON"),
        ({"op": "create_table", "id": 9, "name": "t", "descr": ["f4", []], "rows": None}, "not what a new table has"),
        ({"op": "create_table", "id": 9, "name": "n", "descr": [[["", "f4"]], []], "rows": None}, "not what a new"),
        ({"op": "create_table", "id": 9, "name": "n", "descr": ["no", []], "rows": None}, "no NumPy dtype"),
        ({"op": "drop_table", "id": 5}, "no 'table/5'"),
        ({"op": "clear", "keyspaces": [16]}, "no 16"),
        ({"op": "clear", "keyspaces": [0], "head": "none"}, "no head"),
        ({"op": "snapshot", "name": "s"}, "there is a view 's'"),
        ({"op": "branch", "name": "b", "at": "none"}, "no 'none'"),
        ({"op": "promote", "name": "s", "parts": ["table/7"], "drop": []}, "no 'table/7'"),
        ({"op": "rollback", "name": "s", "parts": [], "drop": ["table/7"]}, "no 'table/7'"),
        ({"op": "undo", "name": "undo", "parts": [], "drop": []}, "KeyError: 'undo'"),
        ({"op": "delete_view", "name": "main"}, "no 'main'"),
        ({"op": "snapshot", "name": "n", "extra": {1: 2}}, "Dict key must be str"),
        ({"op": "explode"}, "not known"),
    ],
)  # fmt: skip
def test_what_cannot_be_carried_out_again_is_refused(decision: dict[str, Any], why: str) -> None:
    engine = small_engine()
    engine.create_table("t", "f4")
    engine.versions.snapshot("s")
    before = engine.log.lsn
    with pytest.raises(InvalidError, match="was not logged") as error:
        check_decision(engine.view_set, decision)
    assert why in str(error.value) and engine.log.lsn == before
