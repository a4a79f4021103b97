"""Publishing: one version with everything in it, or `main` as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pmkv_client
from pmkv_client import publishing
from pmkv_client.deltas import export_delta
from pmkv_client.file_formats.batches import FileError
from pmkv_client.publishing import CheckFailedError, Plan, publish
from tests.served import Served, served

OLD, NEW = np.zeros((100, 2), "f4"), np.ones((100, 2), "f4")


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served("--pool", ":memory:", "--capacity", "256MiB") as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[pmkv_client.Client]:
    with pmkv_client.connect(f"pmkv://127.0.0.1:{server.port}") as connected:
        connected.create_table("items", ("f4", 2)).put(range(100), OLD)
        yield connected
        for view in set(connected.views()) - {"main"}:
            connected.delete_view(view)
        for name in connected.tables():
            connected.drop_table(name)
        connected.flushall()


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    np.save(tmp_path / "x.npy", NEW)
    (tmp_path / "dense").write_bytes(b"weights\xff" * 1000)
    return Plan("items", [tmp_path / "x.npy"], dense={"model": tmp_path / "dense"}, verified=None)


def is_new(client: pmkv_client.Client) -> bool:
    """Is all of it new? Rows and the dense part are of one version."""
    rows = client.table("items").get(range(100))
    with pmkv_client.Client(port=client.connection_pool.connection_kwargs["port"], db=1) as dense:
        assert (dense.get("model") is not None) == bool(rows.all())
    return bool(rows.all())


def test_a_good_model_is_promoted(client: pmkv_client.Client, plan: Plan) -> None:
    asked = []

    def check(view: str) -> bool:
        asked.append((view.partition("-")[0], is_new(client)))
        return True

    done = publish(client, plan, check)
    assert asked == [("publish", False), ("main", True)] and (done.rows, done.verified) == (100, 100)
    assert is_new(client) and set(client.views()) == {"main", "undo"} and done.version == client.version[0]


def test_a_model_that_a_check_refuses_is_never_seen(client: pmkv_client.Client, plan: Plan) -> None:
    number = client.version[0]
    with pytest.raises(CheckFailedError, match="`main` was not changed"):
        publish(client, plan, lambda view: False)
    assert not is_new(client) and client.version[0] == number and set(client.views()) <= {"main", "undo"}


def test_a_model_that_fails_afterwards_is_rolled_back(client: pmkv_client.Client, plan: Plan) -> None:
    left = [3]

    def check(view: str) -> bool:
        left[0] -= 1
        return left[0] > 0

    slow = Plan(**{**vars(plan), "watch": 60.0, "every": 0.01})
    with pytest.raises(CheckFailedError, match="`main` has what it had before again"):
        publish(client, slow, check)
    assert not is_new(client) and left == [0]


def test_nothing_is_undone_after_somebody_elses_promote(client: pmkv_client.Client, plan: Plan) -> None:
    def check(view: str) -> bool:
        if view == "main":
            client.create_table("mine", "f4")
            with client.branch("theirs") as branch:
                branch.table("mine").put([1], [1])
            client.promote("theirs")
        return view != "main"

    with pytest.raises(CheckFailedError, match="nothing was undone"):
        publish(client, plan, check)
    assert is_new(client)


def test_a_load_that_differs_from_the_file_is_not_promoted(
    client: pmkv_client.Client, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = publishing.import_files

    def lossy(view: pmkv_client.Client, *arguments: object, **options: object) -> object:
        done = load(view, *arguments, **options)  # type: ignore[arg-type]
        view.table("items").delete([77])
        return done

    monkeypatch.setattr(publishing, "import_files", lossy)
    with pytest.raises(FileError, match="the row of id 77 is missing"):
        publish(client, plan)
    assert not is_new(client) and set(client.views()) <= {"main", "undo"}


def test_a_conflict_changes_nothing(client: pmkv_client.Client, plan: Plan) -> None:
    def check(view: str) -> bool:
        client.table("items").put([5], [[7, 7]])
        return True

    with pytest.raises(pmkv_client.ConflictError):
        publish(client, plan, check)
    assert not is_new(client)


def test_files_without_rows_are_no_model(client: pmkv_client.Client, tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", OLD[:0])
    with pytest.raises(FileError, match="no rows are there, and nothing was published"):
        publish(client, Plan("items", [tmp_path / "none.npy"]))
    assert set(client.views()) == {"main"}


def test_branches_of_publishes_that_were_killed_are_known(client: pmkv_client.Client) -> None:
    client.branch("publish-1a").close()
    client.branch("mine").close()
    client.snapshot("publish-of-mine")
    assert publishing.branches_left(client) == ["publish-1a"]


def test_deltas_are_published(client: pmkv_client.Client, plan: Plan, tmp_path: Path) -> None:
    first = export_delta(client, "items", tmp_path / "1.delta")
    client.table("items").put([3], [[9, 9]])
    export_delta(client, "items", tmp_path / "2.delta", since=first.at)
    done = publish(client, Plan("mirror", [tmp_path / "1.delta", tmp_path / "2.delta"]))
    assert done.rows == 101 and client.table("mirror").get(3).tolist() == [9, 9]
