"""Swap files: what cannot be made is said, and nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import swap_file
from bench.servers import BenchError


def test_what_fails_is_said_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap_file.shutil, "which", lambda program: program)
    monkeypatch.setattr(swap_file, "_run", lambda command, path: (_ for _ in ()).throw(BenchError(f"{command} failed")))
    with pytest.raises(BenchError, match="mkswap failed"), swap_file.swap_file(tmp_path / "swap", 1 << 16):
        pass
    assert not (tmp_path / "swap").exists()


def test_a_program_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap_file.shutil, "which", lambda program: None)
    with pytest.raises(BenchError, match="mkswap is not installed"), swap_file.swap_file(tmp_path / "swap", 1 << 16):
        pass


def test_it_is_removed_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    monkeypatch.setattr(swap_file.shutil, "which", lambda program: program)
    monkeypatch.setattr(swap_file, "_run", lambda command, path: ran.append(command))
    with swap_file.swap_file(tmp_path / "swap", 1 << 16):
        assert (tmp_path / "swap").stat().st_size == 1 << 16
    assert ran == ["mkswap", "swapon", "swapoff"] and not (tmp_path / "swap").exists()
