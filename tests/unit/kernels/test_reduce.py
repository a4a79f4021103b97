"""Pooling, against a loop in NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pmkv.kernels import location
from pmkv.kernels.records import locate_rows
from pmkv.kernels.reduce import MODES, pool_in_place, pool_rows

rng = np.random.default_rng(2)


def model(rows: np.ndarray, found: np.ndarray, weights: np.ndarray, mode: str, offsets: list[int]) -> np.ndarray:
    out = np.zeros((len(offsets), rows.shape[1]), rows.dtype)
    for bag, (start, stop) in enumerate(itertools.pairwise([*offsets, len(rows)])):
        taken = [rows[j] * (weights[j] if weights.size else 1) for j in range(start, stop) if found[j]]
        if taken:
            out[bag] = {"sum": np.sum, "mean": np.mean, "max": np.max}[mode](taken, axis=0)
    return out


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("offsets", [[0], [0, 0, 3], [0, 2, 2, 7], [0, 7], []])
def test_bags(real: type, mode: str, offsets: list[int]) -> None:
    rows = rng.normal(size=(7 if offsets else 0, 3)).astype(real)
    found = np.array([1, 0, 1, 1, 0, 0, 1], np.uint8)[: len(rows)]
    out = np.zeros((len(offsets), 3), real)
    pool_rows(rows, found, np.empty(0, real), MODES[mode], np.array(offsets, np.int64), out)
    np.testing.assert_allclose(out, model(rows, found, np.empty(0, real), mode, offsets), rtol=1e-6)


def test_weights_scale_rows() -> None:
    rows, weights = rng.normal(size=(5, 2)), rng.normal(size=5)
    out = np.zeros((2, 2))
    pool_rows(rows, np.ones(5, np.uint8), weights, MODES["sum"], np.array([0, 2]), out)
    np.testing.assert_allclose(out, [weights[:2] @ rows[:2], weights[2:] @ rows[2:]])


def test_the_maximum_of_negative_rows_is_negative() -> None:
    out = np.zeros((1, 1))
    pool_rows(np.array([[-3.0], [-2.0]]), np.ones(2, np.uint8), np.empty(0), MODES["max"], np.array([0]), out)
    assert out.tolist() == [[-2.0]]


class Standing:
    """40 rows of three numbers, ids 100 to 139: the odd ones in the log, the even ones in a cache, one in five absent,
    as deletes or at all."""

    def __init__(self, real: type) -> None:
        self.real, self.ids = np.dtype(real), np.arange(100, 140)
        self.rows = rng.normal(size=(40, 3)).astype(real)
        self.width, self.stride = 3 * self.real.itemsize, 32
        self.data = np.concatenate([np.zeros(64, np.uint8), self.rows.reshape(-1).view(np.uint8)])
        self.found = np.empty(40, np.uint64)
        locate_rows(self.data, 64, self.ids, self.width, np.uint64(9), self.found)
        self.slots, self.cached = rng.permutation(40), np.zeros((40, self.stride), np.uint8)
        self.cached[self.slots, : self.width] = self.rows.view(np.uint8).reshape(40, self.width)
        self.data[64:].reshape(40, self.width)[::2] = 255  # of these the cached rows count
        self.found[::2] = location.CACHED
        self.found[::10] = 0
        self.found[5::10] |= location.DELETE

    def pool(self, weights: np.ndarray, mode: str, offsets: np.ndarray, verify: bool = True) -> tuple[int, np.ndarray]:
        out, cached = np.zeros((offsets.size, 3), self.real), self.cached.reshape(-1)
        bad = pool_in_place(
            self.data, self.data.view(self.real), cached, cached.view(self.real), self.stride, self.found, self.slots,
            self.ids, self.width, np.uint64(9), verify, weights, MODES[mode], offsets, out,
        )  # fmt: skip
        return bad, out


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("mode", [*MODES, "weighted"])
def test_in_place_gives_the_bits_of_gathered_rows(real: type, mode: str) -> None:
    standing, offsets = Standing(real), np.array([0, 0, 1, 9, 17, 38, 40])
    weights = rng.normal(size=40).astype(real) if mode == "weighted" else np.empty(0, real)
    mode = "sum" if mode == "weighted" else mode
    bad, pooled = standing.pool(weights, mode, offsets)
    expected = np.zeros((7, 3), real)
    found = np.array([location.lives(one) for one in standing.found], np.uint8)
    pool_rows(standing.rows, found, weights, MODES[mode], offsets, expected)
    assert bad == -1 and pooled.tobytes() == expected.tobytes() and pooled.any()


def test_a_row_of_the_log_that_disagrees_with_its_location_is_told() -> None:
    standing, offsets, none = Standing(np.float32), np.array([0, 7]), np.empty(0, np.float32)
    standing.data[64 + 7 * standing.width] ^= 1
    assert standing.pool(none, "sum", offsets)[0] == 7
    assert standing.pool(none, "sum", offsets, verify=False)[0] == -1
    standing.found[3] += np.uint64(1 << 20)  # outside the pool
    assert standing.pool(none, "sum", offsets, verify=False)[0] == 3


def test_rows_of_no_elements() -> None:
    data, none = np.zeros(8, np.uint8), np.empty(0, np.float32)
    out, found = np.zeros((1, 0), np.float32), np.array([location.CACHED, 0], np.uint64)
    told = pool_in_place(
        data, data.view(np.float32), data, data.view(np.float32), 0, found, np.zeros(2, np.int64), np.arange(2), 0,
        np.uint64(1), True, none, 0, np.zeros(1, np.int64), out,
    )  # fmt: skip
    assert told == -1
