"""The catalog: the committed state of a store, and the ordered directory of its keys.

A commit is the only switch: whatever interrupts it, the next `load` returns the state before or the state after it. The
state is a flat dict of names and JSON values, of which only changed ones are written. LmdbCatalog keeps it in the
folder `catalog` of a data directory, MemoryCatalog in DRAM.

There is one writer at a time, which the lock of the data directory ensures. `keys` may be called during a commit, and
reads the directory before it or after it.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Protocol, TypeVar

import lmdb

from ..errors import (
    ClosedError,
    CorruptionError,
    FlushError,
    FormatError,
    FullError,
    InvalidError,
    LockedError,
    PmkvError,
    ReadOnlyError,
)
from ..runtime.scheduling import GilYielder, no_yield
from .btree_check import BTreeFile, Tree
from .checked_records import ROOT, CheckedRecords, Root, Sums
from .key_directory import CHUNK, Batch, Key, Resolve, next_keys

FOLDER = "catalog"
REBUILT_KEYS = 1 << 17  # keys entered at a time when a directory is made anew
MAP_BYTES = 16 << 20  # of LMDB's map, and so of its file, at first
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DAMAGE_ERRORS = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.BadTxnError, lmdb.NotFoundError)


class Catalog(Protocol):
    """Keeps a state and a directory of keys that change together."""

    def load(self) -> dict[str, Any] | None:
        """Return the whole state, verified; None if nothing was ever committed."""

    @property
    def commits(self) -> int:
        """Return the number of the commit that was made or loaded last, 0 for none."""

    def renew(self) -> dict[str, Any] | None:
        """Return the state that another process has committed since a readonly catalog was opened or renewed, and keep
        to that from now on; None if there is none. CorruptionError: it cannot be read, perhaps as the next commit is
        just being made; the one before is kept to."""

    def commit(
        self,
        state: dict[str, Any],
        new: Iterable[Key] = (),
        dead: Iterable[Key] = (),
        pause: Callable[[], None] = no_yield,
    ) -> int:
        """Make `state` current; it is durable on return. Return the number of the commit: 1, 2, 3 ...

        dead, new: keys that leave the directory, and then those that enter it. A long key shares its entry with those
        of the same prefix and hash: it is dead only when all of them are. pause: called now and then; may raise to give
        the commit up, which leaves the state as it was."""

    def keys(
        self, keyspace: int, low: bytes, high: bytes | None, reverse: bool, count: int, resolve: Resolve
    ) -> list[bytes]:
        """Return the next keys of [low, high) in byte order, at least `count` unless there are no more.
        `resolve(prefix, hash)` returns the full keys of more than 500 bytes with this prefix and hash."""

    def directory_damage(self, most: int | None = None) -> CorruptionError | None:
        """Return what is wrong with the pages of the directory; None if they are whole, or more than `most` bytes."""

    def rebuild(self, state: dict[str, Any], names: Callable[[], Iterable[Key]]) -> None:
        """Make the catalog anew in place of one with a damaged directory. names: returns all keys of the directory."""

    def check(self) -> None:
        """Verify every record and every entry of the directory. CorruptionError: one is damaged."""

    def close(self) -> None:
        """Close the catalog. May be called twice."""


class MemoryCatalog:
    """Keeps a catalog in DRAM, for crash tests. A commit replaces the state as a whole."""

    def __init__(self, pool_id: bytes) -> None:
        self._pool_id, self._sealer = pool_id, CheckedRecords(pool_id, "in memory")
        self._records: dict[str, bytes] = {ROOT: self._sealer.root(Root(0, 0, Sums()))}
        self._entries: list[bytes] = []  # in order
        self._before = self._records, self._entries

    def load(self) -> dict[str, Any] | None:
        state, root = self._sealer.open(self._records.items())
        return state if root.commit else None

    @property
    def commits(self) -> int:
        return self._sealer.open(self._records.items())[1].commit

    def renew(self) -> dict[str, Any] | None:
        return self.load()

    def commit(
        self,
        state: dict[str, Any],
        new: Iterable[Key] = (),
        dead: Iterable[Key] = (),
        pause: Callable[[], None] = no_yield,
    ) -> int:
        _, root = self._sealer.open(self._records.items())
        changed, sums = self._sealer.changed(state, root.sums)
        pause()
        leaving, entering = ({one for chunk in Batch(some, GilYielder()) for one in chunk} for some in (dead, new))
        entries = sorted((set(self._entries) - leaving) | entering)
        after = Root(root.commit + 1, len(entries), sums)
        kept = {name: record for name, record in self._records.items() if name in sums}
        self._before = self._records, self._entries
        self._records, self._entries = kept | changed | {ROOT: self._sealer.root(after)}, entries
        return after.commit

    def keys(
        self, keyspace: int, low: bytes, high: bytes | None, reverse: bool, count: int, resolve: Resolve
    ) -> list[bytes]:
        return next_keys(self._pull, keyspace, low, high, reverse, count, resolve)

    def _pull(self, first: bytes, stop: bytes, reverse: bool, limit: int | None) -> list[bytes]:
        entries = self._entries
        low, high = bisect_left(entries, first), bisect_left(entries, stop)
        if limit is not None and high - low > limit:
            low, high = (high - limit, high) if reverse else (low, low + limit)
        return entries[low:high][:: -1 if reverse else 1]

    def directory_damage(self, most: int | None = None) -> CorruptionError | None:
        return None

    def rebuild(self, state: dict[str, Any], names: Callable[[], Iterable[Key]]) -> None:
        self._entries = []
        self.commit(state, names())

    def survivor(self, committed: bool) -> MemoryCatalog:
        """Return a catalog as a crash in the middle of the last commit leaves it: with the state after or before it."""
        other = MemoryCatalog(self._pool_id)
        other._records, other._entries = other._before = (self._records, self._entries) if committed else self._before
        return other

    def check(self) -> None:
        _, root = self._sealer.open(self._records.items())
        assert root.entries == len(self._entries)

    def close(self) -> None:
        return


T = TypeVar("T")
Entry = tuple[bytes, bytes]  # of the directory of keys, as LMDB holds it


class LmdbCatalog:
    """Keeps a catalog in the folder `catalog` of the directory `path`, which the first commit makes.

    A readonly catalog holds one LMDB read transaction until it is closed: it keeps to the commit that it saw first, or
    to an empty state if there was none."""

    def __init__(self, path: str | os.PathLike[str], pool_id: bytes, readonly: bool = False) -> None:
        self._folder, self._readonly = Path(path) / FOLDER, readonly
        self._file = self._folder / "data.mdb"
        self._sealer = CheckedRecords(pool_id, str(self._file))
        self._root: Root | None = None  # of the last commit; None when it must be read again
        self._writing, self._opening = threading.RLock(), threading.Lock()
        self._map_lock = threading.RLock()  # held by one who reads, or moves LMDB's map
        self._trees = VerifiedTrees(self._file)
        self._env: lmdb.Environment | None = None
        self._held: lmdb.Transaction | None = None
        self._closed = False
        self._absent = not self._folder.exists()  # nothing was ever committed, or nothing was when this was opened
        if not self._absent:
            self._environment()

    def _create(self) -> None:
        """Make the folder under another name, sync it and rename it, so that no crash leaves half a catalog."""
        half = self._folder.with_name(FOLDER + ".new")
        with self._explained("made"):
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(mode=0o700, parents=True)
            with lmdb.open(str(half), map_size=MAP_BYTES, max_dbs=2, sync=False, mode=0o600) as env:
                state, _ = env.open_db(b"state"), env.open_db(b"keys")
                with env.begin(write=True) as txn:
                    txn.put(ROOT.encode(), self._sealer.root(Root(0, 0, Sums())), db=state)
            extend_file(half / self._file.name, MAP_BYTES)
            sync_folder(half)
            half.rename(self._folder)
            sync_folder(self._folder.parent)

    def _open(self) -> lmdb.Environment:
        """Open the environment, and in a readonly catalog its read transaction."""
        with self._explained("opened"):
            self._trees.verify_state()
            env = lmdb.open(
                str(self._folder), map_size=self._file.stat().st_size, max_dbs=2, readonly=self._readonly,
                create=False, max_readers=1024, lock=self._may_lock(),
            )  # fmt: skip
            try:
                self._check_length(env)
                self._state, self._keys = env.open_db(b"state", create=False), env.open_db(b"keys", create=False)
                if self._readonly:
                    self._held = self._hold(env)
                    self._trees.keep_to(self._held.id())
                else:
                    env.reader_check()  # removes readers whose processes were killed
            except BaseException:
                env.close()
                raise
            return env

    def _may_lock(self) -> bool:
        """Return whether LMDB may note its readers in `lock.mdb`. A readonly catalog in a folder that cannot be written
        does without: nobody writes there, and a writer elsewhere would be noticed by the checksums."""
        lock = self._folder / "lock.mdb"
        return not self._readonly or os.access(lock if lock.exists() else self._folder, os.W_OK)

    def _check_length(self, env: lmdb.Environment) -> None:
        """Refuse a file that was cut off: a read past its end would be a SIGBUS. A whole one is as long as the map."""
        needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        size = self._file.stat().st_size
        if size < needed:
            raise CorruptionError(
                f"the catalog {self._file} is cut off: it has {size:,} bytes of {needed:,}; restore a backup"
            )

    def _hold(self, env: lmdb.Environment) -> lmdb.Transaction:
        """Begin the read transaction of a readonly catalog."""
        while True:
            try:
                return env.begin()
            except lmdb.MapResizedError:  # the writer grew it meanwhile
                env.set_mapsize(self._file.stat().st_size)

    def directory_damage(self, most: int | None = None) -> CorruptionError | None:
        if self._absent or (most is not None and self._file.stat().st_size > most):
            return None
        self._environment()
        try:
            self._trees.verify_rest()
        except CorruptionError as error:
            return error
        return None

    def rebuild(self, state: dict[str, Any], names: Callable[[], Iterable[Key]]) -> None:
        """Make the catalog in a file of its own, which then replaces the damaged one at once."""
        half = self._folder.with_name(FOLDER + ".new")
        with self._writing:
            self._guard()
            number = self._root.commit if self._root is not None else 0
            with self._explained("rebuilt"):
                shutil.rmtree(half, ignore_errors=True)
                half.mkdir(mode=0o700, parents=True)
                size = self._file.stat().st_size
                while not self._filled(half, size, number, state, names):
                    size *= 2
                with self._map_lock:
                    os.replace(half / self._file.name, self._file)
                    if self._env is not None:
                        self._env.close()
                    self._env, self._root, self._trees = None, None, VerifiedTrees(self._file)
                sync_folder(self._folder)
                shutil.rmtree(half)

    def _filled(
        self, half: Path, size: int, number: int, state: dict[str, Any], names: Callable[[], Iterable[Key]]
    ) -> bool:
        """Write a whole catalog to another folder; return False if `size` bytes are not enough."""
        walk, gil = iter(names()), GilYielder()
        try:
            with lmdb.open(str(half), map_size=size, max_dbs=2, mode=0o600) as env:
                self._state, self._keys = env.open_db(b"state"), env.open_db(b"keys")
                with env.begin(write=True) as txn:
                    changed, sums = self._sealer.changed(state, {})
                    root = Root(number, 0, Sums())
                    while batch := Batch(islice(walk, REBUILT_KEYS), gil):
                        self._write(txn, root, {}, Sums(), [Batch((), gil), batch])
                    self._write(txn, root, changed, sums, [Batch((), gil), Batch((), gil)])
        except lmdb.MapFullError:
            return False
        extend_file(half / self._file.name, size)
        return True

    def load(self) -> dict[str, Any] | None:
        self._guard()
        if self._absent:
            return None

        def read(txn: lmdb.Transaction) -> tuple[dict[str, Any], Root, int]:
            records = ((name.decode(errors="replace"), bytes(one)) for name, one in txn.cursor(self._state))
            return *self._sealer.open(records), txn.stat(self._keys)["entries"]

        with self._writing, self._explained("read"):
            state, root, entries = self._read(read)
        if entries != root.entries:
            raise CorruptionError(
                f"the directory of keys in {self._file} has {entries:,} entries, the root record of commit "
                f"{root.commit} tells of {root.entries:,}; restore a backup"
            )
        self._root = root
        return state if root.commit else None

    @property
    def commits(self) -> int:
        return self._root.commit if self._root is not None else 0

    def renew(self) -> dict[str, Any] | None:
        if self._absent:
            self._absent = not self._folder.exists()
            return self.load()
        with self._writing, self._map_lock, self._explained("read"):
            self._guard()
            assert self._held is not None and self._env is not None, "a writer has no use for it"
            before, trees = self._held.id(), VerifiedTrees(self._file)
            trees.verify_state()
            self._held.abort()  # first: LMDB's map may have to be larger, and does not move while it is read
            self._held = self._hold(self._env)
            if self._held.id() == before:
                return None
            trees.keep_to(self._held.id())
            self._trees = trees
        return self.load()

    def commit(
        self,
        state: dict[str, Any],
        new: Iterable[Key] = (),
        dead: Iterable[Key] = (),
        pause: Callable[[], None] = no_yield,
    ) -> int:
        if self._readonly:
            raise ReadOnlyError(f"the catalog {self._file} was opened readonly")
        with self._writing:
            self._guard()
            if self._absent:
                self._create()
                self._absent = False
            if self._root is None:
                self.load()
            assert self._root is not None
            self._environment()
            self._trees.verify_rest()
            gil = GilYielder(pause)
            batches = [Batch(some, gil) for some in (dead, new)]
            changed, sums = self._sealer.changed(state, self._root.sums)
            self._root = self._committed(self._root, changed, sums, batches)
            for batch in batches:
                batch.free()
            return self._root.commit

    def _committed(self, root: Root, changed: dict[str, bytes], sums: Sums, batches: list[Batch]) -> Root:
        """Commit in one transaction; repeat it with a larger map while it does not fit."""
        while True:
            try:
                with self._explained("committed"), self._environment().begin(write=True) as txn:
                    try:
                        return self._write(txn, root, changed, sums, batches)
                    except BaseException:
                        with self._map_lock:  # py-lmdb waits here until nobody reads: else perhaps for ever
                            txn.abort()
                        raise
            except lmdb.MapFullError:
                self._grow()
            except BaseException:
                self._drop_environment()
                raise

    def _write(
        self, txn: lmdb.Transaction, root: Root, changed: dict[str, bytes], sums: Sums, batches: list[Batch]
    ) -> Root:
        dead, new = batches
        for chunk in dead:
            for one in chunk:
                txn.delete(one, db=self._keys)
        entry, cursor = self._sealer.entry, txn.cursor(self._keys)
        for chunk in new:
            cursor.putmulti([(one, entry(one)) for one in chunk])
        gil = GilYielder()
        for name in root.sums:
            if name not in sums:
                txn.delete(name.encode(), db=self._state)
            gil.give()
        for name, record in changed.items():
            txn.put(name.encode(), record, db=self._state)
            gil.give()
        after = Root(root.commit + 1, txn.stat(self._keys)["entries"], sums)
        txn.put(ROOT.encode(), self._sealer.root(after), db=self._state)
        return after

    def _grow(self) -> None:
        with self._explained("grown"), self._map_lock:
            size = 2 * self._file.stat().st_size
            extend_file(self._file, size)
            self._environment().set_mapsize(size)

    def _drop_environment(self) -> None:
        """Close the environment after a failed commit: LMDB may not continue with it, and which state it left must be
        read again."""
        self._root = None
        with self._map_lock:
            if self._env is not None:
                self._env.close()
                self._env = None

    def keys(
        self, keyspace: int, low: bytes, high: bytes | None, reverse: bool, count: int, resolve: Resolve
    ) -> list[bytes]:
        return [] if self._absent else next_keys(self._pull, keyspace, low, high, reverse, count, resolve)

    def _pull(self, first: bytes, stop: bytes, reverse: bool, limit: int | None) -> list[bytes]:
        """Return entries in order. Those just outside of the range are verified, too: an entry whose damaged key left
        the range is one of them."""
        with self._explained("read"):
            edges, found = self._read(lambda txn: self._entries(txn, first, stop, reverse, limit))
        self._sealer.check_entries(edges)
        return self._sealer.check_entries(found)

    def _entries(
        self, txn: lmdb.Transaction, first: bytes, stop: bytes, reverse: bool, limit: int | None
    ) -> tuple[list[Entry], list[Entry]]:
        """Return the entries just outside of a range, and those within."""
        self._trees.verify_rest()
        with txn.cursor(self._keys) as cursor:
            edges = [cursor.item()] if cursor.set_range(stop) else []
            if cursor.set_range(first):
                edges += [cursor.item()] if cursor.prev() else []
            elif cursor.last():
                edges.append(cursor.item())
            if not reverse:
                walk = cursor.iternext() if cursor.set_range(first) else iter(())
            elif cursor.set_range(stop):
                walk = cursor.iterprev() if cursor.prev() else iter(())
            else:
                walk = cursor.iterprev()
            return edges, list(takewhile(lambda pair: first <= pair[0] < stop, islice(walk, limit)))

    def check(self) -> None:
        self.load()
        if self._absent:
            return
        self._trees.verify_rest()
        root = self._root
        with self._explained("read"):
            found = self._read(self._count_checked)
        if root is not None and root is self._root and found != root.entries:
            raise CorruptionError(
                f"a walk of the directory of keys in {self._file} finds {found:,} of its {root.entries:,} entries: "
                "LMDB's own pages are damaged; move `catalog` and `runs` away: all is replayed from the log then"
            )

    def _guard(self) -> None:
        if self._closed:
            raise ClosedError(f"the catalog {self._file} was closed")

    def _environment(self) -> lmdb.Environment:
        with self._opening:
            self._guard()
            if self._env is None:
                self._env = self._open()
            return self._env

    def _count_checked(self, txn: lmdb.Transaction) -> int:
        """Check all entries of the directory of keys; return how many there are."""
        gil, found, walk = GilYielder(), 0, txn.cursor(self._keys).iternext()
        while some := list(islice(walk, CHUNK)):
            found += len(self._sealer.check_entries(some))
            gil.give()
        return found

    def _read(self, body: Callable[[lmdb.Transaction], T]) -> T:
        """Call `body` with a read transaction: the one held, or a new one. Return its result.

        No context manager: an exception on the way into its `__exit__` (Ctrl-C) would leave LMDB's map locked."""
        with self._map_lock:
            env = self._environment()
            if self._held is not None:
                return body(self._held)
            with env.begin() as txn:
                return body(txn)

    @contextmanager
    def _explained(self, done: str) -> Iterator[None]:
        try:
            yield
        except lmdb.MapFullError:
            raise
        except lmdb.Error as error:
            raise self._error(error, done) from error
        except OSError as error:
            raise self._error(error, done) from error

    def _error(self, error: Exception, done: str) -> PmkvError:
        """Return the pmkv error for one of LMDB or the system."""
        what = f"the catalog {self._file} cannot be {done}: {error}"
        code = error.errno if isinstance(error, OSError) else getattr(error, "code", None)
        if code in NO_ROOM or (code == errno.EIO and self._is_full()):
            return FullError(f"{what}: make room on the disk; what was committed before stays current")
        if isinstance(error, DAMAGE_ERRORS) or code == errno.ENOENT:
            return CorruptionError(f"{what}: it is damaged; restore a backup")
        if isinstance(error, lmdb.VersionMismatchError | lmdb.IncompatibleError):
            return FormatError(f"{what}: it was written by another version of LMDB")
        if "already open" in str(error):
            return LockedError(f"{what}: close the store that has it open")
        if code in (errno.EMFILE, errno.ENFILE):
            return PmkvError(f"{what}: raise the limit of open files (ulimit -n)")
        if isinstance(error, lmdb.ReadersFullError):
            return PmkvError(f"{what}: too many processes read it; close some")
        if code in (errno.EACCES, errno.EPERM, errno.EROFS):
            return InvalidError(f"{what}: see to the rights of its folder")
        if code == errno.EIO or isinstance(error, lmdb.PanicError):
            return FlushError(f"{what}: see to the disk, and open the store again")
        return PmkvError(f"{what}: close the store and open it again")

    def _is_full(self) -> bool:
        """Return whether the disk is full: LMDB reports a short write as EIO."""
        try:
            with open(self._file, "r+b") as file:
                os.posix_fallocate(file.fileno(), self._file.stat().st_size, 1 << 20)
        except OSError as error:
            return error.errno in NO_ROOM
        return False

    def close(self) -> None:
        with self._writing, self._map_lock:
            self._closed = True
            if self._held is not None:
                self._held.abort()
                self._held = None
            if self._env is not None:
                self._env.close()
                self._env = None


