"""LMDB's file is verified before LMDB walks it: no damage of a page ends a process or hides a key."""

from __future__ import annotations

import multiprocessing
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest

import pmkv
from pmkv.catalog.btree_check import BTreeFile
from pmkv.errors import CorruptionError
from pmkv.kernels.btree_pages import PAGE_BYTES
from pmkv.tools.check import check

FORK = multiprocessing.get_context("fork")
KEYS, MANY_KEYS = 700, 30_000  # so many make a catalog of some 100 KiB, and of 2 MiB


def verified(path: Path) -> BTreeFile:
    found = BTreeFile(path)
    found.check_rest(found.check_state(b"state"))
    return found


@pytest.mark.parametrize("seed", range(2))
def test_every_commit_of_lmdb_is_whole(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    with lmdb.open(str(tmp_path), map_size=64 << 20, max_dbs=2, sync=False) as env:
        state, keys = env.open_db(b"state"), env.open_db(b"keys")
        (tmp_path / "data.mdb").open("r+b").truncate(64 << 20)
        there: list[bytes] = []
        for _ in range(60):
            with env.begin(write=True) as txn:
                for _ in range(draw.randrange(1, 400)):
                    there.append(draw.randbytes(draw.choice([3, 20, 60, 500])))
                    txn.put(there[-1], b"abcd", db=keys)
                if draw.random() < 0.4:
                    draw.shuffle(there)
                    for key in there[len(there) // 2 :]:
                        txn.delete(key, db=keys)
                    del there[len(there) // 2 :]
                for _ in range(3):
                    name = b"record %d" % draw.randrange(20)
                    txn.put(name, draw.randbytes(draw.choice([10, 3000, 9000, 50_000])), db=state)
                if draw.random() < 0.3:
                    txn.delete(b"record %d" % draw.randrange(20), db=state)
            assert verified(tmp_path / "data.mdb").meta.commit == env.info()["last_txnid"]


def make(folder: Path, count: int) -> Path:
    """Make a store with two levels in its directory of keys, and free pages."""
    with pmkv.open(folder, capacity="8MiB") as store:
        for step in range(3):
            store.put_many({b"key:%06d" % i: b"%d" % i for i in range(step, count, 3)})
            store.create_table(f"t{step}", "i8").put([step], [step])
            store.checkpoint()
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("whole") / "store", KEYS)


def test_the_store_of_these_tests_is_whole(whole: Path) -> None:
    found = verified(whole / "catalog/data.mdb")
    assert 15 < found.meta.last < 60


def zeroed(pages: np.ndarray, page: int) -> None:
    pages[page] = 0


def exchanged(pages: np.ndarray, page: int) -> None:
    other = random.Random(page).randrange(2, len(pages))
    pages[[page, other]] = pages[[other, page]]


def overwritten(pages: np.ndarray, page: int) -> None:
    pages[page] = pages[page - 1 if page > 2 else page + 1]


def flipped(pages: np.ndarray, page: int, seed: int = 0) -> None:
    """Flip one bit where something stands."""
    draw = random.Random(f"{page} {seed}")
    used = np.flatnonzero(pages[page])
    at = int(draw.choice(used)) if used.size else draw.randrange(PAGE_BYTES)
    pages[page, at] ^= 1 << draw.randrange(8)


def flipped_in_head(pages: np.ndarray, page: int) -> None:
    draw = random.Random(page)
    pages[page, draw.randrange(40)] ^= 1 << draw.randrange(8)


def answers(folder: Path, count: int) -> Iterator[str]:
    """Ask everything that walks the catalog; yield what would be silent: keys that are missing without an error."""
    wanted = [b"key:%06d" % i for i in range(count)]
    report = check(folder)
    for options in ({"readonly": True}, {}):
        try:
            with pmkv.open(folder, **options) as store:
                if [key for key, _ in store.scan()] != wanted:
                    yield f"a scan with {options} lacks keys"
                for i in range(0, count, 397):
                    if [key for key, _ in store.scan(prefix=wanted[i])] != [wanted[i]]:
                        yield f"a scan with {options} lacks {wanted[i]!r}"
                if store.get_many(wanted) != [b"%d" % i for i in range(count)]:
                    yield "values are missing"
                if not options:
                    store.put(b"new", b"x")
                    store.checkpoint()
        except CorruptionError as error:
            if report.is_whole and "directory of keys" not in str(error):
                yield f"check found nothing, but {error}"
    if not options and not check(folder).is_whole and report.is_whole:
        yield "what was whole is damaged by a start"


def try_one(whole: Path, folder: Path, count: int, damage: Callable[[np.ndarray, int], None], page: int) -> None:
    """Damage a copy and ask; the process ends with 1 if something was silent."""
    shutil.copytree(whole, folder)
    pages = np.memmap(folder / "catalog/data.mdb", np.uint8, "r+").reshape(-1, PAGE_BYTES)
    damage(pages, page)
    pages.flush()
    del pages
    silent = list(answers(folder, count))
    shutil.rmtree(folder)
    if silent:
        print(damage.__name__, page, silent)
        raise SystemExit(1)


def try_all(whole: Path, folder: Path, count: int, damage: Callable[[np.ndarray, int], None]) -> int | None:
    """Damage each page in turn, in a child process; return how that ended: negative by a signal, 1 by silence."""

    def run() -> None:
        for page in range(BTreeFile(whole / "catalog/data.mdb").meta.last + 1):
            try_one(whole, folder, count, damage, page)

    child = FORK.Process(target=run)
    child.start()
    child.join()
    return child.exitcode


every_damage = pytest.mark.parametrize("damage", [zeroed, exchanged, overwritten, flipped, flipped_in_head])


@every_damage
def test_no_damage_of_a_page_is_fatal_or_silent(
    whole: Path, tmp_path: Path, damage: Callable[[np.ndarray, int], None]
) -> None:
    assert try_all(whole, tmp_path / "copy", KEYS, damage) == 0


@pytest.mark.long
@every_damage
def test_no_damage_of_a_page_of_a_larger_store_is_fatal_or_silent(
    tmp_path: Path, damage: Callable[[np.ndarray, int], None]
) -> None:
    whole = make(tmp_path / "store", MANY_KEYS)
    assert 512 <= BTreeFile(whole / "catalog/data.mdb").meta.last + 1  # pages of 4 KiB
    assert try_all(whole, tmp_path / "copy", MANY_KEYS, damage) == 0


def test_a_damaged_directory_is_made_anew(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "store")
    file = tmp_path / "store/catalog/data.mdb"
    pages = np.memmap(file, np.uint8, "r+").reshape(-1, PAGE_BYTES)
    found = BTreeFile(file)
    root = found.check_state(b"state").root
    pages[root] = 0
    pages.flush()
    with pytest.raises(CorruptionError, match=rf"page {root} of the catalog .*has another page's content"):
        verified(file)
    assert any(f"page {root} of the catalog" in problem for problem in check(tmp_path / "store").problems)
    with pmkv.open(tmp_path / "store", readonly=True) as store:
        with pytest.raises(CorruptionError, match=f"page {root}"):
            list(store.scan())
        assert store.get(b"key:000007") == b"7"
    with pmkv.open(tmp_path / "store") as store:
        assert len(list(store.scan())) == KEYS
    assert check(tmp_path / "store").is_whole
