"""The words for granularities, and their order. What every medium owes is in tests/contract/test_media.py."""

from __future__ import annotations

from pmkv.media.base import Granularity


def test_a_smaller_granularity_promises_more() -> None:
    assert Granularity.BYTE < Granularity.CACHE_LINE < Granularity.PAGE
    assert [granularity.word for granularity in sorted(Granularity)] == ["byte", "cache_line", "page"]
