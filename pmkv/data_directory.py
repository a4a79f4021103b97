"""A data directory: who may open it, which pool belongs to it, and on what medium that is."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
from pathlib import Path

import orjson

from .catalog.lmdb_catalog import FOLDER, Catalog, LmdbCatalog
from .errors import CorruptionError, FormatError, InvalidError, LockedError, UnknownNameError
from .index.run_files import DiskRunFiles, RunFiles
from .log.format import VERSION
from .log.segments import Pool
from .media.base import Granularity, Medium
from .media.dax import DaxMedium, probe
from .media.file import FileMedium
from .media.memory import MemoryMedium
from .runtime.byte_locks import is_any_held_below, let_go_of_byte, share_byte

IDENTITY = "pmkv.json"
# Bytes of the file IDENTITY that readonly stores lock: this one means that they may read by any commit of the catalog,
# the one after it commit 0, and so on.
ANY_COMMIT = 0
DAMAGED_CATALOG = FOLDER + ".damaged"
log = logging.getLogger("pmkv")
DEFAULT_CAPACITY = 16 << 30  # bytes of a new pool
SMALLEST_CAPACITY = 1 << 20


class DataDirectory:
    """Locked from construction to `close`, unless readonly or in memory."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        pool: str | os.PathLike[str],
        capacity: int | None,
        require: str,
        readonly: bool,
    ) -> None:
        self.in_memory = str(pool) == ":memory:" or str(path) == ":memory:"
        if path is None and not self.in_memory:
            raise InvalidError('a data directory is needed, or pool=":memory:"')
        self.path = None if self.in_memory else Path(path or ".").absolute()
        self._pool, self._capacity, self._readonly = pool, capacity, readonly
        self._require = granularity_named(require)
        self._medium: Medium | None = None
        self._catalog: LmdbCatalog | None = None
        self.catalog_damage: CorruptionError | None = None  # why the catalog was left aside
        self._lock = self._pool_lock = -1
        self._held_commits: list[int] = []  # commits of the catalog that a readonly store reads by
        if self.path is not None:
            self._enter(self.path)

    def _enter(self, path: Path) -> None:
        if self._readonly:
            if not (path / IDENTITY).exists():
                raise UnknownNameError(f"{path} holds no store to be read: there is no {IDENTITY} in it")
            self._lock = os.open(path / IDENTITY, os.O_RDONLY | os.O_CLOEXEC)
            share_byte(self._lock, ANY_COMMIT)  # so that a writer uses no segment again that this store may read
            return
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InvalidError(
                f"the data directory {path} cannot be used: {error.strerror}; choose another directory, or give this "
                "user the right to write to it"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            self.close()
            raise LockedError(
                f"{path} is locked by process {holder}: stop it first; a program may read beside it by "
                "pmkv.open(..., readonly=True)"
            ) from error
        with contextlib.suppress(OSError):  # on a full disk: the number is for messages only
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def open_pool(self) -> Pool:
        """Open the medium and the pool on it; a new directory gets a new pool."""
        pool = self._find_pool()
        if self.path is not None:
            self._lock_pool(Path(self._place))
        self._pool_id = pool.pool_id
        return pool

    def _find_pool(self) -> Pool:
        self._medium = medium = self._open_medium()
        if medium.granularity > self._require:
            raise InvalidError(
                f"require={self._require.word!r}, but {self._place} gives {medium.granularity.word!r} only: "
                "use persistent memory (DAX), or allow it with require='page'"
            )
        if self.path is None:
            return Pool.create(medium)
        identity = self._read_identity()
        if identity is None:
            return self._create(medium)
        if not Pool.is_pool(medium):
            raise CorruptionError(
                f"{self._place} is not a pool any more: its first bytes are damaged; restore a backup"
            )
        pool = Pool.load(medium)
        if pool.pool_id.hex() != identity["pool_id"]:
            raise FormatError(
                f"{self._place} is another store's pool: it has id {pool.pool_id.hex()}, {self.path} belongs "
                f"to {identity['pool_id']}"
            )
        return pool

    def pool_length(self) -> int:
        """Return how long the pool is now: a writer beside a readonly store may have made it larger."""
        return os.stat(self._place).st_size

    @property
    def reads_from_disk(self) -> bool:
        """Return whether a read may wait for a disk: the pool, which is open, is a plain file."""
        return isinstance(self._medium, FileMedium)

    def open_files(self) -> tuple[Catalog, RunFiles] | None:
        """Open the catalog and the files of runs, once the pool is open; return None for a store in memory."""
        if self.path is None:
            return None
        try:
            self._catalog = LmdbCatalog(self.path, self._pool_id, self._readonly)
            self._catalog.load()
        except LockedError:
            if not self._readonly:
                raise
            return None  # this very process writes it, and LMDB opens a file once: all of the log is replayed instead
        except CorruptionError as error:
            self.catalog_damage = error
            if self._readonly:
                return None  # likewise
            self._leave_catalog_aside(self.path)
        return self._catalog, DiskRunFiles(self.path / "runs", self._pool_id)

    def _leave_catalog_aside(self, path: Path) -> None:
        """Try to do without a damaged catalog: the log has everything, unless segments of it were freed. Its frames
        tell: they are linked from the first to the last."""
        if self._catalog is not None:
            self._catalog.close()
        log.warning("%s; the whole log is replayed instead", self.catalog_damage)
        shutil.rmtree(path / DAMAGED_CATALOG, ignore_errors=True)
        (path / FOLDER).rename(path / DAMAGED_CATALOG)
        self._catalog = LmdbCatalog(path, self._pool_id)

    def put_catalog_back(self) -> None:
        """Undo `_leave_catalog_aside`: the log alone was not enough. Raises what is wrong with the catalog."""
        if self.catalog_damage is None or self.path is None:
            return
        if not self._readonly:
            (self.path / DAMAGED_CATALOG).rename(self.path / FOLDER)
        raise self.catalog_damage

    def has_readers_before(self, commit: int) -> bool:
        """Return whether a readonly store reads the state of an earlier commit of the catalog, or is just being opened.
        One that is opened later reads the catalog of then."""
        assert self.path is not None
        handle = os.open(self.path / IDENTITY, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return is_any_held_below(handle, ANY_COMMIT + 1 + commit)
        finally:
            os.close(handle)

    def stand_on(self, commit: int) -> None:
        """Tell writers that this readonly store reads the state of a commit of the catalog, and still those of earlier
        commits."""
        share_byte(self._lock, ANY_COMMIT + 1 + commit)
        self._held_commits.append(commit)

    def leave_earlier(self) -> None:
        """Tell writers that this store no longer reads the states of commits before the last one named."""
        *earlier, last = self._held_commits
        for commit in {*earlier} - {last}:
            let_go_of_byte(self._lock, ANY_COMMIT + 1 + commit)
        let_go_of_byte(self._lock, ANY_COMMIT)
        self._held_commits = [last]

    def _lock_pool(self, path: Path) -> None:
        """Lock the pool itself, so that one process writes it whatever happened to the directory's lock file."""
        if self._readonly:
            return
        self._pool_lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._pool_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LockedError(
                f"the pool {path} is in use by another process, which does not use the lock file of {self.path}: "
                "stop it first; a program may read beside it by pmkv.open(..., readonly=True)"
            ) from error

    @property
    def _place(self) -> Path | str:
        if self.path is None:
            return "memory"
        return self.path / "pool" if str(self._pool) == "auto" else Path(self._pool)

    def _open_medium(self) -> Medium:
        if self.path is None:
            return MemoryMedium(self._capacity_for(0))
        try:
            return self._open_place()
        except InvalidError:
            raise
        except (OSError, ValueError) as error:
            raise InvalidError(f"the pool {self._place} cannot be opened: {error}") from error

    def _open_place(self) -> Medium:
        """Open the medium: persistent memory if the kernel grants it or nothing less is wanted, a plain file
        otherwise."""
        place = Path(self._place)
        if not self._readonly and not place.exists() and self._read_identity() is not None:
            raise InvalidError(
                f"{self.path} holds a store, but there is no pool at {place}: name the pool that it was made with"
            )
        if place.exists() and stat.S_ISCHR(place.stat().st_mode):
            return DaxMedium(place)  # as large as the device
        capacity = self._capacity_for(place.stat().st_size if place.exists() else 0)
        if self._require < Granularity.PAGE or (not self._readonly and probe(place) is not None):
            return DaxMedium(place, capacity)
        return FileMedium(place, capacity, self._readonly)

    def _capacity_for(self, size: int) -> int:
        """Return the capacity of a pool of `size` bytes, 0 for one that is not there yet. It never shrinks."""
        if self._capacity is None or self._readonly:
            return size or DEFAULT_CAPACITY
        if self._capacity < size:
            raise InvalidError(
                f"capacity={self._capacity:,} is less than the pool {self._place} has, {size:,} bytes: a pool does not "
                "shrink; leave the capacity out to keep it as it is"
            )
        if self._capacity < SMALLEST_CAPACITY:
            raise InvalidError(
                f"capacity={self._capacity:,} is too small: a pool has {SMALLEST_CAPACITY:,} bytes or more"
            )
        return self._capacity

    def _create(self, medium: Medium) -> Pool:
        """A new pool. Nothing is in one before its id stands in the directory, so a crash in between leaves
        nothing to lose."""
        if self._readonly:
            raise UnknownNameError(f"{self.path} holds no store to be read")
        if not Pool.is_unfinished(medium):
            if Pool.is_pool(medium):
                raise FormatError(
                    f"{self._place} is a pool with data in it, and belongs to another directory: {self.path} has "
                    f"no {IDENTITY}"
                )
            raise FormatError(f"{self._place} is no pool of pmkv and not empty: name another file, or remove it")
        pool = Pool.create(medium)
        self._write_identity(pool)
        return pool

    def _read_identity(self) -> dict[str, str] | None:
        assert self.path is not None
        try:
            identity = orjson.loads((self.path / IDENTITY).read_bytes())
            version, pool_id = identity["format"], identity.get("pool_id")
        except FileNotFoundError:
            return None
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise CorruptionError(
                f"{self.path / IDENTITY} is damaged: {error}; it must hold format and pool_id"
            ) from error
        if version != VERSION:
            raise FormatError(
                f"{self.path} has format version {version}, this pmkv reads version {VERSION}: use the pmkv "
                "that wrote it to copy its data out"
            )
        if not isinstance(pool_id, str):
            raise CorruptionError(f"{self.path / IDENTITY} is damaged: it must hold format and pool_id")
        return identity

    def _write_identity(self, pool: Pool) -> None:
        assert self.path is not None
        temporary = self.path / (IDENTITY + ".new")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(orjson.dumps({"format": VERSION, "pool_id": pool.pool_id.hex()}) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path / IDENTITY)
        handle = os.open(self.path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    def close(self, forked: bool = False) -> None:
        """Close all files and release the lock. forked: in a child, where the catalog is the parent's, whose threads
        may be in it."""
        if self._catalog is not None and not forked:
            self._catalog.close()
            self._catalog = None
        if self._medium is not None:
            self._medium.close()
            self._medium = None
        pool_lock, self._pool_lock = self._pool_lock, -1  # first: a number must not be closed twice, after an interrupt
        if pool_lock >= 0:
            os.close(pool_lock)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    @property
    def is_open(self) -> bool:
        """Return whether the files are open, at least in part."""
        return self._medium is not None or self._lock >= 0 or self._pool_lock >= 0


def granularity_named(word: str) -> Granularity:
    """Return the granularity of a name: "page", "cache_line" or "byte"."""
    try:
        return Granularity[str(word).upper()]
    except KeyError:
        raise InvalidError(f"require={word!r}: choose one of page, cache_line, byte") from None
