"""The server's counters."""

from __future__ import annotations

from pmkv_server.stats import Stats


def test_reset_keeps_the_start_and_nothing_else() -> None:
    stats = Stats()
    started, counters = stats.started, [name for name in vars(stats) if name != "started"]
    assert len(counters) >= 6
    for name in counters:
        assert getattr(stats, name) == 0
        setattr(stats, name, 5)
    stats.reset()
    assert [getattr(stats, name) for name in counters] == [0] * len(counters)
    assert stats.started == started
