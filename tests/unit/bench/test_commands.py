"""The commands that are measured, and the mixed load, without a server of their own."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path

import pytest

from bench.commands import COMMANDS, chart, mixed, mixed_commands
from bench.measure import Comparison
from pmkv_server.commands import COMMANDS as TABLE
from tests.served import served


def test_each_is_one_that_is_served_in_waves() -> None:
    assert all(TABLE[line.split()[0].lower().encode()].action for line in COMMANDS.values())


def test_the_mixed_load_has_its_shares() -> None:
    names = Counter(one.split(b"\r\n")[2] for one in itertools.islice(mixed_commands(random.Random(3)), 4000))
    shares = {b"GET": 0.5, b"SET": 0.2, b"MGET": 0.1, b"INCR": 0.1, b"DEL": 0.05, b"EXPIRE": 0.05}
    assert names.keys() == shares.keys()
    assert all(names[name] / 4000 == pytest.approx(share, abs=0.03) for name, share in shares.items())


def test_a_mixed_load_is_served() -> None:
    pytest.importorskip("hiredis")
    with served("--pool", ":memory:") as server:
        assert mixed(server.port, 1, 0.2) > 0 and mixed(server.port, 16, 0.2) > 0


def test_a_chart_has_every_command(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = [Comparison(f"{name}, pipeline 1, interval : everysec", "", [2.0], [1.0]) for name in COMMANDS]
    chart(tmp_path / "chart.png", found)
    assert (tmp_path / "chart.png").stat().st_size > 10_000
