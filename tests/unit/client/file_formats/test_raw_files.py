"""npy, npz, safetensors and state dicts: rows as their own libraries wrote them, and damage that is named."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from pmkv_client.file_formats import batches
from pmkv_client.file_formats.raw_files import (
    FileError,
    NpzSource,
    RawSource,
    npy_extent,
    one_tensor,
    safe_extents,
    safe_parts,
    torch_extents,
)
from pmkv_client.file_formats.writers import safe_head

ROWS = np.random.default_rng(1).random((1000, 8), np.float32)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_BYTES", 128 * 32)  # 128 rows


def read(source: object, skip: int = 0) -> np.ndarray:
    found = list(source.batches(skip))  # type: ignore[attr-defined]
    assert [batch.start for batch in found] == list(range(skip, source.count, 128))  # type: ignore[attr-defined]
    return np.concatenate([batch.columns["row"] for batch in found])


def test_npy(tmp_path: Path) -> None:
    np.save(path := tmp_path / "x.npy", ROWS)
    source = RawSource(npy_extent(path))
    assert source.count == 1000 and np.array_equal(read(source), ROWS) and np.array_equal(read(source, 300), ROWS[300:])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileError, match=r"it has 32,127 bytes, and the array ends at 32,128: it was cut off"):
        RawSource(npy_extent(path))


def test_structured_npy(tmp_path: Path) -> None:
    rows = np.zeros(3, [("id", "i8"), ("price", "f4"), ("tag", "S2")])
    rows["id"], rows["price"] = [5, 6, 7], [1, 2, 3]
    np.save(path := tmp_path / "x.npy", rows)
    (batch,) = RawSource(npy_extent(path), None, ["price"]).batches(1)
    assert batch.ids.tolist() == [6, 7] and {n: c.tolist() for n, c in batch.columns.items()} == {"price": [2, 3]}


def test_npy_that_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for array, words in ((np.asfortranarray(ROWS), "Fortran"), (np.array([{}, 1], object), "objects"),
                         (np.array(1.0), "no rows")):  # fmt: skip
        np.save(path, array)
        with pytest.raises(FileError, match=words):
            RawSource(npy_extent(path))
    path.write_bytes(b"no array at all")
    with pytest.raises(FileError, match="is no"):
        npy_extent(path)
    np.save(path, ROWS)
    with pytest.raises(FileError, match="without names"):
        RawSource(npy_extent(path), "id")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, save: object) -> None:
    save(path := tmp_path / "x.npz", ids=np.arange(1000) * 3, rows=ROWS, other=ROWS[:5])  # type: ignore[operator]
    with pytest.raises(FileError, match="no common length"):
        NpzSource(path)
    source = NpzSource(path, columns=["rows"])
    found = list(source.batches(500))
    assert source.count == 1000 and np.array_equal(np.concatenate([one.columns["rows"] for one in found]), ROWS[500:])
    assert np.concatenate([one.ids for one in found]).tolist() == list(range(1500, 3000, 3))


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({"emb": ROWS, "bias": ROWS[0], "half": ROWS.astype("f2")}, path)
    extents = safe_extents(path)
    with pytest.raises(FileError, match="say by --tensor which of its tensors is meant: bias, emb, half"):
        one_tensor(path, extents, None)
    with pytest.raises(FileError, match="no tensor 'z'"):
        one_tensor(path, extents, "z")
    assert np.array_equal(read(RawSource(one_tensor(path, extents, "emb")), 200), ROWS[200:])
    (half, *_) = RawSource(extents["half"]).batches(0)
    assert half.columns["row"].dtype == np.float16
    raw = path.read_bytes()
    path.write_bytes(raw[:-1])
    with pytest.raises(FileError, match="cut off"):
        for extent in safe_extents(path).values():
            RawSource(extent)
    path.write_bytes(raw[:8] + b"!" + raw[9:])
    with pytest.raises(FileError, match="no safetensors file, or damaged"):
        safe_extents(path)
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(FileError, match="no safetensors file"):
        safe_extents(path)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_short_floats_are_read_as_f4(tmp_path: Path, name: str) -> None:
    rows = ROWS.astype(getattr(ml_dtypes, name))
    (tmp_path / "x.safetensors").write_bytes(safe_head("emb", rows.dtype, rows.shape) + rows.tobytes())
    (extent,) = safe_extents(tmp_path / "x.safetensors").values()
    found = next(RawSource(extent).batches(0)).columns["row"]
    assert found.dtype == np.float32 and np.array_equal(found, rows[: len(found)].astype("f4"))


def test_an_index_names_its_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text('{"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}')
    assert safe_parts(path) == [tmp_path / "1.safetensors", tmp_path / "2.safetensors"]
    path.write_text("[]")
    with pytest.raises(FileError, match="no index"):
        safe_parts(path)


def test_state_dicts(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensor, path = torch.from_numpy(ROWS), tmp_path / "x.pt"
    module = torch.nn.Linear(8, 3)
    state = {"model": {"emb": tensor[100:], "turned": tensor.T, **module.state_dict()}, "step": 3, "p": module.weight}
    torch.save(state, path)
    extents = torch_extents(path)
    assert set(extents) == {"model.emb", "model.weight", "model.bias", "p"}
    assert np.array_equal(read(RawSource(extents["model.emb"])), ROWS[100:])
    assert np.array_equal(next(RawSource(extents["p"]).batches(0)).columns["row"], module.weight.detach().numpy())
    torch.save(module, path)
    with pytest.raises(FileError, match="not part of a state dict"):
        torch_extents(path)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> tuple:
            return print, ("run",)

    with zipfile.ZipFile(path := tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps({"a": Bad()}, 2))
    with pytest.raises(FileError, match=r"\.print, which is not part"):
        torch_extents(path)
    path.write_bytes(b"nothing")
    with pytest.raises(FileError, match="not a zip file"):
        torch_extents(path)
