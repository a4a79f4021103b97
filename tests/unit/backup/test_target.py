"""Targets: a directory and an object store behave alike."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pmkv.backup.target import ObjectStore, Target, absolute_place, open_target, relative_place
from pmkv.errors import CorruptionError, InvalidError


@pytest.fixture(params=["directory", "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    return open_target(tmp_path / "new" if request.param == "directory" else f"memory:/{tmp_path}/new")


def test_files(target: Target) -> None:
    assert target.names() == []
    target.write("b", b"0123456789")
    target.write("a", b"first")
    target.write("a", b"second")
    assert target.names() == ["a", "b"]
    assert target.read("a") == b"second"
    assert (target.read("b", 2, 5), target.read("b", 8, 20), target.read("b", 3)) == (b"234", b"89", b"3456789")
    target.remove("a")
    target.remove("a")
    assert target.names() == ["b"]
    with pytest.raises(CorruptionError, match=r"^a is missing in the backup .*new"):
        target.read("a")


def test_files_are_for_their_owner(tmp_path: Path) -> None:
    target = open_target(tmp_path / "new")
    target.write("a", b"")
    assert [(tmp_path / "new" / name).stat().st_mode & 0o777 for name in ("", "a")] == [0o700, 0o600]


def test_places_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidError, match=r"cannot be written.*choose another place"):
        open_target(tmp_path / "file").write("a", b"")
    with pytest.raises(InvalidError, match="the place of a backup: '' names no file"):
        open_target("")
    with pytest.raises(InvalidError, match="no place for a backup"):
        open_target("nonsense://x")


def test_without_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(InvalidError, match=r"pip install 'pmkv\[backup\]'"):
        ObjectStore("s3://bucket/folder")


def test_a_place_is_named_relative_to_another() -> None:
    assert relative_place("/backups/mon", "/backups/tue") == "../mon"
    assert absolute_place("../mon", "/moved/tue") == "/moved/mon"
    assert relative_place("/backups", "/backups") == "." and absolute_place(".", "s3://b/c") == "s3://b/c"
    assert relative_place("s3://b/mon", "/backups") == absolute_place("s3://b/mon", "/x") == "s3://b/mon"
