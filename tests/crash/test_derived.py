"""Catalog and files of runs in real directories: what is missing, cut or flipped, and backups of one part put back."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

import pmkv
from pmkv.tools.check import check
from tests.crash.operations import Model, check_scans, state_of

pytestmark = pytest.mark.crash

CAPACITY = 8 << 20
FORK = get_context("fork")
ENDS = {-signal.SIGSEGV: "no such memory", -signal.SIGBUS: "no such page of the file"}  # of a process
REFUSED = (pmkv.CorruptionError, pmkv.FormatError)


def grow(folder: Path, number: int) -> Model:
    """One opening: writes, a checkpoint, and writes behind it."""
    with pmkv.open(folder, capacity=CAPACITY) as store:
        if "t" not in store.tables():
            store.create_table("t", ("i8", (2,)))
        table = store.table("t")
        table.put(np.arange(number, number + 50), np.full((50, 2), number))
        store.put_many({b"key %d" % i: b"of %d" % number for i in range(number, number + 60)})
        store.keyspace(3).put(b"p" * 600 + b"%d" % number, b"long", expire_at=4_000_000_000_000)
        store.checkpoint()
        table.delete([number, number + 1])
        store.delete(b"key %d" % (number + 2))
        store.put(b"late", b"%d" % number)
        return state_of(store)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    grow(tmp_path / "store", 0)
    return tmp_path / "store"


def shown(folder: Path) -> Model:
    """Everything that a store shows, by every face."""
    with pmkv.open(folder, capacity=CAPACITY) as store:
        found = state_of(store)
        check_scans(store, found)
        store.check()
        return found


def put_back(folder: Path, backup: Path, *names: str) -> None:
    for name in names:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
            shutil.copytree(backup / name, folder / name)
        else:
            shutil.copy(backup / name, folder / name)


def test_a_lost_catalog_is_made_again_from_the_log(folder: Path) -> None:
    state = shown(folder)
    shutil.rmtree(folder / "catalog")
    assert shown(folder) == state
    with pmkv.open(folder, capacity=CAPACITY) as store:
        store.checkpoint()
    assert shown(folder) == state
    shutil.rmtree(folder / "catalog")
    shutil.rmtree(folder / "runs")
    assert shown(folder) == state


def test_a_catalog_older_than_the_log_is_a_beginning_of_it(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "backup")
    for number in (20, 40):
        state = grow(folder, number)
    put_back(folder, tmp_path / "backup", "catalog", "runs")
    assert shown(folder) == state


def test_a_pool_older_than_the_catalog_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "backup")
    state = shown(tmp_path / "backup")
    for number in (20, 40):
        grow(folder, number)
    put_back(folder, tmp_path / "backup", "pool")
    with pytest.raises(pmkv.CorruptionError, match="older"):
        shown(folder)
    for name in ("catalog", "runs"):
        shutil.rmtree(folder / name)
    assert shown(folder) == state, "the log holds everything"


@pytest.mark.parametrize("names", [("catalog",), ("runs",), ("pool", "runs"), ("pool", "catalog")], ids=" ".join)
def test_a_backup_of_some_of_the_parts_is_right_or_refused(
    names: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "backup")
    before = shown(tmp_path / "backup")
    for number in (20, 40, 60):
        after = grow(folder, number)
    put_back(folder, tmp_path / "backup", *names)
    try:
        found = shown(folder)
    except REFUSED:
        return
    assert found == (before if "pool" in names else after)


def test_the_catalog_and_runs_of_another_store_are_refused(folder: Path, tmp_path: Path) -> None:
    grow(tmp_path / "other", 7)
    put_back(folder, tmp_path / "other", "catalog", "runs")
    with pytest.raises(pmkv.FormatError, match="pool"):
        shown(folder)


def cut(file: Path) -> None:
    with open(file, "r+b") as handle:
        handle.truncate(file.stat().st_size * 2 // 3)


def lose(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    file.write_bytes(b"")


def flip(file: Path) -> None:
    """A bit of the first page behind the header."""
    data = bytearray(file.read_bytes())
    data[4096 + 100] ^= 4
    file.write_bytes(data)


def zero(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[4096:8192] = bytes(4096)
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [cut, lose, empty, flip, zero], ids=lambda damage: damage.__name__)
def test_a_damaged_file_of_runs_is_named(damage: Callable[[Path], None], folder: Path) -> None:
    state = shown(folder)
    for file in sorted((folder / "runs").iterdir()):
        damage(file)
    with pytest.raises(pmkv.CorruptionError, match=r"\.runs"):
        shown(folder)
    for name in ("catalog", "runs"):
        shutil.rmtree(folder / name)
    assert shown(folder) == state, "the log holds everything"


@pytest.mark.parametrize("pages", [0, 1, 3])
def test_a_catalog_that_is_cut_off_is_named_and_made_again(pages: int, folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("whole"))
    state = shown(folder.with_name("whole"))
    with open(folder / "catalog" / "data.mdb", "r+b") as handle:
        handle.truncate(pages * 4096)
    assert any("data.mdb" in problem for problem in check(folder).problems)
    with pmkv.open(folder, readonly=True) as store:
        assert state_of(store) == state
    assert shown(folder) == state
    assert check(folder).is_whole and (folder / "catalog.damaged").exists()


def test_a_damaged_catalog_is_not_replaced_by_a_damaged_log(folder: Path) -> None:
    """The log is replayed only if it is complete from its first frame."""
    with open(folder / "pool", "r+b") as pool:
        pool.seek(4096 + 64 + 200)
        pool.write(b"\xff" * 64)
    shown(folder)  # the catalog covers that frame, so it is not replayed
    data = (folder / "catalog/data.mdb").read_bytes()
    (folder / "catalog/data.mdb").write_bytes(data[:4096])
    with pytest.raises(pmkv.CorruptionError, match=r"catalog .*data\.mdb"):
        shown(folder)
    assert (folder / "catalog/data.mdb").read_bytes() == data[:4096]


def notice(copy: Path, state: Model, told: Connection) -> None:
    """Tells what is noticed of damage, and whether the store shows this state if nothing is."""
    try:
        noticed = check(copy).problems
        told.send((noticed, bool(noticed) or shown(copy) == state))
    except pmkv.PmkvError as error:
        told.send(([str(error)], True))
    told.close()
    os._exit(0)  # what else there is is the parent's to end


def noticed_of(copy: Path, state: Model) -> tuple[list[str], bool]:
    """In a process of its own, as LMDB may lead one to where there is no memory: that is noticed, too."""
    listening, told = FORK.Pipe(duplex=False)
    child = FORK.Process(target=notice, args=(copy, state, told))
    child.start()
    told.close()
    try:
        found = listening.recv()
    except EOFError:
        found = None
    child.join()
    if found is None:
        assert child.exitcode in ENDS, child.exitcode
        return [ENDS[child.exitcode]], True
    return found


def test_bits_of_the_catalog_that_flip_are_noticed_or_do_no_harm(folder: Path, tmp_path: Path) -> None:
    """LMDB's own pages have no checksum: where one leads astray, a scan may find too little, and only `check` tells; or
    the process ends."""
    state, rng = shown(folder), np.random.default_rng(1)
    file, copy = folder / "catalog" / "data.mdb", tmp_path / "copy"
    whole = file.read_bytes()
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))
    refused = ended = 0
    for at in rng.choice(used, 60, replace=False).tolist():
        data = bytearray(whole)
        data[at] ^= 1 << int(rng.integers(8))
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        (copy / "catalog" / "data.mdb").write_bytes(data)
        noticed, is_right = noticed_of(copy, state)
        assert is_right, f"byte {at}"
        refused += bool(noticed)
        ended += bool(noticed) and noticed[0] in ENDS.values()
    assert refused > ended
