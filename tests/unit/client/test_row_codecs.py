"""Tables with a codec through the client: the same bytes as embedded, over each command, and what is near enough."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from redis.exceptions import ResponseError

import pmkv_client
from pmkv.engine.row_codecs import checked_codec
from pmkv_client.deltas import export_delta, import_delta
from pmkv_client.file_formats.batches import FileError
from pmkv_client.loaders import FileOptions, export_table, import_files, verify
from pmkv_client.row_codecs import encoded_row, is_near
from tests.served import Served, served

CODECS = ["f2", "bfloat16", "float8_e4m3fn", "int8", "int4"]
each = pytest.mark.parametrize("name", CODECS)
ROWS = np.random.default_rng(1).normal(size=(30, 6)).astype("f4")
IDS = np.arange(30)


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


@each
def test_a_table_gives_what_the_engine_makes_of_the_rows(client: pmkv_client.Client, name: str) -> None:
    table = client.create_table("t", ("f4", 6), codec=name)
    codec = checked_codec(name, ("f4", 6))
    assert (table.codec, table.stored, table.dtype, table.shape) == (name, codec.width, np.float32, (6,))
    table.put(IDS, ROWS)
    raw = codec.encode(ROWS, "")
    assert table.get(IDS).tobytes() == codec.decode(raw, (30,)).tobytes()
    stored, found = table.get(IDS, encoded=True, return_found=True)
    assert stored.tobytes() == raw.tobytes() and stored.dtype == codec.stored.base and found.all()
    assert table.pool(IDS, [0, 9]).tobytes() == codec_pool(codec, raw).tobytes()
    other = client.create_table("other", ("f4", 6), codec=name)
    other.put(IDS, stored)
    other.put(IDS + 30, stored, encoded=True)
    assert other.get([*IDS, *(IDS + 30)]).tobytes() == 2 * table.get(IDS).tobytes()
    scanned = dict(
        pair for ids, rows in table.scan(encoded=True) for pair in zip(ids.tolist(), (row.tobytes() for row in rows))
    )
    assert scanned == {one: row.tobytes() for one, row in enumerate(stored)}


def codec_pool(codec: object, raw: np.ndarray) -> np.ndarray:
    found, none = np.ones(30, np.uint8), np.empty(0, np.float32)
    return codec.pool(raw, found, none, "sum", np.array([0, 9]), np.dtype("f4"))  # type: ignore[attr-defined]


def test_asyncio_has_the_same_arguments(server: Served, client: pmkv_client.Client) -> None:
    async def work() -> np.ndarray:
        async with pmkv_client.AsyncClient("127.0.0.1", server.port) as there:
            table = await there.create_table("t", ("f4", 6), codec="int8")
            await table.put(IDS, ROWS)
            await table.put(IDS, await table.get(IDS, encoded=True), encoded=True)
            assert [rows.shape[1] async for _, rows in table.scan(encoded=True)] == [14]
            return await table.get(IDS)

    assert asyncio.run(work()).tobytes() == client.table("t").get(IDS).tobytes()


def test_layouts_that_differ_are_refused(client: pmkv_client.Client) -> None:
    client.create_table("t", ("f4", 6), codec="bf16")
    assert client.create_table("t", ("f4", 6), codec="bfloat16", exist_ok=True).codec == "bfloat16"
    with pytest.raises(ResponseError, match=r"codec=bfloat16; asked for was .* codec=int8"):
        client.create_table("t", ("f4", 6), codec="int8", exist_ok=True)
    with pytest.raises(ResponseError, match="choose one of"):
        client.create_table("u", ("f4", 6), codec="int3")
    table = client.create_table("q", ("f4", 6), codec="int8")
    with pytest.raises(ResponseError, match="cannot be quantised"):
        table.put([1], [[np.nan] * 6])


@each
def test_deltas_carry_rows_as_they_are_stored(client: pmkv_client.Client, tmp_path: Path, name: str) -> None:
    source = client.create_table("source", ("f4", 6), codec=name)
    source.put(IDS, ROWS)
    first = export_delta(client, "source", tmp_path / "0.delta")
    source.put(IDS[:3], ROWS[:3] * 2)
    export_delta(client, "source", tmp_path / "1.delta", since=first.at)
    for number in range(2):
        import_delta(client, tmp_path / f"{number}.delta", table="sink")
    sink = client.table("sink")
    assert sink.codec == name and sink.get(IDS, encoded=True).tobytes() == source.get(IDS, encoded=True).tobytes()
    client.create_table("plain", ("f4", 6))
    with pytest.raises(FileError, match=f"in {name}, and table 'plain' holds"):
        import_delta(client, tmp_path / "0.delta", table="plain")


@each
def test_files_are_imported_verified_and_exported(client: pmkv_client.Client, tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "rows.npy", ROWS)
    options = FileOptions(codec=name)
    import_files(client, "t", [tmp_path / "rows.npy"], options)
    table = client.table("t")
    assert table.codec == name and verify(client, "t", [tmp_path / "rows.npy"]) == 30
    export_table(client, "t", tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").tobytes() == table.get(IDS).tobytes()
    table.put([7], ROWS[7:8] * np.float32(1.5))
    with pytest.raises(FileError, match="the row of id 7 is another one"):
        verify(client, "t", [tmp_path / "rows.npy"])


def test_files_of_quantised_rows_are_taken_as_they_are(client: pmkv_client.Client, tmp_path: Path) -> None:
    table = client.create_table("t", ("f4", 6), codec="int8")
    fused = checked_codec("int8", ("f4", 6)).encode(ROWS, "").reshape(30, 14)
    np.save(tmp_path / "fused.npy", fused)
    import_files(client, "t", [tmp_path / "fused.npy"])
    assert table.get(IDS, encoded=True).tobytes() == fused.tobytes()
    assert verify(client, "t", [tmp_path / "fused.npy"]) == 30


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("factor", [1e-9, 1e-3, 1, 1e4])
def test_what_is_near_enough(name: str, factor: float) -> None:
    rows = (ROWS * factor).astype("f4") + np.float32(factor)
    codec = checked_codec(name, ("f4", 6))
    raw = codec.encode(rows, "")
    lines, decoded = raw.reshape(30, -1), codec.decode(raw, (30,))
    assert is_near(name, rows, lines, decoded).all()
    if factor >= 1e-3:
        other = rows.copy()
        other[:, 2] += np.float32(0.5 * factor)
        assert not is_near(name, other, lines, decoded).any()


def test_layouts_of_encoded_rows() -> None:
    assert encoded_row("int8", (2, 3), 14) == ("u1", (14,))
    assert encoded_row("bfloat16", (2, 3), 12) == ("bfloat16", (2, 3))
