"""Restoring: damage of every file of a backup is refused by its name, and leaves no store behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import pmkv
from pmkv.backup import writer
from pmkv.errors import CorruptionError, FormatError, InvalidError, UnknownNameError
from tests.unit.backup.contents import contents, contents_of

State = dict[str, dict[str, object]]


@pytest.fixture
def backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, State]:
    """An increment and what it stands on, in one place, of a few pieces; and the state."""
    monkeypatch.setattr(writer, "PIECE_BYTES", 2048)
    with pmkv.open(tmp_path / "store", capacity="8MiB") as store:
        table = store.create_table("items", ("f4", 16))
        table.put(np.arange(100), np.ones((100, 16), "f4"))
        store.put_many({b"%d" % i: b"v" * i for i in range(60)})
        store.backup(tmp_path / "backup")
        table.put([1], np.full((1, 16), 2, "f4"))
        store.delete(b"7")
        store.backup(tmp_path / "backup", since=tmp_path / "backup")
        return tmp_path / "backup", {"main": contents(store)}


def refused(place: Path, folder: Path, name: str) -> None:
    """Assert that a restore names this file, and leaves nothing that could be opened."""
    with pytest.raises((CorruptionError, FormatError, UnknownNameError), match=name):
        pmkv.restore(place, folder)
    with pytest.raises(UnknownNameError):
        pmkv.open(folder, readonly=True)


def test_every_damaged_missing_or_exchanged_file_is_named(backup: tuple[Path, State], tmp_path: Path) -> None:
    place, state = backup
    needed = sorted(path.name for path in place.iterdir())
    old = next(name for name in needed if name.endswith(".json") and name != "current.json")
    needed.remove(old)  # the manifest of the first backup: the second one has a copy of what it says
    for i, name in enumerate(needed):
        content = (place / name).read_bytes()
        other = (place / needed[i - 1]).read_bytes()
        middle = len(content) // 2
        for damaged in (None, b"", content[:-1], other, content[:middle] + b"\xa5" + content[middle + 1 :]):
            if damaged is None:
                (place / name).unlink()
            else:
                (place / name).write_bytes(damaged)
            refused(place, tmp_path / "copy", name)
        (place / name).write_bytes(content)
    pmkv.restore(place, tmp_path / "copy")  # in the directory where the attempts were
    assert contents_of(tmp_path / "copy") == state


def test_an_increment_follows_its_backup_when_both_are_moved(tmp_path: Path) -> None:
    with pmkv.open(tmp_path / "store", capacity="8MiB") as store:
        store.put_many({b"%d" % i: b"v" for i in range(60)})
        store.backup(tmp_path / "place/mon")
        store.put(b"7", b"new")
        store.backup(tmp_path / "place/tue", since=tmp_path / "place/mon")
        state = {"main": contents(store)}
    shutil.move(tmp_path / "place", tmp_path / "moved")
    pmkv.restore(tmp_path / "moved/tue", tmp_path / "copy")
    assert contents_of(tmp_path / "copy") == state
    shutil.rmtree(tmp_path / "moved/mon")
    refused(tmp_path / "moved/tue", tmp_path / "again", r"piece is missing in the backup .*moved/mon")


def test_a_directory_in_use_is_left_alone(backup: tuple[Path, State], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_bytes(b"mine")
    for folder in (tmp_path / "full", tmp_path / "store"):
        with pytest.raises(InvalidError, match="not empty"):
            pmkv.restore(backup[0], folder)
    with pytest.raises(InvalidError, match="cannot be restored to"):
        pmkv.restore(backup[0], tmp_path / "full/file")


def test_an_interrupted_restore_is_begun_anew(backup: tuple[Path, State], tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pmkv.restore(backup[0], tmp_path / "copy", progress=interrupt)
    assert [one.name for one in (tmp_path / "copy").iterdir()] == ["restoring"]
    report = pmkv.restore(backup[0], tmp_path / "copy")
    assert report.entries == 100 + 59 and contents_of(tmp_path / "copy") == backup[1]


def test_capacity(backup: tuple[Path, State], tmp_path: Path) -> None:
    pmkv.restore(backup[0], tmp_path / "same")
    pmkv.restore(backup[0], tmp_path / "larger", capacity="16MiB")
    for name, size in (("same", 8 << 20), ("larger", 16 << 20)):
        with pmkv.open(tmp_path / name, readonly=True) as store:
            assert store.capacity == size
    pmkv.restore(backup[0], tmp_path / "other", pool=tmp_path / "elsewhere")
    with pmkv.open(tmp_path / "other", pool=tmp_path / "elsewhere") as store:
        assert contents(store) == backup[1]["main"]


def test_a_branch_of_what_an_undo_would_bring_back_is_restored(tmp_path: Path) -> None:
    with pmkv.open(tmp_path / "store", capacity="8MiB") as store:
        store.put(b"key", b"old")
        store.snapshot("old")
        store.put(b"key", b"new")
        store.rollback("old")
        store.branch("rescued", at="undo")
        store.backup(tmp_path / "backup", view=None)
    pmkv.restore(tmp_path / "backup", tmp_path / "new")
    with pmkv.open(tmp_path / "new") as restored:
        assert restored.get(b"key") == b"old" and restored.view("rescued").get(b"key") == b"new"
        assert set(restored.views()) == {"main", "old", "rescued"}


@pytest.mark.parametrize("view", ["main", None])
def test_tables_that_were_created_on_a_branch_come_back_where_they_are(tmp_path: Path, view: str | None) -> None:
    """The decision that created such a table names the branch, which a new store may not have, or has made before."""
    with pmkv.open(tmp_path / "store", capacity="8MiB") as store:
        for name in ("first", "second"):
            store.branch(name).create_table(f"of {name}".replace(" ", "_"), "i8").put([1, 2], [10, 20])
            store.promote(name)
        store.delete_view("first")
        store.branch("third").create_table("later", "i8").put([3], [30])
        views = ["main"] if view else ["main", "second", "third"]
        expected = {name: contents(store.view(name)) for name in views}
        store.backup(tmp_path / "backup", view=view)
    pmkv.restore(tmp_path / "backup", tmp_path / "new")
    with pmkv.open(tmp_path / "new") as restored:
        assert {name: contents(restored.view(name)) for name in views} == expected
        restored.check()
