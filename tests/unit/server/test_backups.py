"""Backups that clients request: where they may be, and what is told at their end."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import pmkv
from pmkv.errors import InvalidError
from pmkv_server.backups import ServerBackups


def test_names_are_places_below_the_directory() -> None:
    assert ServerBackups("s3://bucket/x/").place_of("mon-1.a") == "s3://bucket/x/mon-1.a"
    for name in ("", "..", "a/b", "/etc", ".hidden", "a" * 129):
        with pytest.raises(InvalidError, match="cannot name a backup"):
            ServerBackups("backups").place_of(name)
    with pytest.raises(InvalidError, match="start it with --backup-dir"):
        ServerBackups("").place_of("mon")


def test_the_end_is_told(tmp_path: Path) -> None:
    told: list[tuple[Any, Exception | None]] = []
    end = threading.Event()

    def ended(report: Any, problem: Exception | None) -> None:
        told.append((report, problem))
        end.set()

    with pmkv.open(tmp_path / "data", capacity="8MiB") as store:
        store.put(b"a", b"1")
        backups = ServerBackups(str(tmp_path / "backups"))
        for since in (None, "nothing"):
            backups.begin(store, "mon", "main", since, ended)
            assert end.wait(20)
            end.clear()
    (report, none), (nothing, problem) = told
    assert (report.entries, none, nothing) == (1, None, None)
    assert isinstance(problem, pmkv.errors.UnknownNameError) and backups.last_error == str(problem)
    assert backups.last_at > 0 and backups.name == ""
