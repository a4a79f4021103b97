"""Files as their own libraries read them, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
import safetensors.numpy

from pmkv_client.file_formats.batches import FileError
from pmkv_client.file_formats.writers import open_sink, whole_file

ROWS = np.random.default_rng(1).random((10, 3), np.float32)
IDS = np.arange(10) * 7
FIELDS = np.zeros(10, [("a", "f4"), ("b", "S3"), ("c", "i2", (2,))])


def write(path: Path, rows: np.ndarray = ROWS) -> None:
    dtype, shape = rows.dtype, rows.shape[1:]
    with whole_file(path) as part:
        sink = open_sink(part, path.suffix, "emb", dtype, shape, len(rows))
        sink.write(IDS[:4], rows[:4])
        sink.write(IDS[4:], rows[4:])
        sink.finish()
    assert sorted(path.parent.iterdir()) == [path]


def test_npy(tmp_path: Path) -> None:
    for rows in (ROWS, FIELDS):
        write(tmp_path / "x.npy", rows)
        assert np.array_equal(np.load(tmp_path / "x.npy"), rows)


def test_npz(tmp_path: Path) -> None:
    write(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as found:
        assert np.array_equal(found["ids"], IDS) and np.array_equal(found["rows"], ROWS)


def test_safetensors(tmp_path: Path) -> None:
    write(tmp_path / "x.safetensors")
    found = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert list(found) == ["emb"] and np.array_equal(found["emb"], ROWS)
    with pytest.raises(FileError, match="safetensors has no tensors of"):
        write(tmp_path / "x.safetensors", FIELDS)


def test_state_dict(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    write(tmp_path / "x.pt")
    assert np.array_equal(torch.load(tmp_path / "x.pt")["emb"].numpy(), ROWS)


def test_columns(tmp_path: Path) -> None:
    for suffix, read in ((".parquet", pyarrow.parquet.read_table), (".arrow", pyarrow.feather.read_table)):
        write(tmp_path / f"x{suffix}")
        assert read(tmp_path / f"x{suffix}").to_pydict() == {"id": IDS.tolist(), "row": ROWS.tolist()}
        write(tmp_path / f"x{suffix}", FIELDS)
        assert read(tmp_path / f"x{suffix}")["c"].to_pylist() == [[0, 0]] * 10
        (tmp_path / f"x{suffix}").unlink()
    write(tmp_path / "x.csv")
    assert pyarrow.csv.read_csv(tmp_path / "x.csv").column_names == ["id", "row_0", "row_1", "row_2"]


def test_nobody_meets_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(b"what was there")
    with pytest.raises(ZeroDivisionError), whole_file(path) as part:
        open_sink(part, ".npz", "emb", ROWS.dtype, (3,), 10).write(IDS, ROWS)
        raise ZeroDivisionError
    assert path.read_bytes() == b"what was there" and sorted(tmp_path.iterdir()) == [path]
    with pytest.raises(FileError, match="no format is known by"):
        open_sink(path, ".txt", "emb", ROWS.dtype, (3,), 10)
