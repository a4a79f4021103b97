"""Parquet, Arrow and CSV: columns as pyarrow wrote them, and what is damaged or missing is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest

from pmkv_client.file_formats import column_files
from pmkv_client.file_formats.batches import FileError
from pmkv_client.file_formats.column_files import ColumnSource, column_array

N = 1000
EMB = np.random.default_rng(1).random((N, 4), np.float32)
LISTS = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(EMB.reshape(-1)), 4)
TABLE = pyarrow.table({"id": np.arange(N) * 2, "price": np.arange(N) / 2, "emb": LISTS})


def written(path: Path, kind: str, table: pyarrow.Table = TABLE) -> Path:
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=300, write_page_checksum=True)
    elif kind == "arrow":
        pyarrow.feather.write_feather(table, path, chunksize=300)
    else:
        pyarrow.csv.write_csv(table, path)
    return path


@pytest.mark.parametrize("kind", ["parquet", "arrow", "csv"])
@pytest.mark.parametrize("skip", [0, 450, 600, N])
def test_columns(tmp_path: Path, kind: str, skip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_files, "BATCH_BYTES", 100 * 32)
    monkeypatch.setattr(column_files, "CSV_BLOCK_BYTES", 1000)
    table = TABLE.drop_columns(["emb"]) if kind == "csv" else TABLE
    source = ColumnSource(written(tmp_path / "x", kind, table), kind)
    assert source.count in (N, None)
    found = list(source.batches(skip))
    assert [one.start for one in found] == [skip + sum(b.count for b in found[:i]) for i in range(len(found))]
    assert [id for one in found for id in one.ids.tolist()] == list(range(2 * skip, 2 * N, 2))
    assert [price for one in found for price in one.columns["price"].tolist()] == [n / 2 for n in range(skip, N)]
    if kind != "csv" and found:
        assert np.array_equal(np.concatenate([one.columns["emb"] for one in found]), EMB[skip:])
        assert max(one.count for one in found) <= 133


def test_only_named_columns_are_read(tmp_path: Path) -> None:
    source = ColumnSource(written(tmp_path / "x", "parquet"), "parquet", "price", ["emb"])
    batch = next(source.batches(0))
    assert list(batch.columns) == ["emb"] and batch.ids.dtype == np.float64


def test_damage_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "x", "parquet")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 4] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(FileError, match="damaged behind row"):
        list(ColumnSource(path, "parquet").batches(0))
    for kind in ("parquet", "arrow"):
        path.write_bytes(b"nothing of this kind")
        with pytest.raises(FileError, match=f"no {kind} file"):
            ColumnSource(path, kind)


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (pyarrow.array([1, 2], pyarrow.uint16()), [1, 2]), (pyarrow.array([True, False]), [True, False]),
        (pyarrow.array(["a", "b"]), ["a", "b"]), (pyarrow.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
        (pyarrow.array([[1.0, 2.0], [3.0, 4.0]]), [[1, 2], [3, 4]]),
        (pyarrow.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).slice(1), [[3, 4], [5, 6]]),
        (LISTS.slice(3, 2), EMB[3:5].tolist()),
        (pyarrow.array([[[1, 2]], [[3, 4]]], pyarrow.list_(pyarrow.list_(pyarrow.int8(), 2), 1)), [[[1, 2]], [[3, 4]]]),
    ],
    ids=str,
)  # fmt: skip
def test_arrow_columns_become_arrays(column: pyarrow.Array, wanted: list) -> None:
    assert column_array(column, "c").tolist() == wanted


@pytest.mark.parametrize(
    ("column", "words"),
    [(pyarrow.array([1, None]), "1 missing values"), (pyarrow.array([[1], [2, 3]]), "several lengths")],
)
def test_columns_that_cannot_be_rows(column: pyarrow.Array, words: str) -> None:
    with pytest.raises(FileError, match=words):
        column_array(column, "c")
