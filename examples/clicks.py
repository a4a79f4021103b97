"""A small click model for `publish_model.py`: generated clicks, a factorisation learned from them, and its quality.

Users and items have a few numbers each that decide, with the time of day, what is clicked. The model learns numbers of
its own by alternating least squares (its embeddings: a row a user, a row an item), and by logistic regression how to
weigh their products and the time of day (its dense part).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FACTORS = 8
TIMES = 4  # of day
WIDTH = FACTORS + 2  # of an embedding: factors, its own bias, and a one for the other's
RIDGE, ROUNDS, STEPS = 4.0, 5, 8


@dataclass(frozen=True)
class Clicks:
    """Columns of equal length: the user, the item shown, the time of day, and whether the user clicked."""

    users: np.ndarray
    items: np.ndarray
    times: np.ndarray
    clicked: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def some(self, which: np.ndarray | slice) -> Clicks:
        return Clicks(self.users[which], self.items[which], self.times[which], self.clicked[which])

    def shuffled(self, random: np.random.Generator) -> Clicks:
        """Return these rows with the clicks shuffled, as a broken join upstream would."""
        return Clicks(self.users, self.items, self.times, random.permutation(self.clicked))


@dataclass(frozen=True)
class Model:
    """Embeddings by id, float32[n, WIDTH], and the weights of the dense part."""

    users: np.ndarray
    items: np.ndarray
    dense: np.ndarray


def generate(random: np.random.Generator, users: int, items: int, count: int) -> Clicks:
    tastes, traits = (random.standard_normal((n, FACTORS)) for n in (users, items))
    popular = random.standard_normal(items)
    times_matter = np.array([-0.8, -0.2, 0.2, 0.8])
    who, what = random.integers(0, users, count), random.integers(0, items, count)
    when = random.integers(0, TIMES, count)
    wish = (tastes[who] * traits[what]).sum(axis=1) + popular[what] + times_matter[when]
    return Clicks(who, what, when, random.random(count) < 1 / (1 + np.exp(-wish)))


def train(clicks: Clicks, users: int, items: int) -> Model:
    random = np.random.default_rng(1)
    wanted = 2.0 * clicks.clicked - 1
    ours, theirs = (random.standard_normal((n, WIDTH)) * 0.1 for n in (users, items))
    ours[:, -1] = theirs[:, -2] = 1  # what the other side's bias is multiplied by
    for _ in range(ROUNDS):
        solve(ours, theirs, clicks.users, clicks.items, wanted, fixed=-1)
        solve(theirs, ours, clicks.items, clicks.users, wanted, fixed=-2)
    ours, theirs = ours.astype("f4"), theirs.astype("f4")
    return Model(ours, theirs, weigh(products(ours[clicks.users], theirs[clicks.items], clicks.times), clicks.clicked))


def solve(
    ours: np.ndarray, theirs: np.ndarray, us: np.ndarray, them: np.ndarray, wanted: np.ndarray, fixed: int
) -> None:
    """Solve least squares for each row of `ours`, with `theirs` unchanged; column `fixed` of `ours` stays 1."""
    free = np.delete(np.arange(WIDTH), fixed)
    order = np.argsort(us, kind="stable")
    rows = theirs[them[order]]
    left = wanted[order] - rows[:, fixed]
    rows = rows[:, free]
    present, first = np.unique(us[order], return_index=True)
    squares = np.add.reduceat(rows[:, :, None] * rows[:, None, :], first)
    sums = np.add.reduceat(rows * left[:, None], first)
    ours[np.ix_(present, free)] = np.linalg.solve(squares + RIDGE * np.eye(len(free)), sums[:, :, None])[:, :, 0]


def products(users: np.ndarray, items: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return the inputs of the dense part for each pair: products of the embeddings, and the time of day."""
    return np.concatenate([users * items, np.eye(TIMES, dtype="f4")[times]], axis=1)


def weigh(seen: np.ndarray, clicked: np.ndarray) -> np.ndarray:
    """Return the weights of a logistic regression, by Newton's method."""
    weights = np.zeros(seen.shape[1])
    for _ in range(STEPS):
        odds = 1 / (1 + np.exp(-seen @ weights))
        curve = (seen * (odds * (1 - odds))[:, None]).T @ seen + RIDGE * np.eye(len(weights))
        weights += np.linalg.solve(curve, seen.T @ (clicked - odds) - RIDGE * weights)
    return weights.astype("f4")


def score(users: np.ndarray, items: np.ndarray, times: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """Return a score per pair that orders pairs by how likely a click is."""
    return products(users, items, times) @ dense


def auc(scores: np.ndarray, clicked: np.ndarray) -> float:
    """Return how often a click is scored higher than a pair without one: 0.5 by chance, 1 at best."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores)] = np.arange(1, len(scores) + 1)
    hits = int(np.count_nonzero(clicked))
    return float((ranks[clicked].sum() - hits * (hits + 1) / 2) / max(1, hits * (len(scores) - hits)))