class VerifiedTrees:
    """Knows whether the pages of an environment's file are verified, and verifies them once, before LMDB walks them."""

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, threading.Lock()
        self._unverified: tuple[BTreeFile, Tree] | None = None
        self._is_known = False  # whether all of it was verified, or found damaged
        self._damage: CorruptionError | None = None

    def verify_state(self) -> None:
        """Verify the pages of the state, in the last commit. CorruptionError: one is damaged."""
        pages = BTreeFile(self._file)
        self._unverified = pages, pages.check_state(b"state")

    def keep_to(self, commit: int) -> None:
        """Verify the pages of the commit that a reader holds. A writer may just have made a newer one."""
        while self._unverified is not None and self._unverified[0].meta.commit < commit:
            self.verify_state()

    def verify_rest(self) -> None:
        """Verify the pages of the directory of keys, once. CorruptionError: one is damaged."""
        with self._lock:
            if not self._is_known and self._unverified is not None:
                pages, keys = self._unverified
                try:
                    pages.check_rest(keys)
                except CorruptionError as error:
                    self._damage = error
                self._is_known, self._unverified = True, None
            if self._damage is not None:
                raise CorruptionError(*self._damage.args)


def extend_file(file: Path, size: int) -> None:
    """Make the file as long as LMDB's map. LMDB leaves pages at the end unwritten, so a file that was cut off could not
    be told from a whole one otherwise."""
    with open(file, "r+b") as handle:
        os.ftruncate(handle.fileno(), size)
        os.fsync(handle.fileno())


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
