"""Progress bars: nothing is printed where nobody looks."""

from __future__ import annotations

import pytest

from pmkv_server.progress import progress_bar


def test_a_bar_is_quiet_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("backup") as progress:
        progress(1, 2)
        progress(2, 2)
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar("backup") as progress:
        progress(7, 20)
    shown = capsys.readouterr()
    assert "7/20" in shown.err and shown.out == ""
