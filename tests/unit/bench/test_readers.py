"""Readers over the network beside publishing and loading: a server, with few rows and little time."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import readers


def test_readers_beside_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "STRETCH", 0.3)
    monkeypatch.setattr(readers, "AFTERMATH", 0.1)
    monkeypatch.setattr(readers, "LONGER", 0.3)
    monkeypatch.setattr(readers, "PAUSE", 0.1)
    monkeypatch.setattr(readers, "LONG_PIECE", 4_096)
    figures = readers.section(tmp_path, 1, 2_000, 1 << 20)
    assert all(min(one.values) > 0 for one in figures)
    bars = [readers.PUBLISHING, readers.PUBLISHING, readers.LOADING, readers.LOADING]
    assert [one.bar for one in figures if one.bar] == bars
