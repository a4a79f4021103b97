"""Tables as the integrations use them, and steps that are written as a whole, embedded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import pmkv
import pmkv_client
from pmkv_client import row_source
from pmkv_client.row_source import RowSource, finish_step, journal_key, open_store, step_key, write_step
from tests.served import served


@pytest.fixture
def store() -> Iterator[pmkv.Store]:
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as opened:
        yield opened


def test_a_table_is_made_once_and_keeps_its_rows(store: pmkv.Store) -> None:
    first = RowSource(store, "t", 10, 3)
    first.put(np.array([1]), np.ones((1, 3), "f4"))
    again = RowSource(store, "t", 10, 3)
    assert again.get(np.array([1, 2])).tolist() == [[1, 1, 1], [0, 0, 0]]
    assert not again.is_whole() and list(again.batches()) == [(0, 10)]
    with pytest.raises(pmkv.errors.ExistsError):
        RowSource(store, "t", 10, 4)


def test_ids_are_checked() -> None:
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as store:
        source = RowSource(store, "t", 10, 3)
        for bad in (-1, 10):
            with pytest.raises(IndexError, match=f"index {bad} is out of range: table 't' has 10 rows"):
                source.check(np.array([0, bad]))


def test_a_table_alone_is_a_source_without_steps(store: pmkv.Store) -> None:
    table = store.create_table("t", ("f4", 3), rows=10)
    source = RowSource(table, "another name", 10, 3)
    write_step(source.store, [(source, np.array([2]), np.ones((1, 3), "f4"))])
    assert source.name == "t" and table.get([2]).tolist() == [[1, 1, 1]]
    with pytest.raises(ValueError, match="give the store"):
        write_step(source.store, [], "run", 1)
    with pytest.raises(ValueError, match="asked for was"):
        RowSource(table, "t", 10, 4)


def test_a_view_is_a_store(store: pmkv.Store) -> None:
    branch = store.branch("b")
    source = RowSource(branch, "t", 4, 2)
    write_step(branch, [(source, np.array([3]), np.ones((1, 2), "f4"))], "run", 1)
    assert finish_step(branch, "run", {}) == (1, b"") and finish_step(store, "run", {}) == (0, b"")


def test_open_store() -> None:
    assert open_store(store := object()) is store
    client = open_store("pmkv://h:1")
    assert client.connection_pool.connection_kwargs["port"] == 1


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served("--pool", ":memory:", "--capacity", "256MiB") as running:
        yield f"pmkv://127.0.0.1:{running.port}"


@pytest.fixture(params=["embedded", "network"])
def place(request: pytest.FixtureRequest, store: pmkv.Store, url: str) -> Iterator[Any]:
    """A store, embedded or over the network."""
    if request.param == "embedded":
        yield store
        return
    with pmkv_client.connect(url) as client:
        yield client
        for name in client.tables():
            client.drop_table(name)
        client.flushall()


@pytest.mark.parametrize("limit", [row_source.ATOMIC_BYTES, 0], ids=["a transaction", "a journal"])
def test_a_step_is_rows_and_its_number(place: Any, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = place
    monkeypatch.setattr(row_source, "ATOMIC_BYTES", limit)
    one, two = RowSource(store, "one", 10, 2), RowSource(store, "two", 10, 1, "f8")
    writes = [(one, np.array([1, 2]), np.ones((2, 2))), (two, np.array([9]), np.full((1, 1), 0.1))]
    write_step(store, writes, "run", 7, b"dense\npart")
    assert finish_step(store, "run", {}) == (7, b"dense\npart")
    assert one.get(np.array([2, 3])).tolist() == [[1, 1], [0, 0]] and two.get(np.array([9])).item() == 0.1
    assert store.get(journal_key("run")) is None


def test_a_step_that_broke_off_is_finished(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = place
    monkeypatch.setattr(row_source, "ATOMIC_BYTES", 0)
    one, two = RowSource(store, "one", 10, 2), RowSource(store, "two", 10, 2)
    writes = [(source, np.array([1]), np.full((1, 2), 5.0, "f4")) for source in (one, two)]

    def breaks(store: object, some: row_source.Writes) -> None:
        some[0][0].put(*some[0][1:])
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(row_source, "_write_in_pieces", breaks)
        with pytest.raises(KeyboardInterrupt):
            write_step(store, writes, "run", 3, b"x")
    assert store.get(step_key("run")) is None and not two.get(np.array([1])).any()
    assert finish_step(store, "run", {"one": one, "two": two}) == (3, b"x")
    assert two.get(np.array([1])).tolist() == [[5, 5]] and store.get(journal_key("run")) is None


def test_a_journal_has_a_limit(store: pmkv.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_source, "ATOMIC_BYTES", 0)
    monkeypatch.setattr(row_source, "JOURNAL_BYTES", 100)
    source = RowSource(store, "t", 100, 2)
    with pytest.raises(ValueError, match="use smaller batches"):
        write_step(store, [(source, np.arange(20), np.ones((20, 2), "f4"))], "run", 1)
    assert not source.get(np.arange(20)).any()


def test_who_reads_ahead_is_told_what_was_written(store: pmkv.Store) -> None:
    source = RowSource(store, "t", 10, 2)
    source.put(np.array([1]), np.ones((1, 2)))
    assert source.changes.written == []
    source.changes.watchers = 1
    write_step(store, [(source, np.array([4]), np.ones((1, 2)))])
    assert [ids.tolist() for ids in source.changes.written] == [[4]]


def test_rows_are_kept_until_something_is_written(store: pmkv.Store) -> None:
    source, ids = RowSource(store, "t", 10, 2), np.array([1, 4])
    source.keep(ids, rows := source.get(ids))
    assert source.kept(ids) is rows and source.kept(np.array([1, 5])) is None and source.kept(ids[:1]) is None
    source.put(np.array([7]), np.ones((1, 2), "f4"))
    assert source.kept(ids) is None
