"""Says aloud that tests were skipped because a package that only they need is not installed."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


def needs(package: str) -> Any:
    """Return an imported package, or skip the module that asks for it."""
    try:
        found = importlib.import_module(package)
    except ImportError:
        pytest.skip(f"{package} is not installed: `make ml` installs it", allow_module_level=True)
    if package == "torch":
        found.set_num_threads(1)  # tests run on all cores already
    return found
