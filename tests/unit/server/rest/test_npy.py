""".npy and .npz: round trips with NumPy's own, and everything a hand-made file may lie about."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pmkv_server.rest.npy import read_npy, read_npz, write_npy, write_npz
from pmkv_server.rest.problems import Problem

DTYPES = st.one_of(arrays.scalar_dtypes(), arrays.array_dtypes(max_size=3))
ANY = arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))


def saved(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
@given(ANY)
def test_npy_round_trip(array: np.ndarray) -> None:
    back = read_npy(write_npy(array))
    assert back.dtype == array.dtype and back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    assert read_npy(saved(array)).tobytes() == array.tobytes()


def test_npy_in_fortran_order() -> None:
    array = np.asfortranarray(np.arange(6).reshape(2, 3))
    assert np.array_equal(read_npy(saved(array)), array)


def test_npy_with_names_beyond_latin() -> None:
    array = np.zeros(2, [("preis€", "f4")])
    with pytest.warns(UserWarning, match="format 3.0"):
        data = saved(array)
    assert read_npy(data).dtype == array.dtype


def header(text: str, version: int = 1, length: int | None = None) -> bytes:
    raw = text.encode()
    size = struct.pack("<H" if version == 1 else "<I", len(raw) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + raw


LIES = {
    "empty": b"",
    "short": b"\x93NUMPY\x01\x00",
    "other": b"not an array at all",
    "version": header("{}", version=1)[:6] + b"\x09\x00\x02\x00{}..",
    "header beyond the end": header("{}", 1, 60_000),
    "huge header": header("{}", 2, 1 << 31),
    "no dict": header("[1, 2, 3]"),
    "missing": header("{'descr': '<f4'}"),
    "code": header("__import__('os').abort()"),
    "nested": header("(" * 5000),
    "objects": header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + b"\x80\x04N.",
    "more than there is": header("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}") + b"1234",
    "overflow": header("{'descr': '<f4', 'fortran_order': False, 'shape': (1 << 200,)}"),
    "product": header("{'descr': '<f4', 'fortran_order': False, 'shape': (281474976710655, 281474976710655)}"),
    "negative": header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"),
    "too much": write_npy(np.zeros(3)) + b"\0",
    "descr": header("{'descr': 'no such', 'fortran_order': False, 'shape': (1,)}") + b"1234",
    "fields": header("{'descr': [('a',)], 'fortran_order': False, 'shape': (1,)}") + b"1234",
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES.keys())
def test_npy_that_lies(data: bytes) -> None:
    with pytest.raises(Problem) as problem:
        read_npy(data)
    assert problem.value.status == 400


@given(st.binary(max_size=200))
def test_npy_of_noise(noise: bytes) -> None:
    for data in (noise, header("{'descr': '<f4', 'fortran_order': False, 'shape': ") + noise):
        with pytest.raises(Problem):
            read_npy(data)


@pytest.mark.filterwarnings("ignore:Stored array in format 3.0")
@given(st.dictionaries(st.sampled_from(["ids", "rows", "offsets", "weights"]), ANY, max_size=4))
def test_npz_round_trip(named: dict[str, np.ndarray]) -> None:
    for packed in (np.savez, np.savez_compressed):
        out = io.BytesIO()
        packed(out, **named)
        for data in (out.getvalue(), write_npz(named)):
            back = read_npz(data, 1 << 20)
            assert {name: array.tobytes() for name, array in back.items()} == {n: a.tobytes() for n, a in named.items()}
    with np.load(io.BytesIO(write_npz(named)), allow_pickle=False) as loaded:
        assert set(loaded.files) == set(named)


def test_npz_that_unpacks_to_too_much() -> None:
    out = io.BytesIO()
    np.savez_compressed(out, rows=np.zeros(1 << 20))
    assert len(out.getvalue()) < 1 << 16
    with pytest.raises(Problem, match="unpacks to more than"):
        read_npz(out.getvalue(), 1 << 20)


def test_npz_that_claims_less_than_it_unpacks_to() -> None:
    out = io.BytesIO()
    np.savez_compressed(out, rows=np.zeros(1 << 20))
    data = out.getvalue()
    size = struct.pack("<I", (1 << 23) + 128)
    assert data.count(size) >= 1
    with pytest.raises(Problem):
        read_npz(data.replace(size, struct.pack("<I", 256)), 1 << 20)


@pytest.mark.parametrize("damage", ["noise", "flipped", "cut", "member"])
def test_npz_that_is_none(damage: str) -> None:
    data = write_npz({"ids": np.arange(100)})
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("ids.npy", b"hello")
    at = data.index(np.arange(100).tobytes())
    bad = {
        "noise": b"noise" * 20,
        "flipped": data[: at + 8] + b"\xff" + data[at + 9 :],
        "cut": data[:-10],
        "member": out.getvalue(),
    }[damage]
    with pytest.raises(Problem) as problem:
        read_npz(bad, 1 << 20)
    assert problem.value.status == 400
