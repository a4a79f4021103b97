"""The catalog in LMDB: damage, mixed files, a full disk, sudden death, readers beside the writer; and its twin in DRAM."""

from __future__ import annotations

from pathlib import Path

import lmdb
import pytest

from pmkv.errors import ClosedError, CorruptionError, FormatError
from pmkv.versions.catalog import LmdbCatalog, MemoryCatalog
from pmkv.versions.names import Key
from pmkv.versions.records import ROOT

POOL = bytes(range(16))


def named(*keys: bytes) -> list[Key]:
    return [(0, key, 1) for key in keys]


def all_keys(catalog: LmdbCatalog | MemoryCatalog) -> list[bytes]:
    return catalog.keys(0, b"", None, False, 1 << 30, lambda prefix, word: [])


def committed(path: Path, state: dict | None = None) -> None:
    catalog = LmdbCatalog(path, POOL)
    catalog.commit(state or {"y": 1, "tables": ["items"] * 30}, named(b"a", b"b"))
    catalog.close()


def test_a_state_outlives_its_process(tmp_path: Path) -> None:
    committed(tmp_path)
    catalog = LmdbCatalog(tmp_path, POOL)
    assert catalog.load() == {"y": 1, "tables": ["items"] * 30} and all_keys(catalog) == [b"a", b"b"]
    assert catalog.commit({"y": 2}) == 2
    catalog.check()
    catalog.close()
    catalog.close()
    with pytest.raises(ClosedError):
        catalog.load()


def overwrite(file: Path, old: bytes, new: bytes) -> None:
    """In all pages that hold it: LMDB keeps the former ones for a while."""
    with open(file, "r+b") as handle:
        data, at = handle.read(), -1
        while (at := data.find(old, at + 1)) >= 0:
            handle.seek(at)
            handle.write(new)


@pytest.mark.parametrize("wanted", [b'"items","items"', b'"sum"'])
def test_a_flipped_byte_is_refused_with_the_record_s_name_and_the_file(tmp_path: Path, wanted: bytes) -> None:
    committed(tmp_path)
    file = tmp_path / "catalog" / "data.mdb"
    overwrite(file, wanted, wanted[:-1] + bytes([wanted[-1] ^ 1]))
    catalog = LmdbCatalog(tmp_path, POOL)
    with pytest.raises(CorruptionError, match=r"tables|root") as caught:
        catalog.load()
    assert str(file) in str(caught.value)
    with pytest.raises(CorruptionError):
        catalog.commit({"y": 2})
    catalog.close()


def edit(path: Path, changes: dict[str, bytes]) -> None:
    with lmdb.open(str(path / "catalog"), max_dbs=2) as env, env.begin(write=True) as txn:
        for name, record in changes.items():
            txn.put(name.encode(), record, db=env.open_db(b"state", txn))


def record(path: Path, name: str) -> bytes:
    with lmdb.open(str(path / "catalog"), max_dbs=2) as env:
        state = env.open_db(b"state")
        with env.begin() as txn:
            return bytes(txn.get(name.encode(), db=state))


def test_a_record_of_another_commit_is_refused(tmp_path: Path) -> None:
    committed(tmp_path)
    before = record(tmp_path, "y")
    committed(tmp_path, {"y": 2, "z": 1})
    edit(tmp_path, {"y": before})
    catalog = LmdbCatalog(tmp_path, POOL)
    with pytest.raises(CorruptionError, match="do not belong together"):
        catalog.load()
    catalog.close()


def test_a_root_of_another_commit_is_refused(tmp_path: Path) -> None:
    committed(tmp_path)
    before = record(tmp_path, ROOT)
    committed(tmp_path, {"y": 2, "z": 1})
    edit(tmp_path, {ROOT: before})
    catalog = LmdbCatalog(tmp_path, POOL)
    with pytest.raises(CorruptionError, match="do not belong together"):
        catalog.load()
    catalog.close()


def test_a_damaged_entry_of_the_directory_is_refused_when_read(tmp_path: Path) -> None:
    catalog = LmdbCatalog(tmp_path, POOL)
    catalog.commit({}, named(b"some key of mine"))
    catalog.close()
    file = tmp_path / "catalog" / "data.mdb"
    overwrite(file, b"some key of mine", b"some key of mone")
    catalog = LmdbCatalog(tmp_path, POOL)
    with pytest.raises(CorruptionError, match="some key of mone"):
        all_keys(catalog)
    with pytest.raises(CorruptionError, match="some key of mone"):
        catalog.check()
    catalog.close()


def test_another_pool_s_catalog_is_refused(tmp_path: Path) -> None:
    committed(tmp_path)
    catalog = LmdbCatalog(tmp_path, b"q" * 16)
    for call in (catalog.load, lambda: catalog.commit({"y": 2})):
        with pytest.raises(FormatError, match=POOL.hex()):
            call()
    catalog.close()
    catalog = LmdbCatalog(tmp_path, POOL)
    assert catalog.load() is not None
    catalog.close()
