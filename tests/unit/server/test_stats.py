"""Counters by command and by error code, and rates between two samples."""

from __future__ import annotations

from pmkv_server.stats import Stats


def test_commands_and_errors_are_counted_by_name() -> None:
    stats = Stats()
    stats.count("get", 2, 3000)
    stats.count("get", 1, 1000)
    stats.count_error(b"-WRONGPASS invalid\r\n")
    stats.count_error(b"-ERR\r\n")
    figures = stats.by_command["get"]
    assert (figures.calls, figures.nanoseconds, figures.failed, figures.rejected) == (3, 4000, 0, 0)
    assert dict(stats.errors) == {"WRONGPASS": 1, "ERR": 1}
    stats.reset()
    assert not stats.by_command and not stats.errors


def test_rates_are_those_between_two_samples() -> None:
    stats = Stats()
    stats.sample()
    stats.commands += 1000
    stats._last = (stats.now - 2, stats._last[1])
    stats.sample()
    assert 300 < stats.rates["commands"] <= 500 and stats.rates["input_bytes"] == 0
    stats.reset()
    stats.sample()
    assert stats.rates["commands"] == 0
