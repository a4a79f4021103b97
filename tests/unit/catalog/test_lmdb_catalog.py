"""The catalog in LMDB: damage, mixed files, a full disk, sudden death, readers beside the writer."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import pytest

from pmkv.catalog import lmdb_catalog as module
from pmkv.catalog.checked_records import ROOT
from pmkv.catalog.key_directory import Key
from pmkv.catalog.lmdb_catalog import LmdbCatalog, MemoryCatalog
from pmkv.errors import ClosedError, CorruptionError, FlushError, FormatError, LockedError, ReadOnlyError
from pmkv.runtime import scheduling as turns

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


def test_a_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    catalog = LmdbCatalog(tmp_path, POOL)
    catalog.commit({str(one): "x" * 5000 for one in range(100)})
    catalog.close()
    file = tmp_path / "catalog" / "data.mdb"
    with open(file, "r+b") as handle:
        handle.truncate(100_000)
    with pytest.raises(CorruptionError, match="cut off"):
        LmdbCatalog(tmp_path, POOL)
    file.unlink()
    with pytest.raises(CorruptionError, match="restore a backup"):
        LmdbCatalog(tmp_path, POOL)
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(CorruptionError, match="restore a backup"):
        LmdbCatalog(tmp_path, POOL)


def test_a_second_one_in_the_same_process_is_refused(tmp_path: Path) -> None:
    committed(tmp_path)
    catalog = LmdbCatalog(tmp_path, POOL)
    with pytest.raises(LockedError, match="already open"):
        LmdbCatalog(tmp_path, POOL, readonly=True)
    catalog.close()


def test_the_first_commit_makes_it(tmp_path: Path) -> None:
    catalog = LmdbCatalog(tmp_path / "store", POOL)
    assert catalog.load() is None and all_keys(catalog) == []
    catalog.check()
    assert list(tmp_path.iterdir()) == []
    assert catalog.commit({"y": 1}, named(b"a")) == 1
    assert catalog.load() == {"y": 1} and all_keys(catalog) == [b"a"]
    catalog.close()
    committed(tmp_path / "store")


def test_one_that_was_never_made_can_be_closed(tmp_path: Path) -> None:
    catalog = LmdbCatalog(tmp_path, POOL)
    catalog.close()
    with pytest.raises(ClosedError):
        catalog.load()
    with pytest.raises(ClosedError):
        catalog.commit({"y": 1})
    assert list(tmp_path.iterdir()) == []


class Crash(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("survived", range(9))
def test_an_end_within_the_first_commit_leaves_none_or_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    """After so many of the calls that make the catalog."""
    left = survived

    def counted(call: Callable) -> Callable:
        def maybe(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if not left:
                raise Crash
            left -= 1
            return call(*args, **kwargs)

        return maybe

    with monkeypatch.context() as patch:
        for place, name in ((os, "mkdir"), (os, "rename"), (os, "fsync"), (os, "ftruncate"), (lmdb, "open")):
            patch.setattr(place, name, counted(getattr(place, name)))
        catalog = LmdbCatalog(tmp_path, POOL)
        if survived < 8:
            with pytest.raises(Crash):
                catalog.commit({"y": 1})
        else:
            catalog.commit({"y": 1})
    catalog.close()
    catalog = LmdbCatalog(tmp_path, POOL)
    assert catalog.load() == ({"y": 1} if survived == 8 else None)
    assert catalog.commit({"y": 2}, named(b"a")) == (2 if survived == 8 else 1)
    assert all_keys(catalog) == [b"a"] and [one.name for one in tmp_path.iterdir()] == ["catalog"]
    catalog.check()
    catalog.close()


def test_half_a_new_catalog_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "catalog.new").mkdir()
    (tmp_path / "catalog.new" / "data.mdb").write_bytes(b"half")
    committed(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["catalog"]


def test_the_map_grows_with_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAP_BYTES", 1 << 20)
    catalog = LmdbCatalog(tmp_path, POOL)
    catalog.commit({"y": 1}, named(b"a"))
    catalog.commit({str(one): "x" * 50_000 for one in range(100)}, named(*(b"%06d" % one for one in range(40_000))))
    assert len(all_keys(catalog)) == 40_001
    catalog.check()
    catalog.close()
    catalog = LmdbCatalog(tmp_path, POOL)
    assert len(catalog.load() or {}) == 100
    catalog.close()


def test_reads_go_on_while_the_map_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAP_BYTES", 1 << 20)
    catalog = LmdbCatalog(tmp_path, POOL)
    catalog.commit({}, named(*(b"%06d" % one for one in range(200))))
    failures: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                assert catalog.keys(0, b"", None, False, 200, lambda prefix, word: [])[:200:199] == [
                    b"000000",
                    b"000199",
                ]
                assert catalog.keys(0, b"", b"0001", True, 10, lambda prefix, word: [])[0] == b"000099"
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for round in range(6):
        catalog.commit({"x": "x" * (1 << (18 + round))}, named(*(b"z%d:%d" % (round, one) for one in range(300))))
    done.set()
    for reader in readers:
        reader.join()
    catalog.close()
    assert not failures


FULL_DISK = """
import resource, sys
from pmkv.errors import FullError
from pmkv.catalog import lmdb_catalog as module
module.MAP_BYTES = 1 << 20
catalog = module.LmdbCatalog(sys.argv[1], bytes(range(16)))
catalog.commit({"y": 1}, [(0, b"a", 1)])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
for _ in range(2):
    try:
        catalog.commit({"y": 2, "x": "x" * 3_000_000}, [(0, b"b", 1)])
    except FullError as error:
        assert "make room" in str(error) and "data.mdb" in str(error), error
    else:
        raise SystemExit("it had room")
    assert catalog.load() == {"y": 1}
    assert catalog.keys(0, b"", None, False, 9, None) == [b"a"]
