"""A data directory: who may open it, and what is said when it is not what it should be."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import orjson
import pytest

import pmkv
from pmkv.data_directory import IDENTITY
from pmkv.errors import (
    CorruptionError,
    FormatError,
    InvalidError,
    LockedError,
    ReadOnlyError,
    UnknownNameError,
)
from pmkv.log.format import VERSION, PoolHeader, pack_pool
from pmkv.tools.check import check
from pmkv.tools.dump import dump

CAPACITY = 4 << 20
HOLD = """
import sys, pmkv
with pmkv.open(sys.argv[1], capacity=4 << 20) as store:
    store.put(b"held", b"yes")
    print("open", flush=True)
    sys.stdin.read()
"""


def make(path: Path, **options: object) -> Path:
    with pmkv.open(path, capacity=CAPACITY, **options) as store:
        store.put(b"key", b"value")
    return path


def overwrite(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


@contextmanager
def held_by_another(path: Path) -> Iterator[int]:
    """The id of a process that has the store open."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "open\n"
        yield holder.pid
    finally:
        holder.communicate()
    assert holder.returncode == 0


def test_another_process_is_named_and_readers_are_let_in(tmp_path: Path) -> None:
    with held_by_another(tmp_path) as pid:
        with pytest.raises(LockedError, match=rf"{tmp_path} is locked by process {pid}:.*readonly=True"):
            pmkv.open(tmp_path, capacity=CAPACITY)
        with pmkv.open(tmp_path, readonly=True) as store:
            assert store.get(b"held") == b"yes"
    with pmkv.open(tmp_path, capacity=CAPACITY) as store:
        assert store.get(b"held") == b"yes"


def test_a_store_locks_out_another_of_the_same_process(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity=CAPACITY), pytest.raises(LockedError, match=f"process {os.getpid()}"):
        pmkv.open(tmp_path, capacity=CAPACITY)
    make(tmp_path)


def test_readonly_beside_a_writer_sees_what_was_durable_and_writes_nothing(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity=CAPACITY) as writer:
        writer.put(b"early", b"1")
        before = (tmp_path / "pool").read_bytes()[: 2 << 20]
        with pmkv.open(tmp_path, readonly=True, follow=False) as reader:
            writer.put(b"late", b"2")
            assert reader.get(b"early") == b"1" and reader.get(b"late") is None
            for write in (
                lambda: reader.put(b"k", b"v"),
                lambda: reader.delete(b"early"),
                lambda: reader.create_table("t", "f4"),
                lambda: reader.flush_all(),
            ):
                with pytest.raises(ReadOnlyError, match="readonly"):
                    write()
            assert reader.readonly and not writer.readonly
        assert writer.get_many([b"early", b"late"]) == [b"1", b"2"]
        with pmkv.open(tmp_path, readonly=True) as reader:
            assert reader.get(b"late") == b"2"
    assert (tmp_path / "pool").read_bytes()[:4160] == before[:4160]


def test_readonly_leaves_every_byte_as_it_is(tmp_path: Path) -> None:
    make(tmp_path)
    before = bytes_of(tmp_path)
    with pmkv.open(tmp_path, readonly=True) as store:
        assert store.get(b"key") == b"value"
    assert bytes_of(tmp_path) == before


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Of every file, but for LMDB's table of readers."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock.mdb"}


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_readonly_makes_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnknownNameError, match="holds no store to be read"):
        pmkv.open(tmp_path / name, readonly=True)
    assert not (tmp_path / "nothing").exists() and not list((tmp_path / "empty").iterdir())


def test_a_path_below_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(InvalidError, match=f"{path} cannot be used: .*choose another"):
            pmkv.open(path, capacity=CAPACITY)


def test_a_directory_of_another_version_of_the_format(tmp_path: Path) -> None:
    identity = orjson.loads((make(tmp_path) / IDENTITY).read_bytes())
    (tmp_path / IDENTITY).write_bytes(orjson.dumps({**identity, "format": VERSION + 1}))
    with pytest.raises(FormatError, match=f"has format version {VERSION + 1}, this pmkv reads version {VERSION}"):
        pmkv.open(tmp_path, capacity=CAPACITY)


