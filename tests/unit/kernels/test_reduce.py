"""Pooling, against a loop in NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pmkv.kernels.reduce import MODES, pool_rows

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
