"""Feast's own tests of online stores, run against ours. They stand in Feast's repository only:

    git clone --depth 1 https://github.com/feast-dev/feast
    FEAST_SOURCE=feast FEAST_PYTHON=... make test-long ARGS=tests/compat/test_feast_suite.py

FEAST_PYTHON has what these tests import (docs/INTEGRATIONS.md); without it, it is the one that runs us.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.served import ROOT

pytestmark = [pytest.mark.compat, pytest.mark.long]
STORES = "tests/integration/online_store"
UNIVERSAL = (
    f"{STORES}/test_universal_online.py",
    f"{STORES}/test_universal_e2e.py",
    f"{STORES}/test_push_features_to_online_store.py",
)
MATERIALIZATION = "tests/integration/materialization/test_universal_materialization.py"
LEFT_OUT = (
    "dynamo",  # starts DynamoDB in Docker, whatever store is tried
    "entity_ttl",  # by `key_ttl_seconds`, a setting of the Redis store; ours goes by the ttl of views
)
RUNS = {  # the name that our store takes: what is run, how many tests at least have to pass
    "pmkv": (UNIVERSAL, 7),
    "redis": ((*UNIVERSAL, MATERIALIZATION), 15),
    "sqlite": ((f"{STORES}/test_universal_online_types.py",), 15),
    "mongodb": ((f"{STORES}/test_push_features_to_online_store.py",), 2),
}


@pytest.fixture(scope="module")
def source() -> Path:
    given = os.environ.get("FEAST_SOURCE")
    if not given:
        pytest.skip("FEAST_SOURCE does not name a checkout of https://github.com/feast-dev/feast")
    folder = Path(given).absolute() / "sdk" / "python"
    if not (folder / STORES).is_dir():
        pytest.fail(f"FEAST_SOURCE={given}: there is no sdk/python/{STORES} in it")
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_the_tests_of_online_stores_pass(name: str, source: Path) -> None:
    files, least = RUNS[name]
    python = os.environ.get("FEAST_PYTHON", sys.executable)
    folders = os.pathsep.join(str(ROOT / folder) for folder in ("tests", "tests/compat"))
    settings = {"FULL_REPO_CONFIGS_MODULE": "feast_stores", "FEAST_IS_LOCAL_TEST": "True", "IS_TEST": "True"}
    settings |= {"PYTHONPATH": folders, "PMKV_FEAST_AS": name}
    left_out = " or ".join(LEFT_OUT)
    ran = subprocess.run(
        [python, "-m", "pytest", "-p", "feast_stores", "-p", "no:cacheprovider", "--integration", "-q", "-k",
         f"not ({left_out})", *files],
        cwd=source, capture_output=True, text=True, env={**os.environ, **settings},
    )  # fmt: skip
    passed = re.search(r"(\d+) passed", ran.stdout)
    print(ran.stdout.strip().rsplit("\n", 1)[-1])
    assert ran.returncode == 0 and passed and int(passed[1]) >= least, ran.stdout[-8000:] + ran.stderr[-2000:]
