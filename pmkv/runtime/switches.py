"""Off switches of optimisations, in the environment: to measure what one buys, or whether a fault is in it."""

from __future__ import annotations

import os


def is_on(name: str) -> bool:
    """Return whether an optimisation is on: all are, unless PMKV_<NAME>=off is in the environment."""
    return os.environ.get(f"PMKV_{name}") != "off"