"""


@pytest.mark.parametrize("limit", [200_000, 1 << 20, 3 << 20])
def test_a_full_disk_leaves_the_state_before(tmp_path: Path, limit: int) -> None:
    """The limit is met by LMDB's writes, or by its map when that grows."""
    subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path), str(limit)], check=True, timeout=60)
    catalog = LmdbCatalog(tmp_path, POOL)
    assert catalog.load() == {"y": 1}
    assert catalog.commit({"y": 2, "x": "x" * 3_000_000}) == 2
    catalog.close()


@pytest.mark.parametrize("error", [lmdb.Error("mdb_txn_commit: Input/output error"), lmdb.PanicError("mdb_txn_begin")])
def test_after_a_failed_medium_the_catalog_says_so_and_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: lmdb.Error
) -> None:
    if not isinstance(error, lmdb.PanicError):
        error.code = errno.EIO
    catalog = LmdbCatalog(tmp_path, POOL)
    catalog.commit({"y": 1})

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(catalog, "_write", fail)
        with pytest.raises(FlushError, match="see to the disk"):
            catalog.commit({"y": 2})
    assert catalog.load() == {"y": 1}
    assert catalog.commit({"y": 3}) == 2
    catalog.close()


KILLED = """
import sys
from pmkv.catalog.lmdb_catalog import LmdbCatalog
catalog = LmdbCatalog(sys.argv[1], bytes(range(16)))
last = (catalog.load() or {"n": 0})["n"]
for n in range(last + 1, 1 << 30):
    new = [(0, b"%d:%d" % (n, one), 1) for one in range(1 + n % 700)]
    dead = [(0, b"%d:%d" % (n - 1, one), 1) for one in range(1 + (n - 1) % 700)]
    catalog.commit({"n": n} | {"record %d" % one: [n] * (n % 50) for one in range(n % 20)}, new, dead)
    print(n, flush=True)
"""


def test_a_killed_process_leaves_every_commit_whole(tmp_path: Path) -> None:
    rng = random.Random(1)
    for _ in range(12):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(rng.random() * 0.05)
        child.send_signal(signal.SIGKILL)
        lines = [line for line in (first + child.stdout.read()).split(b"\n")[:-1] if line]
        child.wait()
        acknowledged = int(lines[-1])
        catalog = LmdbCatalog(tmp_path, POOL)
        state = catalog.load()
        assert state is not None
        n = state["n"]
        assert acknowledged <= n <= acknowledged + 1
        assert state == {"n": n} | {f"record {one}": [n] * (n % 50) for one in range(n % 20)}
        assert set(all_keys(catalog)) == {b"%d:%d" % (n, one) for one in range(1 + n % 700)}
        catalog.check()
        catalog.close()


RENEWED = """
import sys
from pmkv.catalog.lmdb_catalog import LmdbCatalog
catalog = LmdbCatalog(sys.argv[1], bytes(range(16)), readonly=True)
print(catalog.renew(), flush=True)
for line in sys.stdin:
    state = catalog.renew()
    print(state and state["n"], len(catalog.keys(0, b"", None, False, 1 << 20, None)), flush=True)
catalog.close()
"""


