"""Versions through the public faces: a store, its branches and snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pmkv
from pmkv.errors import ConflictError, ExistsError, InvalidError, ReadOnlyError, UnknownNameError, UnknownViewError


@pytest.fixture
def store() -> Iterator[pmkv.Store]:
    with pmkv.open(pool=":memory:", capacity="256MiB") as store:
        store.create_table("items", ("f4", 2)).put([1, 2], np.ones((2, 2)))
        store.put(b"user", b"1")
        yield store


def test_a_model_is_published_and_taken_back(store: pmkv.Store) -> None:
    items = store.table("items")
    canary = store.branch("canary")
    canary.table("items").put([1], [[5, 5]])
    canary.keyspace(3).put(b"dense", b"blob 2")
    store.put(b"user", b"2")
    assert items.get([1]).tolist() == [[1, 1]] and canary.get(b"user") == b"1"
    store.promote("canary")
    assert items.get([1]).tolist() == [[5, 5]] and store.keyspace(3).get(b"dense") == b"blob 2"
    assert store.get(b"user") == b"2", "nothing of others is dropped"
    assert store.version[0] == 1 and store.view("undo").table("items").get([1]).tolist() == [[1, 1]]
    store.put(b"user", b"3")
    store.undo()
    assert items.get([1]).tolist() == [[1, 1]] and store.keyspace(3).get(b"dense") is None
    assert store.get(b"user") == b"3" and store.version[0] == 2
    with pytest.raises(UnknownViewError, match="nothing to undo"):
        store.undo()
    store.check()


def test_a_version_is_told_when_it_is_shown(store: pmkv.Store) -> None:
    store.branch("canary").table("items").put([1], [[5, 5]])
    with store.deferred() as writer:
        store.promote("canary")
    with store.deferred() as reader:
        assert store.table("items").get([1]).tolist() == [[1, 1]] and reader.lsn == 0
        assert store.version[0] == 1 and reader.lsn >= writer.lsn
        assert store.table("items").get([1]).tolist() == [[5, 5]]
    store.wait(reader.lsn)
    assert store.table("items").get([1]).tolist() == [[5, 5]]


def test_conflicts_name_what_and_how_many(store: pmkv.Store) -> None:
    store.branch("canary").table("items").put([1], [[5, 5]])
    store.table("items").put([7, 8, 9], np.ones((3, 2)))
    with pytest.raises(ConflictError, match="main has 3 writes in items since 'canary' was cut"):
        store.promote("canary")
    assert store.version[0] == 0 and store.table("items").get([7]).tolist() == [[1, 1]]
    store.promote("canary", force=True)
    assert store.table("items").get([7, 1]).tolist() == [[0, 0], [5, 5]]
    store.table("items").put([7], [[2, 2]])
    with pytest.raises(ConflictError, match="1 writes in items since the promote"):
        store.undo()
    store.undo(force=True)
    assert store.table("items").get([7, 1]).tolist() == [[1, 1], [1, 1]]


def test_what_changes_nothing_keeps_the_way_back(store: pmkv.Store) -> None:
    store.snapshot("v1")
    branch = store.branch("b")
    with pytest.raises(InvalidError, match="nothing to promote: branch 'b' wrote nothing"):
        store.promote("b")
    branch.table("items").put([1], [[5, 5]])
    store.promote("b")
    with pytest.raises(InvalidError, match="wrote nothing"):  # sent again
        store.promote("b")
    store.rollback("v1")
    store.rollback("v1")  # sent again
    assert store.version[0] == 2
    store.undo()
    assert store.table("items").get([1]).tolist() == [[5, 5]]


def test_an_undo_uses_up_what_it_undoes_though_nothing_is_left_to_change(store: pmkv.Store) -> None:
    store.branch("b").create_table("new", "i8")
    store.promote("b")
    store.drop_table("new")
    store.undo()
    assert store.version[0] == 2 and "undo" not in store.views() and list(store.tables()) == ["items"]
    with pytest.raises(UnknownViewError, match="nothing to undo"):
        store.undo()


def test_what_was_undone_may_be_promoted_again(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity="256MiB") as store:
        items = store.create_table("items", "i8")
        items.put([1], [1])
        branch = store.branch("b")
        branch.table("items").put([1], [2])
        branch.create_table("new", "i8")
        store.promote("b")
        store.checkpoint()
    with pmkv.open(tmp_path) as store:
        items = store.table("items")
        store.undo()
        assert items.get([1]).tolist() == [1] and list(store.tables()) == ["items"]
        store.promote("b")
        assert items.get([1]).tolist() == [2] and sorted(store.tables()) == ["items", "new"]
        store.undo()
        items.put([7], [7])
        with pytest.raises(ConflictError, match="main has 1 writes in items"):
            store.promote("b")


def test_a_branch_is_written_like_a_store(store: pmkv.Store) -> None:
    branch = store.branch("b", at="main")
    branch.put_many({b"x": b"1", b"y": b"2"})
    assert branch.get_many([b"x", b"user"]) == [b"1", b"1"] and store.get(b"x") is None
    with branch.transaction() as txn:
        txn.put(b"z", b"3")
        txn.table("items").put([9], [[9, 9]])
    assert list(branch.scan()) == [(b"user", b"1"), (b"x", b"1"), (b"y", b"2"), (b"z", b"3")]
    assert branch.delete(b"x") and branch.gather({"items": [9, 1]})["items"].tolist() == [[9, 9], [1, 1]]
    assert branch.pool({"items": ([1, 9], [0])})["items"].tolist() == [[10, 10]]
    branch.create_table("new", "i8")
    assert sorted(branch.tables()) == ["items", "new"] and sorted(store.tables()) == ["items"]
    branch.drop_table("items")
    branch.snapshot("of-b")
    branch.flush_all()
    assert branch.get(b"y") is None and store.view("of-b").get(b"y") == b"2"
    branch.rollback("of-b")
    assert branch.get(b"y") == b"2"
    info = branch.info
    assert (info.name, info.kind, info.base, info.tables) == ("b", "branch", "main", 1) and info.created > 1_700_000_000
    store.check()


def test_snapshots_stay_what_they_are(store: pmkv.Store) -> None:
    store.snapshot("v1")
    store.drop_table("items")
    store.create_table("items", "i8").put([1], [7])
    store.flush_all()
    old = store.view("v1")
    assert old.table("items").get([1, 2]).tolist() == [[1, 1], [1, 1]] and old.get(b"user") == b"1"
    assert len(old.table("items")) == 2 and old.kind == "snapshot" and list(old.scan()) == [(b"user", b"1")]
    with pytest.raises(ReadOnlyError, match="'v1' is a snapshot"):
        old.put(b"a", b"b")
    store.rollback("v1", tables=["items"])
    assert store.table("items").get([1]).tolist() == [[1, 1]] and store.get(b"user") is None
    store.rollback("v1")
    assert store.get(b"user") == b"1"


def test_names(store: pmkv.Store) -> None:
    store.snapshot("v1")
    with pytest.raises(ExistsError, match="a view 'v1' already, a snapshot"):
        store.branch("v1")
    for use in (
        lambda: store.view("v2"), lambda: store.branch("b", at="v2"), lambda: store.rollback("v2"),
        lambda: store.promote("v2"), lambda: store.delete_view("v2"), lambda: store.view_info("v2"),
    ):  # fmt: skip
        with pytest.raises(UnknownViewError, match="no view 'v2'; there are: main, v1"):
            use()
    for use in (
        lambda: store.delete_view("main"), lambda: store.snapshot("main"), lambda: store.snapshot("undo"),
        lambda: store.promote("v1"), lambda: store.rollback("main"),
    ):  # fmt: skip
        with pytest.raises(InvalidError):
            use()
    with pytest.raises(UnknownNameError):
        store.rollback("v1", tables=["nothing"])
    assert list(store.views()) == ["main", "v1"] and store.view("main") is store


def test_views_live_through_restarts(tmp_path: Path) -> None:
    for checkpoint in (False, True):
        path = tmp_path / str(checkpoint)
        with pmkv.open(path, capacity="256MiB") as store:
            store.create_table("items", "i8").put([1], [1])
            store.snapshot("v1")
            branch = store.branch("b")
            branch.table("items").put([2], [2])
            store.promote("b")
            if checkpoint:
                store.checkpoint()
            branch.table("items").put([3], [3])
            views = store.views()
            store.close(checkpoint=checkpoint)
        with pmkv.open(path) as store:
            assert store.views() == views and store.version[0] == 1
            assert store.view("b").table("items").get([1, 2, 3]).tolist() == [1, 2, 3]
            assert store.table("items").get([1, 2, 3]).tolist() == [1, 2, 0]
            store.undo()
            assert store.table("items").get([1, 2]).tolist() == [1, 0]
            store.promote("b")
            assert store.table("items").get([1, 2, 3]).tolist() == [1, 2, 3]
            for name in ("b", "v1"):
                store.delete_view(name)
            store.check()
            store.checkpoint()
            store.check()


def test_who_waits_for_a_version_is_told(store: pmkv.Store) -> None:
    told: list[tuple[int, int]] = []
    store.on_switch(lambda: told.append(store.main_changes))
    store.snapshot("v1")
    store.put(b"user", b"2")
    store.rollback("v1")
    store.undo()
    store.view("v1")
    store.branch("b").rollback("v1")
    assert [count for count, _ in told] == [1, 2] and told[-1] == store.main_changes
