"""Kernels for narrow rows: what they decode against NumPy, bit by bit, and what they pool against rows of f4."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from pmkv.kernels import location, narrow_rows
from pmkv.kernels.records import locate_rows
from pmkv.kernels.reduce import MODES, pool_rows

rng = np.random.default_rng(3)
FLOATS = [
    (narrow_rows.HALF, np.dtype("f2")),
    (narrow_rows.BFLOAT, np.dtype(ml_dtypes.bfloat16)),
    (narrow_rows.FLOAT8, np.dtype(ml_dtypes.float8_e4m3fn)),
    (narrow_rows.FLOAT8_WIDE, np.dtype(ml_dtypes.float8_e5m2)),
]
FORMS = [(form, dtype.itemsize * 6) for form, dtype in FLOATS]
FORMS += [(narrow_rows.INT8, 6 + 8), (narrow_rows.INT4, 3 + 4)]
RAW = {narrow_rows.INT8: "f4", narrow_rows.INT4: "f2"}  # dtype of scale and bias


def some_rows(form: int, width: int, count: int) -> np.ndarray:
    raw = rng.integers(0, 100, (count, width)).astype(np.uint8)
    if form in RAW:
        tail = np.stack([rng.random(count) * 0.1, rng.normal(size=count)], axis=1).astype(RAW[form])
        raw[:, width - tail.itemsize * 2 :] = tail.view(np.uint8)
    return raw.reshape(-1)


@pytest.mark.parametrize(("form", "dtype"), FLOATS, ids=str)
def test_every_bit_pattern_is_the_number_that_its_dtype_says(form: int, dtype: np.dtype) -> None:
    words = np.arange(1 << (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}")
    if not narrow_rows.JIT:  # plain Python takes its time
        words = np.unique(np.concatenate([words[:40], words[-40:], words[::251]]))
    out = np.empty((1, words.size), np.float32)
    narrow_rows.decode_rows(form, words.view(np.uint8), words.nbytes, out)
    wanted = words.view(dtype).astype(np.float32)
    numbers = ~np.isnan(wanted)
    assert out[0][numbers].tobytes() == wanted[numbers].tobytes() and np.isnan(out[0][~numbers]).all()


@pytest.mark.parametrize("size", [1, 2, 5])
def test_quantised_rows_are_steps_above_the_bias(size: int) -> None:
    levels = rng.integers(0, 16, (3, size)).astype(np.uint8)
    scale, bias = np.array([0.5, 0.25, 2]), np.array([-1, 0, 100])
    wanted = (levels * scale[:, None] + bias[:, None]).astype("f4")
    tail = np.stack([scale, bias], axis=1)
    raw = np.hstack([levels, tail.astype("f4").view(np.uint8)])
    narrow_rows.decode_rows(narrow_rows.INT8, raw.reshape(-1), raw.shape[1], out := np.empty((3, size), "f4"))
    assert out.tolist() == wanted.tolist()
    even = np.pad(levels, ((0, 0), (0, size % 2)))
    raw = np.hstack([even[:, ::2] | even[:, 1::2] << 4, tail.astype("f2").view(np.uint8)])
    narrow_rows.decode_rows(narrow_rows.INT4, raw.reshape(-1), raw.shape[1], out := np.empty((3, size), "f4"))
    assert out.tolist() == wanted.tolist()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("form", "width"), FORMS, ids=str)
def test_pooling_gives_the_bits_of_pooling_decoded_rows(form: int, width: int, mode: str) -> None:
    raw, found = some_rows(form, width, 9), np.array([1, 1, 0, 1, 1, 1, 0, 1, 1], np.uint8)
    offsets = np.array([0, 2, 2, 7])
    rows = np.empty((9, 6), np.float32)
    narrow_rows.decode_rows(form, raw, width, rows)
    for weights in (np.empty(0, np.float32), rng.random(9, np.float32))[: 2 if mode == "sum" else 1]:
        wanted, pooled = np.zeros((4, 6), np.float32), np.zeros((4, 6), np.float32)
        pool_rows(rows, found, weights, MODES[mode], offsets, wanted)
        scratch = np.empty(6, np.float32)
        narrow_rows.pool_narrow_rows(form, raw, width, found, weights, MODES[mode], offsets, scratch, pooled)
        assert pooled.tobytes() == wanted.tobytes()


def test_ranges_are_in_the_order_of_numbers_and_stop_at_what_is_not_finite() -> None:
    rows = rng.normal(size=(5, 7)).astype("f4")
    rows[1] = np.abs(rows[1])
    rows[2] = -np.abs(rows[2])
    lows, highs = np.empty(5, np.int32), np.empty(5, np.int32)
    assert narrow_rows.row_ranges(rows.view(np.int32), lows, highs) == -1
    for words, wanted in ((lows, rows.min(axis=1)), (highs, rows.max(axis=1))):
        bits = words ^ ((words >> 31) & 0x7FFFFFFF)
        assert bits.astype(np.int32).view("f4").tolist() == wanted.tolist()
    for strange in (np.nan, -np.nan, np.inf, -np.inf):
        rows[3, 6] = strange
        assert narrow_rows.row_ranges(rows.view(np.int32), lows, highs) == 3
    rows[3, 6] = np.finfo("f4").max
    assert narrow_rows.row_ranges(rows.view(np.int32), lows, highs) == -1


def test_levels_are_rounded_to_even_and_stay_within_the_row() -> None:
    rows = np.array([[0, 0.5, 1.5, 2.5, 300, -3]], "f4")
    lows, inverses = np.zeros(1, "f4"), np.ones(1, "f4")
    narrow_rows.quantise_rows(narrow_rows.INT8, rows, lows, inverses, raw := np.zeros(14, np.uint8), 14)
    assert raw.tolist() == [0, 0, 2, 2, 255, 0] + [0] * 8
    narrow_rows.quantise_rows(narrow_rows.INT4, rows[:, :5].copy(), lows, inverses, raw := np.zeros(7, np.uint8), 7)
    assert raw.tolist() == [0, 0x22, 15] + [0] * 4


@pytest.mark.parametrize(("form", "width"), FORMS, ids=str)
def test_pooling_in_place_gives_the_bits_of_pooling_gathered_rows(form: int, width: int) -> None:
    ids, owner, stride = np.arange(100, 140), np.uint64(9), 24
    raw, found = some_rows(form, width, 40), np.empty(40, np.uint64)
    data = np.concatenate([np.zeros(8, np.uint8), raw])
    locate_rows(data, 8, ids, width, owner, found)
    slots, cached = rng.permutation(40), np.zeros((40, stride), np.uint8)
    cached[slots, :width] = raw.reshape(40, width)
    data[8:].reshape(40, width)[::2] = 255  # of these the cached rows count
    found[::2], found[::10] = location.CACHED, 0
    offsets, weights, row = np.array([0, 3, 3, 20]), rng.random(40, np.float32), np.empty(6, np.float32)

    def pool_them(verify: bool) -> tuple[int, np.ndarray]:
        told = narrow_rows.pool_narrow_in_place(
            form, data, cached.reshape(-1), stride, found, slots, ids, width, owner, verify, weights, MODES["sum"],
            offsets, row, pooled := np.zeros((4, 6), np.float32),
        )  # fmt: skip
        return told, pooled

    alive = np.array([location.lives(one) for one in found], np.uint8)
    wanted = np.zeros((4, 6), np.float32)
    narrow_rows.pool_narrow_rows(form, raw, width, alive, weights, MODES["sum"], offsets, row, wanted)
    told, pooled = pool_them(verify=True)
    assert told == -1 and pooled.tobytes() == wanted.tobytes() and pooled.any()
    data[8 + 7 * width] ^= 1
    assert pool_them(verify=True)[0] == 7 and pool_them(verify=False)[0] == -1
    found[3] += np.uint64(1 << 20)  # outside the pool
    assert pool_them(verify=False)[0] == 3
