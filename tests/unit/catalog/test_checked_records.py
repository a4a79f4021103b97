"""Records of the catalog: what a checksum and the root record's sum notice."""

from __future__ import annotations

import pytest

from pmkv.catalog import checked_records as records
from pmkv.catalog.checked_records import ROOT, CheckedRecords, Root
from pmkv.errors import CorruptionError, FormatError

POOL = b"p" * 16
SEALER = CheckedRecords(POOL, "here")


def sealed(state: dict, commit: int = 1) -> dict[str, bytes]:
    changed, sums = SEALER.changed(state, {})
    return changed | {ROOT: SEALER.root(Root(commit, 0, sums))}


def test_only_what_changed_is_sealed_again() -> None:
    _, sums = SEALER.changed({"a": 1, "b": [2]}, {})
    changed, after = SEALER.changed({"a": 1, "b": [3]}, sums)
    assert list(changed) == ["b"] and after.keys() == {"a", "b"}


def test_every_flipped_byte_is_noticed() -> None:
    whole = sealed({"a": [1, 2, 3], "b": {"c": "d"}})
    for name, record in whole.items():
        for at in range(len(record)):
            for flip in (0x01, 0x20, 0xFF):
                damaged = record[:at] + bytes([record[at] ^ flip]) + record[at + 1 :]
                with pytest.raises(CorruptionError, match=repr(name.lstrip("\0"))):
                    SEALER.open((whole | {name: damaged}).items())


def test_records_that_do_not_belong_together_are_refused() -> None:
    first, second = sealed({"a": 1, "b": 2}), sealed({"a": 1, "b": 3}, 2)
    for mixed in (second | {"b": first["b"]}, first | {ROOT: second[ROOT]}, {"a": first["a"], ROOT: first[ROOT]},
                  first | {"c": first["a"]}, {"a": first["b"], "b": first["a"], ROOT: first[ROOT]}):  # fmt: skip
        with pytest.raises(CorruptionError):
            SEALER.open(mixed.items())
    with pytest.raises(CorruptionError, match="root record"):
        SEALER.open({"a": first["a"]}.items())


def test_another_pool_and_another_version_are_told_from_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FormatError, match=POOL.hex()):
        CheckedRecords(b"q" * 16, "here").open(sealed({}).items())
    monkeypatch.setattr(records, "VERSION", 3)
    later = sealed({"a": 1})
    monkeypatch.undo()
    with pytest.raises(FormatError, match="version 3"):
        SEALER.open(later.items())
