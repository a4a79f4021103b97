"""File descriptors: how many clients fit, and what is kept back."""

from __future__ import annotations

import resource

import pytest

from pmkv_server.net.descriptors import RESERVED_DESCRIPTORS, clients_that_fit, raise_limit


def test_the_soft_limit_becomes_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        limit = raise_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert limit == (hard if hard != resource.RLIM_INFINITY else 1 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("limit", "with_rest", "found"),
    [
        (1 << 20, True, (10_000, 10_000)),
        (1024, False, (1024 - RESERVED_DESCRIPTORS, 0)),
        (RESERVED_DESCRIPTORS + 16, True, (12, 4)),
        (10, True, (1, 1)),
    ],
)
def test_clients_are_as_many_as_fit_and_fewer_are_said_aloud(
    limit: int, with_rest: bool, found: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    assert clients_that_fit(10_000, limit, with_rest) == found
    assert bool(caplog.records) == (found[0] < 10_000)
    if caplog.records:
        assert f"max-clients is {found[0]} instead of 10000: at most {limit} files may be open" in caplog.text