def test_a_pool_of_another_version_of_the_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = orjson.loads((make(tmp_path) / IDENTITY).read_bytes())
    monkeypatch.setattr("pmkv.log.format.VERSION", VERSION + 1)
    header = pack_pool(PoolHeader(256 << 10, bytes.fromhex(identity["pool_id"]), bytes(16)))
    overwrite(tmp_path / "pool", 0, header)
    monkeypatch.undo()
    with pytest.raises(FormatError, match=f"the pool has format version {VERSION + 1}"):
        pmkv.open(tmp_path, capacity=CAPACITY)


def test_the_pool_of_another_directory(tmp_path: Path) -> None:
    one, other = make(tmp_path / "one"), make(tmp_path / "other")
    mine = orjson.loads((one / IDENTITY).read_bytes())["pool_id"]
    (one / "pool").write_bytes((other / "pool").read_bytes())
    with pytest.raises(FormatError, match=f"is another store's pool: .*{one} belongs to {mine}"):
        pmkv.open(one, capacity=CAPACITY)
    with pytest.raises(FormatError, match="belongs to another directory"):
        pmkv.open(tmp_path / "new", pool=other / "pool", capacity=CAPACITY)
    with pmkv.open(other, capacity=CAPACITY) as store:
        assert store.get(b"key") == b"value"


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"\0" * 60, b'{"format":1}', b'{"pool_id":"00"}', b'"text"'])
def test_a_damaged_identity_is_named_and_the_pool_is_left_alone(tmp_path: Path, damaged: bytes) -> None:
    whole = (make(tmp_path) / IDENTITY).read_bytes()
    (tmp_path / IDENTITY).write_bytes(damaged)
    before = (tmp_path / "pool").read_bytes()
    for readonly in (False, True):
        with pytest.raises(CorruptionError, match=f"{IDENTITY} is damaged"):
            pmkv.open(tmp_path, capacity=CAPACITY, readonly=readonly)
    assert (tmp_path / "pool").read_bytes() == before
    (tmp_path / IDENTITY).write_bytes(whole)
    make(tmp_path)


def test_a_lost_identity_does_not_make_a_new_pool_of_one_with_data(tmp_path: Path) -> None:
    (make(tmp_path) / IDENTITY).unlink()
    with pytest.raises(FormatError, match=f"has no {IDENTITY}"):
        pmkv.open(tmp_path, capacity=CAPACITY)


@pytest.mark.parametrize("size", [16, 64, 4096])
def test_zeroed_first_bytes_of_a_pool_are_damage_and_no_new_pool(tmp_path: Path, size: int) -> None:
    overwrite(make(tmp_path) / "pool", 0, bytes(size))
    with pytest.raises(CorruptionError, match=f"{tmp_path / 'pool'} is not a pool any more"):
        pmkv.open(tmp_path, capacity=CAPACITY)


def test_a_flipped_bit_of_the_pools_header(tmp_path: Path) -> None:
    overwrite(make(tmp_path) / "pool", 24, b"\xff")
    with pytest.raises(CorruptionError, match=r"the pool's header .* is damaged"):
        pmkv.open(tmp_path, capacity=CAPACITY)