def test_a_reader_that_renews_keeps_to_the_last_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAP_BYTES", 1 << 20)
    catalog = LmdbCatalog(tmp_path, POOL)
    with reader_of(tmp_path, RENEWED) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == "None\n"  # nothing was ever committed
        for n in range(1, 60):
            catalog.commit({"n": n, "x": "x" * 20_000}, named(*(b"%d:%d" % (n, one) for one in range(200))))
            assert n % 7 or (ask(reader), ask(reader)) == (f"{n} {200 * n}", f"None {200 * n}")
        reader.communicate()
    assert not readers_of(catalog)
    catalog.close()


READER = """
import sys
from pmkv.errors import ReadOnlyError
from pmkv.catalog.lmdb_catalog import LmdbCatalog
catalog = LmdbCatalog(sys.argv[1], bytes(range(16)), readonly=True)
for line in sys.stdin:
    print(catalog.load()["n"], len(catalog.keys(0, b"", None, False, 1 << 20, None)), flush=True)
catalog.close()
"""


def reader_of(path: Path, code: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code or READER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ask(reader: subprocess.Popen[str]) -> str:
    assert reader.stdin is not None and reader.stdout is not None
    reader.stdin.write("?\n")
    reader.stdin.flush()
    return reader.stdout.readline().strip()


def readers_of(catalog: LmdbCatalog) -> set[int]:
    """Other processes that LMDB keeps pages for."""
    environment = catalog._environment()
    environment.reader_check()
    table = [line.split() for line in environment.readers().splitlines()[1:]]
    return {int(pid) for pid, _, number in table if number != "-"} - {os.getpid()}


def test_a_reader_keeps_to_its_commit_and_is_seen_by_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAP_BYTES", 1 << 20)
    catalog = LmdbCatalog(tmp_path, POOL)
    for n in range(1, 4):
        catalog.commit({"n": n}, named(b"%d" % n))
    assert not readers_of(catalog)
    with reader_of(tmp_path) as early:
        assert ask(early) == "3 3" and readers_of(catalog) == {early.pid}
        for n in range(4, 104):
            catalog.commit({"n": n, "x": "x" * 20_000}, named(*(b"%d:%d" % (n, one) for one in range(200))))
            assert n % 20 or ask(early) == "3 3"
        with reader_of(tmp_path) as late:
            assert ask(late) == "103 20003" and readers_of(catalog) == {early.pid, late.pid}
            early.communicate()
            assert readers_of(catalog) == {late.pid}
            late.kill()
    assert not readers_of(catalog)
    catalog.check()
    catalog.close()


def test_a_reader_changes_nothing_and_needs_nothing(tmp_path: Path) -> None:
    reader = LmdbCatalog(tmp_path, POOL, readonly=True)
    assert reader.load() is None and all_keys(reader) == [] and list(tmp_path.iterdir()) == []
    reader.check()
    reader.close()
    committed(tmp_path)
    reader = LmdbCatalog(tmp_path, POOL, readonly=True)
    with pytest.raises(ReadOnlyError):
        reader.commit({"y": 2})
    reader.check()
    reader.close()


def test_no_step_of_a_large_commit_holds_the_interpreter_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured in time of the processor between two rests, so that other programs do not count."""
    held: list[float] = []
    catalog = LmdbCatalog(tmp_path, POOL)
    since = time.thread_time()

    def rest(_: float) -> None:
        nonlocal since
        held.append(time.thread_time() - since)
        since = time.thread_time()

    monkeypatch.setattr(turns.time, "sleep", rest)
    catalog.commit({}, ((0, b"%d" % (one * 7919 % 1_000_003), 1) for one in range(60_000)))
    catalog.close()
    assert len(held) > 30 and sorted(held)[-4] < 0.005  # sorting and the transaction's end are long, but do not hold it


@pytest.mark.parametrize("committed", [True, False])
def test_a_crash_of_the_one_in_memory_leaves_the_state_before_or_after(committed: bool) -> None:
    catalog = MemoryCatalog(POOL)
    catalog.commit({"y": 1}, named(b"a", b"b"))
    catalog.commit({"y": 2}, named(b"b", b"c"), named(b"a", b"b"))
    other = catalog.survivor(committed)
    assert other.load() == {"y": 2 if committed else 1}
    assert all_keys(other) == ([b"b", b"c"] if committed else [b"a", b"b"])
    assert other.commit({"y": 3}, named(b"d")) == (3 if committed else 2)
    other.check()
    assert catalog.load() == {"y": 2} and all_keys(catalog) == [b"b", b"c"]


def test_a_crash_before_the_first_commit_in_memory_is_over_leaves_nothing() -> None:
    catalog = MemoryCatalog(POOL)
    catalog.commit({"y": 1}, named(b"a"))
    other = catalog.survivor(False)
    assert other.load() is None and all_keys(other) == []
