"""Loads, stores and copies at any byte offset; ranges are checked where bounds are."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from pmkv.kernels.memory import copy, load64, prefetch, store64
from pmkv.runtime.jit import CHECKED, JIT

U = np.uint64


@numba.njit
def load(array, offset):
    return load64(array, offset)


@numba.njit
def store(array, offset, value):
    store64(array, offset, value)


@numba.njit
def move(target, at, source, start, length):
    prefetch(source, start)
    copy(target, at, source, start, length)


def test_words_are_little_endian_at_any_offset() -> None:
    data = np.frombuffer(bytes(range(1, 25)), np.uint8)
    for offset in range(17):
        assert int(load(data, offset)) == int.from_bytes(data[offset : offset + 8].tobytes(), "little")


def test_a_store_touches_eight_bytes() -> None:
    for offset in range(9):
        data = np.full(17, 0xEE, np.uint8)
        store(data, offset, U(0x0102030405060708))
        expected = b"\xee" * offset + bytes(range(8, 0, -1)) + b"\xee" * (9 - offset)
        assert data.tobytes() == expected


@pytest.mark.parametrize("length", [0, 1, 7, 8, 33])
def test_copies_have_any_length_and_offset(length: int) -> None:
    source = np.frombuffer(bytes(range(50)), np.uint8)
    for at, start in ((0, 0), (3, 5), (7, 17)):
        target = np.zeros(50, np.uint8)
        move(target, at, source, start, length)
        assert target[at : at + length].tobytes() == source[start : start + length].tobytes()
        assert not target[:at].any()
        assert not target[at + length :].any()


@pytest.mark.skipif(JIT and not CHECKED, reason="ranges are checked under NUMBA_BOUNDSCHECK=1 and in plain Python")
@pytest.mark.parametrize("offset", [-1, 9, 16, 1 << 40])
def test_a_load_outside_is_an_error(offset: int) -> None:
    with pytest.raises(IndexError):
        load(np.zeros(16, np.uint8), offset)


@pytest.mark.skipif(not CHECKED, reason="ranges are checked under NUMBA_BOUNDSCHECK=1")
def test_a_store_and_a_copy_outside_are_errors() -> None:
    data = np.zeros(16, np.uint8)
    with pytest.raises(IndexError):
        store(data, 9, U(1))
    for arguments in ((9, 0, 8), (0, 9, 8), (0, 0, -1)):
        with pytest.raises(IndexError):
            move(data, arguments[0], data.copy(), *arguments[1:])


def test_a_prefetch_beside_the_array_is_harmless() -> None:
    target = np.zeros(1, np.uint8)
    move(target, 0, np.zeros(1, np.uint8), 0, 1)
