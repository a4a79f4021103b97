"""The measurement of a full pool, on a small one: figures are there, and the chart is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import space


def test_a_small_pool_is_overwritten_and_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(space, "BATCH", 64)
    monkeypatch.setattr(space, "TIMES", 2)
    monkeypatch.setattr(space, "REST_S", 60.0)  # the figure is how much comes back, however slow the machine
    folder = tmp_path / "data"
    folder.mkdir()
    found = space.section(folder, 1, pool=16 << 20, cases=(("uniform", 50),))
    figures = {one.name.partition(": ")[2]: one for one in found if isinstance(one, space.Figure)}
    assert figures["bytes written to the pool"].values[0] >= 1
    assert figures["segments in use, all deleted"].values[0] <= 3
    assert (tmp_path / "space.png").stat().st_size > 1000
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("kind", ["uniform", "zipf"])
def test_ids_are_drawn_from_all_rows(kind: str) -> None:
    drawn = space.drawer(kind, 100)(np.random.default_rng(0), 10_000)
    counts = np.bincount(drawn, minlength=100)
    assert counts.size == 100 and counts.all()
    assert (counts.max() > 5 * counts.mean()) == (kind == "zipf")
