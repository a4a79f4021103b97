"""What a promote, a rollback or an undo takes, and what stands in its way, on a small engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pmkv.engine.engine import Engine
from pmkv.engine.open_view import OpenView
from pmkv.engine.version_plan import Plan, check_view_name, plan_promote, plan_rollback, plan_undo
from pmkv.errors import InvalidError, UnknownNameError
from tests.engines import small_engine


@pytest.fixture
def engine() -> Engine:
    engine = small_engine(segments=32)
    for name in ("a", "b"):
        engine.create_table(name, "i8").put([1], [1])
    engine.keyspaces[0].put(b"k", b"1")
    return engine


@pytest.fixture
def branch(engine: Engine) -> OpenView:
    return engine.versions.branch("new")


def promote(engine: Engine, tables: Any = None, keys: Any = None) -> Plan:
    return plan_promote(engine.view_set, engine.view_set.maps["new"], tables, keys)


def test_a_promote_takes_what_the_branch_wrote_created_cleared_and_dropped(engine: Engine, branch: OpenView) -> None:
    assert promote(engine) == Plan([], [], [])
    branch.tables["a"].put([2], [2])
    branch.keyspace(3).put(b"blob", b"1")
    engine.create_table("c", "i8", head="new")
    engine.drop_table("b", head="new")
    assert promote(engine) == Plan(["keyspace/3", "table/1", "table/3"], ["table/2"], [])
    assert promote(engine, ["a"]) == Plan(["table/1"], [], [])
    assert promote(engine, ["b"], [3]) == Plan(["keyspace/3"], ["table/2"], [])
    assert promote(engine, keys=False) == Plan(["table/1", "table/3"], ["table/2"], [])
    branch.keyspace(0).clear()
    assert sorted(promote(engine, [], True).collections) == ["keyspace/0", "keyspace/3"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda engine: engine.tables["a"].put([7, 8], [7, 8]), "main has 2 writes in a since 'new' was cut"),
        (lambda engine: engine.tables["a"].delete([1]), "main has 1 writes in a since 'new' was cut"),
        (lambda engine: engine.drop_table("a"), "main has no table a any more since 'new' was cut"),
        (lambda engine: engine.keyspaces[3].put(b"k", b"v"), "main has 1 writes in keyspace 3 since 'new' was cut"),
        (lambda engine: engine.create_table("c", "f4"), "main has another table c since 'new' was cut"),
    ],
)
def test_what_main_wrote_meanwhile_is_in_the_way(
    engine: Engine, branch: OpenView, change: Callable[[Engine], Any], why: str
) -> None:
    branch.tables["a"].put([2], [2])
    branch.keyspace(3).put(b"blob", b"1")
    engine.create_table("c", "i8", head="new")
    assert promote(engine).conflicts == []
    change(engine)
    assert promote(engine).conflicts == [why]


def test_writes_to_what_the_branch_left_alone_are_not_in_the_way(engine: Engine, branch: OpenView) -> None:
    branch.tables["a"].put([2], [2])
    engine.tables["b"].put([5], [5])
    engine.keyspaces[0].put(b"k", b"2")
    assert promote(engine).conflicts == []


def test_tables_that_both_dropped_are_in_nobodys_way(engine: Engine, branch: OpenView) -> None:
    engine.drop_table("a", head="new")
    engine.drop_table("a")
    assert promote(engine) == Plan([], [], [])


def test_a_name_stands_for_what_the_branch_dropped_and_made_anew(engine: Engine, branch: OpenView) -> None:
    engine.drop_table("a", head="new")
    engine.create_table("a", "f4", head="new")
    assert promote(engine, ["a"]) == promote(engine) == Plan(["table/3"], ["table/1"], [])


def test_another_state_is_told(engine: Engine) -> None:
    engine.versions.snapshot("before")
    engine.tables["a"].put([3], [3])
    engine.versions.branch("new").tables["a"].put([2], [2])
    engine.versions.rollback("before")
    assert promote(engine).conflicts == [
        "main has another state of a since 'new' was cut: it was promoted, rolled back or emptied, or never was that"
    ]


def rollback(engine: Engine, tables: Any = None, keys: Any = None) -> Plan:
    maps = engine.view_set.maps
    return plan_rollback(engine.view_set, maps["main"], maps["before"], tables, keys)


def test_a_rollback_exchanges_what_differs(engine: Engine) -> None:
    engine.versions.snapshot("before")
    assert rollback(engine) == Plan([], [], [])
    engine.tables["a"].put([2], [2])
    engine.keyspaces[0].put(b"k", b"2")
    engine.create_table("c", "i8")
    engine.drop_table("b")
    engine.create_table("b", "f4")
    assert rollback(engine) == Plan(["keyspace/0", "table/1", "table/2"], ["table/3", "table/4"], [])
    assert rollback(engine, ["b"]) == Plan(["table/2"], ["table/4"], [])
    assert rollback(engine, ["a"], True) == Plan(["keyspace/0", "table/1"], [], [])
    assert rollback(engine, keys=False).collections == ["table/1", "table/2"]
    with pytest.raises(UnknownNameError, match="has no table 'c'; it has: a, b"):
        rollback(engine, ["c"])


def test_an_undo_is_refused_only_for_what_it_would_drop(engine: Engine) -> None:
    engine.versions.snapshot("before")
    engine.tables["a"].put([2], [2])
    engine.versions.rollback("before", ["a"])
    engine.tables["b"].put([9], [9])
    assert plan_undo(engine.view_set) == Plan(["table/1"], [], [])
    engine.tables["a"].put([3, 4], [3, 4])
    engine.versions.snapshot("later")
    since = "since the promote or rollback that would be undone"
    assert plan_undo(engine.view_set).conflicts == [f"main has 2 writes in a {since}"]
    engine.drop_table("a")
    why = [f"main has no table a any more {since}"]
    assert plan_undo(engine.view_set) == Plan(["table/1"], [], why)
    engine.create_table("a", "f4")
    assert plan_undo(engine.view_set) == Plan(["table/1"], ["table/3"], [*why, f"main has another table a {since}"])


@pytest.mark.parametrize("name", ["", "a b", "-x", ".x", "x" * 129, "é", "a/b", "main", "undo", 7, b"v1"])
def test_bad_names_are_refused(name: Any) -> None:
    with pytest.raises(InvalidError):
        check_view_name(name)


def test_arguments_that_cannot_be_meant(engine: Engine, branch: OpenView) -> None:
    with pytest.raises(InvalidError, match="give a list of names"):
        promote(engine, "a")
    with pytest.raises(InvalidError, match="no keyspace 16"):
        promote(engine, keys=[16])
    with pytest.raises(UnknownNameError, match="has no table 'z'"):
        promote(engine, ["z"])
