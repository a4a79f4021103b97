"""Which runs are worth to be one: a size-tiered policy, as of a log-structured merge tree."""

from __future__ import annotations

from dataclasses import dataclass

from ..index.run import Run
from .layer import Tree

# Of a table of ten million ids an entry is written 2.6 times in all, and a read meets six runs; with tiers of four 2.9
# times, and nearly six; with tiers of eight 2.1 times, and eight.
TIER = 5  # so many runs of about one size are folded into one
SIMILAR = 2  # times the smaller one's entries
MOST = 16  # runs of a chain, beyond which any so many are folded
AT_ONCE = 1 << 20  # entries that folds of several chains may write as one file


@dataclass(frozen=True)
class Fold:
    """Consecutive runs of one layer, newest first. bottom: nothing is below them."""

    tree: Tree
    layer: int
    inputs: tuple[Run, ...]
    bottom: bool

    @property
    def size(self) -> int:
        return entries_of(self.inputs)


def together(folds: list[Fold]) -> list[Fold]:
    """The cheapest, and as many more as one file may take: small ones cost less than a file and a commit each."""
    chosen, size = [], 0
    for fold in sorted(folds, key=lambda fold: fold.size):
        size += fold.size
        if chosen and size > AT_ONCE:
            break
        chosen.append(fold)
    return chosen


def foldable(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """Consecutive runs, newest first, that are worth to be one: TIER or more of about one size, the smallest such; any
    so many where there are too many."""
    groups = []
    for first in range(len(runs)):
        stop = first + 1
        while stop < len(runs) and runs[stop].info.count <= SIMILAR * runs[first].info.count:
            stop += 1
        if stop - first >= TIER:
            groups.append(runs[first:stop])
    if not groups and len(runs) > MOST:
        groups = [runs[first : first + TIER] for first in range(len(runs) - TIER + 1)]
    return min(groups, key=entries_of, default=())


def entries_of(runs: tuple[Run, ...]) -> int:
    return sum(run.info.count for run in runs)
