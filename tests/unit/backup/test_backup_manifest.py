"""Manifests: damage of any byte is refused by name, and so is what belongs to another backup."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmkv.backup import backup_manifest
from pmkv.backup.backup_manifest import (
    CURRENT,
    Backup,
    Manifest,
    Part,
    Piece,
    Step,
    current_file,
    from_dict,
    sealed,
    unsealed,
)
from pmkv.backup.target import Directory, open_target
from pmkv.errors import CorruptionError, FormatError, UnknownNameError

ID = "0123456789abcdef-01234567"
FILE = f"{ID}-000001.piece"
PIECE = Piece.of(FILE, 2, b"index", b"body")
PART = Part("table/1", {"name": "t"}, 4, 7, 3, 2, ((PIECE,),))
MANIFEST = Manifest(
    ID, "ab", 1, 2, {"lsn": 2}, {"0": 1}, 1 << 20, "main", None, (Step("head", "main", "main", {"table/1": PART}),), {}
)


@pytest.fixture
def target(tmp_path: Path) -> Directory:
    found = Directory(tmp_path)
    found.write(FILE, b"indexbody")
    found.write(f"{ID}.json", MANIFEST.encoded())
    found.write(CURRENT, current_file(ID))
    return found


def test_what_is_encoded_is_decoded() -> None:
    assert from_dict(unsealed(f"{ID}.json", "y", MANIFEST.encoded())) == MANIFEST


def test_a_backup_is_opened_by_its_place_or_its_manifest(target: Directory) -> None:
    for place in (target.place, f"{target.place}/{ID}.json"):
        backup = Backup.open(place)
        assert backup.manifest == MANIFEST
        assert (backup.pieces.index(PIECE), backup.pieces.body(PIECE)) == (b"index", b"body")


def test_no_backup(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"there is no backup in .*: no current.json is there"):
        Backup.open(str(tmp_path / "nothing"))


@pytest.mark.parametrize("name", [CURRENT, f"{ID}.json"])
def test_damage_of_any_byte(target: Directory, name: str) -> None:
    whole = target.read(name)
    for at in range(len(whole)):
        if whole[at : at + 1].isspace():
            continue  # blanks between the fields of JSON say nothing
        (target.path / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises((CorruptionError, FormatError), match=name):
            Backup.open(target.place)


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_manifest, "BACKUP_VERSION", 2)
    content = sealed("x", {})
    monkeypatch.undo()
    with pytest.raises(FormatError, match="x of the backup y has version 2, this pmkv reads 1"):
        unsealed("x", "y", content)


def test_a_manifest_under_another_name(target: Directory) -> None:
    other = ID.replace("0", "f")
    target.write(f"{other}.json", MANIFEST.encoded())
    with pytest.raises(CorruptionError, match=f"{other}.json .* is damaged"):
        Backup.open(f"{target.place}/{other}.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "is missing"), (b"indexbod", "is cut off"), (b"indexbodY", "is damaged"), (b"Indexbody", "is damaged")],
)
def test_damage_of_a_piece(target: Directory, content: bytes | None, said: str) -> None:
    if content is None:
        target.remove(FILE)
    else:
        target.write(FILE, content)
    pieces = Backup.at(open_target(target.place)).pieces
    with pytest.raises(CorruptionError, match=f"{FILE} .*{said}|{FILE} {said}"):
        pieces.index(PIECE), pieces.body(PIECE)


def test_a_piece_under_another_name(target: Directory) -> None:
    other = Piece.of(FILE.replace("000001", "000002"), 2, b"index", b"body")
    target.write(FILE, target.read(FILE))
    target.write(other.file, b"indexbody")
    assert other.index_check != PIECE.index_check
    assert Backup.open(target.place).pieces.index(other) == b"index"
    with pytest.raises(CorruptionError, match="another file under its name"):
        Backup.open(target.place).pieces.index(Piece(other.file, 2, 5, 4, PIECE.index_check, PIECE.body_check))