@pytest.mark.parametrize("content", [b"precious text " * 10_000, bytes(1 << 19) + b"x" * 10_000], ids=["text", "late"])
def test_a_file_that_is_no_pool_is_not_overwritten(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(FormatError, match="is no pool of pmkv and not empty"):
        pmkv.open(tmp_path / "data", pool=tmp_path / "file", capacity=CAPACITY)
    assert (tmp_path / "file").read_bytes()[: len(content)] == content


def test_a_pool_elsewhere(tmp_path: Path) -> None:
    make(tmp_path / "data", pool=tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere").exists() and not (tmp_path / "data" / "pool").exists()
    with pmkv.open(tmp_path / "data", pool=tmp_path / "elsewhere", capacity=CAPACITY) as store:
        assert store.get(b"key") == b"value"


def test_a_missing_pool_is_not_made_anew(tmp_path: Path) -> None:
    (make(tmp_path) / "pool").unlink()
    with pytest.raises((CorruptionError, InvalidError), match="pool"):
        pmkv.open(tmp_path, readonly=True)
    with pytest.raises(InvalidError, match="there is no pool at"):
        pmkv.open(tmp_path, capacity=CAPACITY)
    assert not (tmp_path / "pool").exists()


def test_what_the_medium_cannot_give_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="require='fast': choose one of page, cache_line, byte"):
        pmkv.open(tmp_path, capacity=CAPACITY, require="fast")
    with pytest.raises(InvalidError, match=str(tmp_path)):
        pmkv.open(tmp_path, capacity=CAPACITY, require="byte")
    make(tmp_path)


def test_a_store_in_memory_needs_no_path(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match='a data directory is needed, or pool=":memory:"'):
        pmkv.open(capacity=CAPACITY)
    with pmkv.open(pool=":memory:", capacity=CAPACITY) as store:
        store.put(b"key", b"value")
        assert store.path is None and store.granularity == "byte"


def test_a_larger_capacity_grows_and_a_smaller_one_is_refused(tmp_path: Path) -> None:
    make(tmp_path)
    with pmkv.open(tmp_path, capacity=2 * CAPACITY) as store:
        assert store.capacity == 2 * CAPACITY
        store.put(b"large", np.random.default_rng(1).bytes(3 << 20))
    with pytest.raises(InvalidError, match="a pool does not shrink; leave the capacity out"):
        pmkv.open(tmp_path, capacity=CAPACITY)
    with pmkv.open(tmp_path) as store:
        assert store.capacity == 2 * CAPACITY
        assert store.get(b"large") == np.random.default_rng(1).bytes(3 << 20)


def in_child(run: Callable[[], None]) -> None:
    """Run in a forked child; assert that it ended well."""
    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    assert child.exitcode == 0


def test_a_directory_that_cannot_be_written_is_read_and_checked(tmp_path: Path) -> None:
    """By a user with no right to write there; root may always."""
    with pmkv.open(tmp_path / "store", capacity=CAPACITY) as store:
        store.put(b"a", b"1")
        store.checkpoint()
    if os.geteuid():
        pytest.skip("only root can become another user")
    for path in [*tmp_path.parents][: len(tmp_path.parts) - 2] + [tmp_path, *(tmp_path / "store").rglob("*")]:
        path.chmod(path.stat().st_mode | 0o555 if path.is_dir() else 0o444)
    (tmp_path / "store").chmod(0o555)
    (tmp_path / "store/catalog/lock.mdb").unlink()

    def read() -> None:
        os.setgid(65534)
        os.setuid(65534)
        with pmkv.open(tmp_path / "store", readonly=True) as store:
            assert list(store.scan()) == [(b"a", b"1")]
        assert check(tmp_path / "store").is_whole
        dump(tmp_path / "store", io.StringIO())

    in_child(read)
    assert not (tmp_path / "store/catalog/lock.mdb").exists()


def test_a_full_file_system_in_memory_is_read(tmp_path: Path) -> None:
    """A read of a hole there takes a page: without one it is a SIGBUS."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting needs root and the right to mount")

    def read() -> None:
        with pmkv.open(tmp_path / "store", capacity="64MiB") as store:
            store.put(b"a", b"1")
            store.checkpoint()
        (tmp_path / "hole").touch()
        os.truncate(tmp_path / "hole", 8 << 20)
        with contextlib.suppress(OSError), open(tmp_path / "rest", "wb", buffering=0) as rest:
            while rest.write(bytes(4096)):
                continue
        assert os.statvfs(tmp_path).f_bavail == 0
        with pmkv.open(tmp_path / "store", readonly=True) as store:
            assert store.get(b"a") == b"1"
        assert check(tmp_path / "store").is_whole
        with pytest.raises(pmkv.errors.PmkvError):
            pmkv.open(tmp_path / "new", capacity="1MiB", pool=tmp_path / "hole")
        with pmkv.open(tmp_path / "store") as store:
            assert list(store.scan()) == [(b"a", b"1")]

    try:
        in_child(read)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
