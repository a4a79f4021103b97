"""What all tests share: an environment without pmkv's own settings, hypothesis' profile, and a word on what is missing.

A test that needs a program or library from outside PyPI asks for it by `needs_redis_server`, `needs_strace` or
`needs_libpmem`, which give its path, or skip with the name of the Debian package.
"""

from __future__ import annotations

import ctypes.util
import os
import shutil

import hypothesis
import pytest

hypothesis.settings.register_profile("pmkv", deadline=None, print_blob=True)
hypothesis.settings.load_profile("pmkv")

OUTSIDE = {
    "redis-server": lambda: shutil.which("redis-server"),
    "redis-benchmark": lambda: shutil.which("redis-benchmark"),
    "strace": lambda: shutil.which("strace"),
    "libpmem1": lambda: ctypes.util.find_library("pmem"),
}


def pytest_report_header() -> str:
    found = {package: find() for package, find in OUTSIDE.items()}
    return "from outside PyPI: " + ", ".join(f"{package}: {at or 'MISSING'}" for package, at in found.items())


def outside(package: str) -> str:
    at = OUTSIDE[package]()
    if at is None:
        pytest.skip(f"{package} is not installed; on Debian: apt install {package}")
    return at


@pytest.fixture(scope="session")
def needs_redis_server() -> str:
    return outside("redis-server")


@pytest.fixture(scope="session")
def needs_strace() -> str:
    return outside("strace")


@pytest.fixture(scope="session")
def needs_libpmem() -> str:
    return outside("libpmem1")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option of pmkv is also a variable PMKV_...; a developer's own must not reach a test or its servers."""
    for variable in [variable for variable in os.environ if variable.startswith("PMKV_")]:
        monkeypatch.delenv(variable)
