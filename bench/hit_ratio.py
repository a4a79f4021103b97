"""Hit ratios of the row cache beside the best rows there are, and beside the policies of libcachesim on one trace.

Ids by Zipf's law; the second half of each trace counts. The row cache has BUDGET bytes with all that it needs itself;
the best rows and libcachesim's caches have as many rows as fit into these bytes, and nothing else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pmkv.cache.row_cache import RowBudget, RowCache
from pmkv.kernels.records import locate_rows

from .measure import Figure

IDS, ASKED, BATCH, WIDTH = 1 << 18, 3_000_000, 1 << 10, 256
BUDGET = IDS * WIDTH // 8
EXPONENTS = (0.99, 1.05, 1.2)
POLICIES = ("LRU", "ARC", "TwoQ", "S3FIFO", "Sieve", "WTinyLFU", "LIRS", "LFU")
OPTIMUM_BAR, BEST_BAR = 4.0, 2.0  # points


def trace(exponent: float) -> tuple[np.ndarray, float]:
    """Return the ids that are asked for, and the hit ratio of the best rows."""
    shares = np.cumsum(1 / np.arange(1, IDS + 1) ** exponent)
    random = np.random.default_rng(1)
    ranks = np.searchsorted(shares, random.random(ASKED) * shares[-1])
    return random.permutation(IDS)[ranks], float(shares[BUDGET // WIDTH - 1] / shares[-1])


def of_row_cache(ids: np.ndarray) -> float:
    """Return the hit ratio of the row cache, which is asked and offered as a table does."""
    cache, out, hits = RowCache(RowBudget(BUDGET), WIDTH, 1, 12345), np.zeros(BATCH * WIDTH, np.uint8), 0
    for first in range(0, ids.size, BATCH):
        some = ids[first : first + BATCH]
        found = cache.find(some, np.zeros(some.size, np.uint64))
        if first >= ids.size // 2:
            hits += found.count
        if found.missed.size and cache.wants():
            rows, locations = out[: some.size * WIDTH], np.empty(some.size, np.uint64)
            locate_rows(rows, 0, some, WIDTH, cache.owner, locations)
            cache.admit(some, locations, found.missed, rows)
    return hits / (ids.size - ids.size // 2)


def of_policies(ids: np.ndarray) -> dict[str, float]:
    """Return the hit ratios of libcachesim's policies; none where it is not installed."""
    try:
        import libcachesim
    except ImportError:
        print("libcachesim is left out: pip install libcachesim")
        return {}
    ratios = {}
    for name in POLICIES:
        cache, request, hits = getattr(libcachesim, name)(BUDGET // WIDTH), libcachesim.Request(), 0
        for number, id in enumerate(ids.tolist()):
            request.obj_id = id
            hits += cache.get(request) and number >= ids.size // 2
        ratios[name] = hits / (ids.size - ids.size // 2)
    return ratios


def section(folder: Path, rounds: int) -> list[Figure]:
    """Tell by how many points the row cache is below the best there is."""
    found = []
    for exponent in EXPONENTS:
        ids, optimum = trace(exponent)
        ours, policies = of_row_cache(ids), of_policies(ids)
        shown = ", ".join(f"{name} {ratio:.3f}" for name, ratio in policies.items())
        print(f"Zipf {exponent:g}: row cache {ours:.3f}, best rows {optimum:.3f}" + (f", {shown}" if shown else ""))
        name = f"Zipf {exponent:g}: hit ratio below "
        found.append(Figure(name + "that of the best rows", "points", [100 * (optimum - ours)], OPTIMUM_BAR))
        if policies:
            best = max(policies, key=lambda name: policies[name])
            below = 100 * (policies[best] - ours)
            found.append(Figure(f"{name}libcachesim's best, {best}", "points", [below], BEST_BAR))
    return found
