"""The n-gram tables of a small made-up language model: filled, then read for each step while the next is prefetched.

Start `pmkv serve`, then: python examples/engram.py [URL]
"""

from __future__ import annotations

import sys

import numpy as np

from pmkv_client.engram import EngramStore

LAYERS, WIDTH = (2, 15), 264  # bytes of a row: 256 values of 8 bits, and 8 bytes of scales
HEADS = (10_007, 10_009, 20_011, 20_021)  # rows of each hash head: two for pairs of tokens, two for triples
STEPS, BATCH, LENGTH = 5, 4, 16


def rows_of(tokens: np.ndarray) -> np.ndarray:
    """Return the row of each head for each token: hashes of the last two and the last three tokens."""
    before = np.pad(tokens, ((0, 0), (2, 0)))
    pairs = before[:, 1:-1] * 1_000_003 + tokens
    triples = before[:, :-2] * 998_244_353 + pairs
    return np.stack([pairs % HEADS[0], pairs % HEADS[1], triples % HEADS[2], triples % HEADS[3]], -1)


def main(url: str = "pmkv://localhost:7379") -> None:
    """Fill the tables and read them."""
    rng = np.random.default_rng(7)
    buffers = {layer: [rng.integers(0, 256, (rows, WIDTH), np.uint8) for rows in HEADS] for layer in LAYERS}
    steps = [rows_of(rng.integers(0, 50_000, (BATCH, LENGTH))) for _ in range(STEPS)]
    with EngramStore(url, "example") as store:
        for layer, heads in buffers.items():
            store.populate(layer, heads)
        output, checked = np.empty((BATCH, LENGTH, len(HEADS), WIDTH), np.uint8), 0
        for step, rows in enumerate(steps):
            for layer in LAYERS:
                store.lookup_into(layer, rows, output)
                if step + 1 < STEPS:
                    store.prefetch(layer, steps[step + 1])  # the tokens are known, so the rows are
                wanted = np.stack([head[rows[..., at]] for at, head in enumerate(buffers[layer])], -2)
                assert np.array_equal(output, wanted)
                checked += wanted.shape[0] * wanted.shape[1] * wanted.shape[2]
        print(f"{checked:,} rows of {WIDTH} bytes read from layers {store.layers()}, all of them right")
        store.store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
