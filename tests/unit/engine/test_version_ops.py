"""Version operations: what they refuse, what they leave alone, and who is told."""

from __future__ import annotations

import pytest

from pmkv.engine.engine import Engine
from pmkv.errors import ConflictError, ExistsError, InvalidError, UnknownViewError
from tests.engines import small_engine


@pytest.fixture
def engine() -> Engine:
    engine = small_engine()
    engine.create_table("t", "i8").put([1], [1])
    return engine


def test_a_change_of_main_is_told_once_each(engine: Engine) -> None:
    told: list[tuple[int, int]] = []
    engine.versions.on_main_changed = lambda: told.append(engine.main_changes)
    engine.versions.snapshot("s")
    engine.versions.branch("b").tables["t"].put([1], [2])
    engine.versions.promote("b")
    engine.versions.undo()
    engine.tables["t"].put([1], [3])
    engine.versions.rollback("s")
    assert [count for count, _ in told] == [1, 2, 3] and engine.tables["t"].get([1]).tolist() == [1]


def test_a_rollback_to_the_present_state_changes_nothing(engine: Engine) -> None:
    engine.versions.snapshot("s")
    lsn = engine.log.lsn
    engine.versions.rollback("s")
    assert engine.log.lsn == lsn and "undo" not in engine.views()


def test_what_cannot_be_done_is_refused_and_changes_nothing(engine: Engine) -> None:
    engine.versions.branch("b")
    lsn = engine.log.lsn
    for operation, error in (
        (lambda: engine.versions.snapshot("b"), ExistsError),
        (lambda: engine.versions.branch("b"), ExistsError),
        (lambda: engine.versions.promote("b"), InvalidError),
        (lambda: engine.versions.rollback("b"), InvalidError),
        (lambda: engine.versions.undo(), UnknownViewError),
        (lambda: engine.versions.delete_view("main"), InvalidError),
        (lambda: engine.versions.delete_view("nobody"), UnknownViewError),
    ):
        with pytest.raises(error):
            operation()
    assert engine.log.lsn == lsn


def test_a_conflict_is_refused_unless_forced(engine: Engine) -> None:
    engine.versions.branch("b").tables["t"].put([1], [2])
    engine.tables["t"].put([1], [3])
    with pytest.raises(ConflictError, match="with force, that is dropped"):
        engine.versions.promote("b")
    assert engine.tables["t"].get([1]).tolist() == [3]
    engine.versions.promote("b", force=True)
    assert engine.tables["t"].get([1]).tolist() == [2]


def test_a_rollback_says_whether_it_changed_anything(engine: Engine) -> None:
    engine.versions.snapshot("s")
    assert engine.versions.rollback("s") is False
    with pytest.raises(UnknownViewError, match="nothing to undo"):
        engine.versions.undo()
    engine.tables["t"].put([1], [2])
    assert engine.versions.rollback("s") is True
    assert engine.versions.rollback("s") is False
    engine.versions.undo()
    assert engine.tables["t"].get([1]).tolist() == [2]


def test_a_branch_whose_writes_main_lost_may_be_promoted_again(engine: Engine) -> None:
    """By a rollback, or by the promote of another branch; after an undo of that it need not be."""
    main, versions = engine.tables["t"], engine.versions
    versions.snapshot("s")
    first, second = versions.branch("first"), versions.branch("second")
    first.tables["t"].put([1], [10])
    second.tables["t"].put([1], [20])
    versions.promote("first")
    for lose in (lambda: versions.rollback("s"), lambda: versions.promote("second", force=True)):
        lose()
        assert main.get([1]).tolist() != [10]
        versions.undo()
        with pytest.raises(InvalidError, match="nothing to promote"):
            versions.promote("first")
        lose()
        versions.promote("first", force=main.get([1]).tolist() == [20])
        assert main.get([1]).tolist() == [10]


def test_a_promote_after_a_rollback_drops_no_later_writes(engine: Engine) -> None:
    versions, keys = engine.versions, engine.keyspaces[0]
    keys.put(b"k", b"1")
    versions.snapshot("s")
    branch = versions.branch("b")
    branch.keyspace(0).clear()
    branch.tables["t"].put([1], [10])
    versions.promote("b")
    keys.put(b"k", b"2")
    versions.rollback("s")
    engine.tables["t"].put([2], [2])
    with pytest.raises(ConflictError, match="main has 1 writes in t since 'b' was cut"):
        versions.promote("b")
    versions.promote("b", tables=[], keys=True)
    assert keys.get(b"k") is None and engine.tables["t"].get([1, 2]).tolist() == [1, 2]
    engine.check()
