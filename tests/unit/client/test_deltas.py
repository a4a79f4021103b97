"""Deltas: what they hold, and that a gap, a repeat, another order and damage are refused before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pmkv_client
from pmkv_client.deltas import DeltaFile, export_delta, import_delta
from pmkv_client.file_formats.batches import FileError
from tests.served import Served, served

ROWS = np.random.default_rng(1).random((1000, 4), np.float32)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served("--pool", ":memory:", "--capacity", "512MiB") as running:
        yield running


@pytest.fixture
def client(server: Served) -> Iterator[pmkv_client.Client]:
    with pmkv_client.connect(f"pmkv://127.0.0.1:{server.port}") as connected:
        yield connected
        for view in set(connected.views()) - {"main"}:
            connected.delete_view(view)
        for name in connected.tables():
            connected.drop_table(name)


def content(table: pmkv_client.Table) -> dict[int, list[float]]:
    return {int(one): row.tolist() for ids, rows in table.scan() for one, row in zip(ids, rows, strict=True)}


@pytest.fixture
def chain(client: pmkv_client.Client, tmp_path: Path) -> list[Path]:
    """Four deltas, of which the first has the whole table."""
    source = client.create_table("source", ("f4", 4))
    source.put(np.arange(1000), ROWS)
    paths, at = [tmp_path / f"{number}.delta" for number in range(4)], None
    for number, path in enumerate(paths):
        report = export_delta(client, "source", path, since=at)
        assert (report.changed, report.deleted) == ((1000, 0) if number == 0 else (number, 1))
        at = report.at
        source.put(np.arange(number + 1) * 10 + 500, ROWS[: number + 1] + 1)
        source.delete([number])
    return paths


def test_deltas_in_order_make_the_table(client: pmkv_client.Client, chain: list[Path]) -> None:
    for path in chain:
        import_delta(client, path, table="sink")
        with client.view(DeltaFile(path).header.at) as then:
            assert content(client.table("sink")) == content(then.table("source"))


@pytest.mark.parametrize(
    ("order", "words"),
    [([0, 1, 3], "a delta between is missing, or this one is out of order"), ([0, 2], "is missing"),
     ([0, 1, 1], "has this delta already"), ([0, 1, 2, 1], "out of order"),
     ([1], "begin with a delta of the whole table"), ([0, 1, 0], "it is a whole table, and deltas were applied")],
)  # fmt: skip
def test_other_orders_are_refused(client: pmkv_client.Client, chain: list[Path], order: list[int], words: str) -> None:
    for number in order[:-1]:
        import_delta(client, chain[number], table="sink")
    before = content(client.table("sink")) if len(order) > 1 else None
    with pytest.raises(FileError, match=words):
        import_delta(client, chain[order[-1]], table="sink")
    assert before is None or content(client.table("sink")) == before


def test_damage_is_refused_before_anything_is_written(client: pmkv_client.Client, chain: list[Path]) -> None:
    import_delta(client, chain[0], table="sink")
    before, whole = content(client.table("sink")), chain[1].read_bytes()
    rng = np.random.default_rng(2)
    for place in rng.integers(0, len(whole), 40):
        broken = bytearray(whole)
        broken[place] ^= 1 << rng.integers(8)
        chain[1].write_bytes(broken)
        with pytest.raises(FileError):
            import_delta(client, chain[1], table="sink")
    for size in (0, 5, 30, len(whole) // 2, len(whole) - 13, len(whole) - 1):
        chain[1].write_bytes(whole[:size])
        with pytest.raises(FileError, match=r"cut off|no delta"):
            import_delta(client, chain[1], table="sink")
    assert content(client.table("sink")) == before
    chain[1].write_bytes(whole)
    import_delta(client, chain[1], table="sink")


def test_an_import_goes_with_its_view(client: pmkv_client.Client, chain: list[Path]) -> None:
    import_delta(client, chain[0], table="sink")
    client.snapshot("before")
    with client.branch("next") as branch:
        import_delta(branch, chain[1], table="sink")
    client.promote("next")
    import_delta(client, chain[2], table="sink")
    client.rollback("before")
    for path in chain[1:]:  # the state went back together with the rows
        import_delta(client, path, table="sink")


def test_what_a_delta_needs(client: pmkv_client.Client, chain: list[Path], tmp_path: Path) -> None:
    client.branch("b").close()
    with pytest.raises(FileError, match="'b' is a branch, and goes on changing"):
        export_delta(client, "source", tmp_path / "x.delta", since="b")
    client.create_table("other", ("f4", 3))
    with pytest.raises(FileError, match="and table 'other' holds"):
        import_delta(client, chain[0], table="other")
