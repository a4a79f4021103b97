"""Persistent memory, mapped: a file on a DAX file system (fsdax) or a character device (devdax), flushed by libpmem.

libpmem is loaded when a medium is opened, never at import. Persistent memory is proved by the kernel accepting
`MAP_SHARED_VALIDATE | MAP_SYNC`: with plain `MAP_SHARED` it ignores the unknown flag, and tmpfs looks like persistent
memory. With `MAP_SYNC` a page fault returns only when the file system's metadata for that block is durable, so that
flushing cache lines is enough. `force` is for tests: it accepts any file, and a flush there makes nothing durable.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import mmap
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pmkv.errors import FullError, InvalidError
from pmkv.media.base import Granularity, Range
from pmkv.media.reservation import punch, reserve

MAP_SHARED_VALIDATE, MAP_SYNC = 0x03, 0x80000  # not in the mmap module before Python 3.12 and 3.13

DECLARATIONS = """
void pmem_flush(const void *addr, size_t len);
void pmem_drain(void);
int pmem_has_auto_flush(void);
void *pmem_memset_persist(void *dest, int c, size_t len);
"""


class NotDaxError(InvalidError):
    """The path is no persistent memory, or libpmem is missing; a plain file may do instead."""


@functools.cache
def libpmem() -> tuple[Any, Any]:
    """Load libpmem and return (ffi, library)."""
    from cffi import FFI  # here: importing the engine must not need it

    ffi = FFI()
    ffi.cdef(DECLARATIONS)
    try:
        return ffi, ffi.dlopen("libpmem.so.1")
    except OSError as exc:
        raise NotDaxError(f"libpmem.so.1 cannot be loaded ({exc}): install libpmem1, or use require='page'") from exc


def probe(path: str | os.PathLike[str], sysfs: str = "/sys") -> Granularity | None:
    """Return the granularity of a pool at `path` (file, directory, device); None: no persistent memory."""
    try:
        if device_size(path, sysfs) is None:
            _try_sync(path)
        return _line_granularity()
    except (NotDaxError, OSError):
        return None


def device_size(path: str | os.PathLike[str], sysfs: str = "/sys") -> int | None:
    """Return the bytes of a devdax device as sysfs reports them; None if `path` is no character device."""
    if not os.path.exists(path) or not stat.S_ISCHR(os.stat(path).st_mode):
        return None
    number = os.stat(path).st_rdev
    entry = Path(sysfs, "dev", "char", f"{os.major(number)}:{os.minor(number)}")
    if (entry / "subsystem").resolve().name != "dax":
        raise NotDaxError(f"{path} is a character device but no devdax device")
    return int((entry / "size").read_text())


class DaxMedium:
    """A medium on persistent memory. `capacity=None` takes the size of the file or of the device."""

    inline = True

    def __init__(
        self, path: str | os.PathLike[str], capacity: int | None = None, *, force: bool = False, sysfs: str = "/sys"
    ) -> None:
        _check_force(force)
        self._ffi, self._pmem = libpmem()
        self._path, self._force = os.fspath(path), force
        self._device = device_size(path, sysfs)
        if self._device is None and not force:
            _try_sync(path)  # before the file is made: a refusal leaves nothing behind
        self.granularity = Granularity.CACHE_LINE if force else _line_granularity()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._map(capacity if capacity is not None else self._device or os.fstat(self._fd).st_size)
        except BaseException:
            os.close(self._fd)
            raise

    def prepare(self, start: int, stop: int, fill: bool = True) -> None:
        if not 0 <= start <= stop <= len(self.data):
            raise InvalidError(f"{self._path} has {len(self.data)} bytes; {start} to {stop} cannot be prepared")
        if self._device is None:
            self._reserve(start, stop)
        self._pmem.pmem_memset_persist(self._address(start), 0, stop - start)

    def discard(self, start: int, stop: int) -> bool:
        return self._device is None and punch(self._fd, start, stop)

    def flush(self, ranges: Sequence[Range], sync: bool = True) -> None:
        for start, stop in ranges:
            self._pmem.pmem_flush(self._address(start), stop - start)
        if sync:  # a shared mapping survives the death of the process without a drain
            self._pmem.pmem_drain()

    def store(self, at: int, raw: np.ndarray) -> int:
        self.data[at : at + raw.size] = raw
        return 0

    def will_write(self, start: int, stop: int) -> None:
        """Do nothing: stores go to the medium."""

    def written(self, start: int, stop: int) -> list[Range]:
        return [(start, stop)]

    def will_read(self, start: int, stop: int) -> None:
        """Do nothing: loads go to the medium."""

    def rewrite(self, ranges: Sequence[Range]) -> None:
        self.flush(ranges)  # what is visible is on the medium or in a cache line: flushing is enough for both

    def revert(self) -> None:
        """Do nothing: stores went to the medium itself."""

    def grow(self, capacity: int) -> None:
        self._map(capacity)

    def close(self) -> None:
        """Close the file; the memory is unmapped with the last array made from `data`, so that none can crash."""
        fd, self._fd = self._fd, -1  # first: the number must not be closed twice, after an interrupt
        if fd >= 0:
            os.close(fd)
            self.data = np.zeros(0, np.uint8)

    def _map(self, capacity: int) -> None:
        if capacity <= 0:
            raise InvalidError(f"{self._path} is empty: say with which capacity to make the pool")
        if self._device is None:
            self._extend(capacity)
        elif capacity > self._device:
            raise FullError(f"{self._path} has {self._device} bytes, {capacity} were asked for: lower the capacity")
        mapping = _map_synced(self._path, self._fd, self._device or capacity, self._force)
        self.data = np.frombuffer(mapping, np.uint8)[:capacity]
        self._base = self.data.ctypes.data

    def _extend(self, capacity: int) -> None:
        if os.fstat(self._fd).st_size < capacity:
            with self._room_for(capacity):
                os.ftruncate(self._fd, capacity)
                os.fsync(self._fd)

    def _reserve(self, start: int, stop: int) -> None:
        with self._room_for(stop - start):
            reserve(self._fd, start, stop)
            os.fsync(self._fd)

    @contextlib.contextmanager
    def _room_for(self, size: int) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            message = f"{self._path} cannot take {size} more bytes: {exc.strerror}; free space on its disk"
            raise FullError(message) from exc

    def _address(self, offset: int) -> Any:
        return self._ffi.cast("void *", self._base + offset)


def _line_granularity() -> Granularity:
    return Granularity.BYTE if libpmem()[1].pmem_has_auto_flush() == 1 else Granularity.CACHE_LINE


def _check_force(force: bool) -> None:
    if force and os.environ.get("PMEM_IS_PMEM_FORCE") != "1":
        raise InvalidError("force=True is for tests, where nothing need be durable: set PMEM_IS_PMEM_FORCE=1 as well")


def _map_synced(path: str, fd: int, length: int, force: bool) -> mmap.mmap:
    flags = mmap.MAP_SHARED if force else MAP_SHARED_VALIDATE | MAP_SYNC
    try:
        return mmap.mmap(fd, length, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as exc:
        raise NotDaxError(
            f"{path} is no persistent memory, MAP_SYNC was refused ({exc.strerror}): "
            "put the pool on a DAX file system, or use require='page'"
        ) from exc


def _try_sync(path: str | os.PathLike[str]) -> None:
    """Map one page of a new file next to `path`, or in it if it is a directory: an existing pool is not touched."""
    folder = path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path))
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(mmap.PAGESIZE)
        _map_synced(os.fspath(path), file.fileno(), mmap.PAGESIZE, force=False).close()
