"""N-gram tables: filled from arrays and files, read into memory, ahead and by another process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import pmkv
from pmkv_client import engram
from pmkv_client.engram import EngramStore, safetensors_rows

WIDTH, HEADS = 264, (50, 70, 60)


@pytest.fixture
def store() -> Iterator[pmkv.Store]:
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as opened:
        yield opened


def some_buffers(seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (rows, WIDTH), np.uint8) for rows in HEADS]


def some_rows(batch: int, length: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, HEADS, (batch, length, len(HEADS)))


def expected(buffers: list[np.ndarray], rows: np.ndarray) -> np.ndarray:
    return np.stack([buffer[rows[..., head]] for head, buffer in enumerate(buffers)], -2)


def test_what_was_populated_is_looked_up(store: pmkv.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engram, "PUT_PIECE_BYTES", 20 * WIDTH)
    buffers, rows = some_buffers(), some_rows(2, 5)
    with EngramStore(store, "model") as tables:
        tables.populate(3, buffers)
        tables.populate(15, some_buffers(9))
        output = np.zeros((2, 5, 3, WIDTH), np.uint8)
        tables.lookup_into(3, rows, output)
        assert np.array_equal(output, expected(buffers, rows)) and tables.layers() == [3, 15]
    with EngramStore(store, "model") as other:  # as another process
        words = np.zeros((10, 3, WIDTH // 4), "f4")  # the bytes are opaque
        other.lookup_into(3, rows.reshape(10, 3).astype("i4"), words)
        assert words.tobytes() == output.tobytes()


def test_prefetch(store: pmkv.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    buffers = some_buffers()
    with EngramStore(store) as tables:
        tables.populate(0, buffers)
        batches = [some_rows(1, 4, seed) for seed in range(5)]
        monkeypatch.setattr(engram, "MOST_AHEAD", 3)
        for rows in batches:
            tables.prefetch(0, rows)
        assert len(tables._ahead) == 3
        output = np.empty((1, 4, 3, WIDTH), np.uint8)
        for rows in batches:
            tables.lookup_into(0, rows, output)
            assert np.array_equal(output, expected(buffers, rows))
        assert not tables._ahead


def safetensors_file(path: Path, buffers: list[np.ndarray]) -> Path:
    """Write a file of one tensor a head, `head.0` and so on, of four-byte floats."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for head, buffer in enumerate(buffers):
        shape = [len(buffer), WIDTH // 4]
        header[f"head.{head}"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + buffer.nbytes]}
        at += buffer.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(buffer.tobytes() for buffer in buffers))
    return path


def test_a_layer_from_a_file(store: pmkv.Store, tmp_path: Path) -> None:
    buffers, rows = some_buffers(), some_rows(1, 7)
    path = safetensors_file(tmp_path / "model.safetensors", buffers)
    with EngramStore(store) as tables:
        tables.load(1, path, ["head.0", "head.1", "head.2"])
        output = np.empty((1, 7, 3, WIDTH), np.uint8)
        tables.lookup_into(1, rows, output)
    assert np.array_equal(output, expected(buffers, rows))
    with pytest.raises(ValueError, match=r"no tensor 'x'; it has head\.0, head\.1, head\.2"):
        safetensors_rows(path, "x")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="does not stand within the file"):
        safetensors_rows(path, "head.2")
    path.write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError, match="no safetensors file"):
        safetensors_rows(path, "head.0")


def test_tensors(store: pmkv.Store) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: `make ml` installs it")
    eights = [torch.rand(rows, 8).to(torch.float8_e4m3fn) for rows in HEADS]
    rows = torch.from_numpy(some_rows(2, 3))
    with EngramStore(store) as tables:
        tables.populate(0, eights)
        output = torch.zeros(2, 3, 3, 8, dtype=torch.float8_e4m3fn)
        tables.lookup_into(0, rows, output)
    wanted = torch.stack([eights[head].view(torch.uint8)[rows[..., head]] for head in range(3)], -2)
    assert torch.equal(output.view(torch.uint8), wanted)


def test_what_is_refused(store: pmkv.Store) -> None:
    with EngramStore(store) as tables:
        with pytest.raises(KeyError, match="layer 0 of 'engram' was not populated"):
            tables.lookup_into(0, some_rows(1, 1), np.empty(1))
        with pytest.raises(ValueError, match=r"rows of \[4, 8\] bytes"):
            tables.populate(0, [np.zeros((2, 4), "u1"), np.zeros((2, 8), "u1")])
        with pytest.raises(ValueError, match=r"buffer 0 has shape \(3,\)"):
            tables.populate(0, [np.zeros(3)])
        tables.populate(0, some_buffers())
        output = np.empty((1, 1, 3, WIDTH), np.uint8)
        with pytest.raises(IndexError, match="row 70 of head 1 is out of range: it has 70 rows"):
            tables.lookup_into(0, [[[0, 70, 0]]], output)
        with pytest.raises(ValueError, match="one for each head"):
            tables.lookup_into(0, [[0, 0]], output)
        with pytest.raises(ValueError, match="792 bytes; 6 rows of 264 bytes"):
            tables.lookup_into(0, some_rows(1, 2), output)
        with pytest.raises(ValueError, match="contiguous and writable"):
            tables.lookup_into(0, some_rows(1, 1), np.empty((1, 1, 6, WIDTH), np.uint8)[:, :, ::2])
