"""Catalog and files of runs are derived from the log, and may come from another moment than it: a backup of one of them
was put back. Whatever is mixed, opening and reading refuse it, or what is shown is right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from pmkv.errors import CorruptionError, FormatError
from tests.crash.files import Files
from tests.crash.life import SPACES, Recorded, open_engine
from tests.crash.operations import Bare, check_scans, state_of

TRIES = 12
REFUSED = (CorruptionError, FormatError)
UNPREPARED = "stored where nothing is prepared"


class Counts(Protocol):
    mixtures: int
    refused: int


def mixtures(points: list[Recorded], past: list[Recorded], rng: np.random.Generator, counts: Counts) -> Iterator[str]:
    """Mixtures of what one life's points, in their order, and some earlier ones leave, that are neither refused nor
    right."""
    for _ in range(TRIES):
        pool = int(rng.integers(len(points)))
        others = past if past and rng.random() < 0.3 else points
        catalog = int(rng.integers(len(others)))
        runs = catalog if rng.random() < 0.6 else int(rng.integers(len(others)))
        # what is derived from the log's own past is a sound beginning of it, until segments are freed
        sound = others is points and catalog == runs <= pool and points[catalog].freed == points[pool].freed
        is_behind = others is not points or points[catalog].freed < points[pool].freed
        files = mixed(others[catalog], others[runs], rng)
        counts.mixtures += 1
        wrong = shown(points[pool], files, rng, sound, is_behind, counts)
        if wrong:
            yield (
                f"the pool of point {pool}, catalog of {catalog}, files of {runs} "
                f"({'the same life' if others is points else 'an earlier life'}): {wrong}"
            )


def mixed(catalog: Recorded, runs: Recorded, rng: np.random.Generator) -> Files:
    """The catalog of one point, the files of another."""
    assert catalog.files is not None and runs.files is not None
    one = catalog.files.outcome(rng)
    if catalog is runs:
        return one
    return Files(one.pool_id, one.catalog, runs.files.outcome(rng).shelf.files)


def shown(
    recorded: Recorded, files: Files, rng: np.random.Generator, sound: bool, is_behind: bool, counts: Counts
) -> str | None:
    """What is wrong with what a store shows of this; None if nothing is, or it refuses it. is_behind: segments may have
    been given back since the moment of the catalog."""
    masks = recorded.point.masks(4, rng)
    medium = recorded.point.medium(masks[rng.integers(len(masks))])
    try:
        store = Bare(open_engine(medium, files))
        found = state_of(store, SPACES)
        check_scans(store, found)
    except REFUSED as error:
        counts.refused += 1
        return f"refused: {error}" if sound else None
    except AssertionError as error:
        # An older catalog does not know that a segment was given back, and the old header of that looks like that of a
        # prepared one. A file would get blocks for it then, or report that the disk is full.
        if sound or not is_behind or UNPREPARED not in str(error):
            raise
        return None
    return None if found in recorded.allowed else f"shows {found}, which is none of {recorded.allowed}"
