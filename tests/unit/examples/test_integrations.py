"""The examples of the integrations, each run twice against one server, as a user would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.served import served

EXAMPLES = Path(__file__).parents[3] / "examples"
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}  # torch's threads would wait for each other beside other tests
SHOWN = {
    "dlrm_torch.py": ("torch", "outputs are equal to the last bit"),
    "dataloader.py": ("torch", "10,000 rows in batches of 256 from 2 workers"),
    "engram.py": ("numpy", "all of them right"),
    "feast/run.py": ("feast", "'driver_id': 1002, 'earned': 200.0"),
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served("--pool", ":memory:", "--capacity", "512MiB") as running:
        yield f"pmkv://127.0.0.1:{running.port}"


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_runs_twice(url: str, name: str) -> None:
    needed, shown = SHOWN[name]
    found = find_spec(needed)
    if found is None or found.origin is None:  # a folder of that name, such as the example's own
        pytest.skip(f"{needed} is not installed: `make ml` installs it")
    for _ in range(2):
        ran = subprocess.run([sys.executable, EXAMPLES / name, url], capture_output=True, text=True, env=ALONE)
        assert ran.returncode == 0, ran.stderr
        assert shown in ran.stdout
