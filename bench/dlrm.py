"""A recommendation model as DLRM is built: bottom MLP, 26 tables of rows, interaction, top MLP; and what it is asked.

Rows are looked up outside of the model, so that the same model runs over every store. torch is needed for `Model` only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

TABLES, WIDTH, BATCH, DENSE = 26, 64, 128, 13  # WIDTH: f4 in a row; BATCH: inferences in a batch; DENSE: their numbers
ROW_BYTES = 4 * WIDTH
BOTTOM, TOP = (512, 256, WIDTH), (512, 256, 1)  # widths of the layers
DRAWN = 16  # batches that are drawn at once
NOISE_ROWS, NOISE_STEP = 4093, 1 / (1 << 20)
NAMES = [f"table{number}" for number in range(TABLES)]


def rows_of(numbers: np.ndarray) -> np.ndarray:
    """Return the rows with these numbers: noise that repeats, and a small part that tells each row from all others."""
    noise = np.random.default_rng(7).standard_normal((NOISE_ROWS, WIDTH), "f4")
    rows = noise.take(numbers % NOISE_ROWS, axis=0)
    rows += ((numbers // NOISE_ROWS) * NOISE_STEP).astype("f4")[:, None]
    return rows


class Requests:
    """Draws batches of requests: for each table BATCH ids by Zipf's law from a random permutation, and dense numbers.

    The same arguments give the same batches."""

    def __init__(self, rows: int, exponent: float, seed: int = 1) -> None:
        """rows: of each table."""
        self._random, self._rows = np.random.default_rng(seed), rows
        self._order = self._random.permutation(rows)
        shares = np.cumsum(1 / np.arange(1, rows + 1) ** exponent)
        self._shares = shares / shares[-1]
        self._shift = np.arange(TABLES)[:, None] * (rows // TABLES)  # the hot rows of each table are other ones

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield batches for ever: ids, int64[TABLES, BATCH], and dense numbers, f4[BATCH, DENSE]."""
        while True:
            ranks = np.searchsorted(self._shares, self._random.random((DRAWN, TABLES, BATCH)))
            ids = (self._order.take(np.minimum(ranks, self._rows - 1)) + self._shift) % self._rows
            yield from zip(ids, self._random.standard_normal((DRAWN, BATCH, DENSE), "f4"))


class Model:
    """The dense part of the model, with fixed weights. It runs on one thread, so that its results are the same bits."""

    def __init__(self, torch: Any) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(1)
        self._torch = torch
        features = TABLES + 1
        pairs = features * (features - 1) // 2
        self._pairs = torch.tril_indices(features, features, -1)
        self._bottom, self._top = self._layers(DENSE, BOTTOM), self._layers(WIDTH + pairs, TOP)

    def _layers(self, width: int, widths: tuple[int, ...]) -> Any:
        layers: list[Any] = []
        for wide in widths:
            layers += [self._torch.nn.Linear(width, wide), self._torch.nn.ReLU()]
            width = wide
        return self._torch.nn.Sequential(*layers[:-1])

    def predict(self, dense: np.ndarray, rows: Any) -> np.ndarray:
        """Return the probabilities, f4[BATCH]. rows: a tensor, [TABLES, BATCH, WIDTH]."""
        torch = self._torch
        with torch.inference_mode():
            below = self._bottom(torch.from_numpy(dense))
            features = torch.cat([below[:, None], rows.transpose(0, 1)], 1)
            products = torch.bmm(features, features.transpose(1, 2))[:, self._pairs[0], self._pairs[1]]
            return torch.sigmoid(self._top(torch.cat([below, products], 1)))[:, 0].numpy()
