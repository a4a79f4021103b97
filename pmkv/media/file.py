"""A plain file as a medium.

`data` is a private mapping of the file: what the engine stores is a private copy of its pages until `flush` writes the
ranges with pwrite and syncs. So nothing half done reaches the page cache by itself, gathering the next group never
waits for the sync of the last one, and every reader sees one flat array. Private copies of pages that were flushed
whole are dropped again; the mapping then shows the file's page cache, which holds the same bytes. Whole pages of long
bodies go the straight way: `store` writes them to the page cache, and the mapping, which has no copy of them, shows it.

The file has its full size from the beginning, with holes; `prepare` reserves and zero-fills a range before its first
use, so that a full disk is an error here and never a fault on access, and a commit never waits for the file system's
metadata (where zeros were written, and not only promised).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ..errors import FullError
from ..runtime.scheduling import yield_cpu
from .base import Granularity, Range
from .reservation import reserve

PAGE = mmap.PAGESIZE
UNIT = Granularity.CACHE_LINE  # ranges begin at multiples of it, and end anywhere
FILL_STEP = 1 << 20  # zero-filling syncs by itself, in steps: a commit's fdatasync never has much of it to wait for
# and is written in small pieces: the system keeps the pages of one write together, and counts all of them as written
# (some file systems do write them) whenever a commit changes one: eight bytes for each of a commit of 144 KB
FILL_PIECE = 8 << 10
# private copies are dropped a MiB at a time: one madvise call costs as much as ten commits' share of it
RELEASE_STEP = 1 << 20
WRITE_STEP = 256 << 10  # bytes of one call: where the system is not preemptible, nobody has the core before its end
COPY_STEP = 256 << 10  # copies are made so many bytes at a time: `store` may have to wait
MAP_NORESERVE = 0x4000  # not in the mmap module; a pool larger than memory must not count as memory asked for
MADV_POPULATE_WRITE = 23  # likewise; since Linux 5.14
# Bytes that the disk may begin to write before the flush that waits for them: a long batch is prepared meanwhile. A
# shorter one is flushed soon. An error is told to that flush, as this call waits for nothing.
LONG = 512 << 10
SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None, use_errno=True)
_begin_writing: Callable[..., int] = getattr(_libc, "sync_file_range", lambda *_: 0)  # Linux alone has it


class FileMedium:
    """A pool file of `capacity` bytes (a larger file keeps its size); created when missing, unless readonly."""

    granularity = Granularity.PAGE
    inline = False

    def __init__(self, path: str | os.PathLike[str], capacity: int = 0, readonly: bool = False) -> None:
        self.path = Path(path)
        flags = os.O_RDONLY if readonly else os.O_RDWR | os.O_CREAT
        self._fd = os.open(self.path, flags | os.O_CLOEXEC, 0o600)
        self._handed: dict[int, int] = {}  # where `store` wrote pages, from and to: `flush` only syncs them
        self._copying = threading.Lock()
        self._failed = False  # a sync
        if not readonly:
            self._extend(capacity)
        self._map()

    def _extend(self, capacity: int) -> None:
        if capacity > os.fstat(self._fd).st_size:
            try:
                os.ftruncate(self._fd, capacity)
                os.fsync(self._fd)
            except OSError as error:
                raise FullError(f"{self.path} cannot be {capacity:,} bytes long: {error.strerror}") from error

    def _map(self) -> None:
        size = os.fstat(self._fd).st_size
        if size == 0:
            raise ValueError(f"{self.path} is empty")
        self._mmap = mmap.mmap(
            self._fd, size, flags=mmap.MAP_PRIVATE | MAP_NORESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
        self._mmap.madvise(mmap.MADV_RANDOM)  # rows are read singly: read-ahead would fetch what nobody asked for
        self.data = np.frombuffer(self._mmap, np.uint8)
        self._unreleased: dict[int, int] = {}  # end of a flushed range: from where its copies are still held

    def prepare(self, start: int, stop: int, fill: bool = True) -> None:
        try:
            reserve(self._fd, start, stop)
            if fill:
                self._fill(start, stop)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise FullError(f"no room for {stop - start:,} more bytes of {self.path}: {error.strerror}") from error
            raise
        self._drop(start, stop)  # private copies from a former use of the range

    def _fill(self, start: int, stop: int) -> None:
        """Write zeros, through a descriptor of its own: each one is told of an error once, and a commit beside this
        has to hear of its own."""
        zeros = memoryview(bytes(FILL_PIECE))
        fd = os.open(f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            for at in range(start, stop, FILL_PIECE):
                yield_cpu()
                self._write(zeros[: stop - at], at, fd)
                if (at - start) % FILL_STEP == FILL_STEP - FILL_PIECE:
                    os.fdatasync(fd)
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def store(self, at: int, raw: np.ndarray) -> int:
        """Whole pages are written at once: each one stored to in the mapping would be filled with zeros, or read, then
        copied, and written in the end."""
        stop = at + raw.size
        first, last = -(-at // PAGE) * PAGE, stop // PAGE * PAGE
        if last <= first:
            self.data[at:stop] = raw
            return 0
        self._write(memoryview(raw)[first - at : last - at], first)
        with self._copying:  # private copies that `will_write` made would hide it, and one it is at work on
            self._drop(first, last)
        self.data[at:first], self.data[last:stop] = raw[: first - at], raw[last - at :]
        self._handed[first] = last
        if last - first >= LONG:
            _begin_writing(self._fd, ctypes.c_int64(first), ctypes.c_int64(last - first), SYNC_FILE_RANGE_WRITE)
        return last - first

    def flush(self, ranges: Sequence[Range], sync: bool = True) -> None:
        if self._failed:
            raise OSError(errno.EIO, "a sync failed before, and the system takes what it lost for written")
        view, handed = memoryview(self._mmap), sorted(self._handed.copy().items()) if self._handed else []
        for start, stop in ranges:
            for first, last in handed:
                if start <= first and last <= stop:
                    self._write(view[start:first], start)
                    start = last
            self._write(view[start:stop], start)
        for first, last in handed:  # before the sync: if that is interrupted, all is written again
            if any(start <= first and last <= stop for start, stop in ranges):
                self._handed.pop(first, None)
        if sync:
            self._sync()
        for start, stop in ranges:
            self._release(start, stop, RELEASE_STEP if (start, stop) == ranges[-1] else PAGE)

    def _sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError:
            self._failed = True  # at once: whoever is told may be interrupted before they have noted it
            raise

    def written(self, start: int, stop: int) -> Iterator[Range]:
        """As the file system says: reading the zeros that it only promised would fill pages with them."""
        while start < stop:
            try:
                first = os.lseek(self._fd, start, os.SEEK_DATA)
                start = os.lseek(self._fd, first, os.SEEK_HOLE)
            except OSError as error:
                if error.errno != errno.ENXIO:  # it cannot say; else there is nothing up to the end
                    yield start, stop
                return
            if first < stop:
                yield first, min(start, stop)

    def will_read(self, start: int, stop: int) -> None:
        os.posix_fadvise(self._fd, start, stop - start, os.POSIX_FADV_WILLNEED)

    def will_write(self, start: int, stop: int) -> None:
        """Make private copies of the pages now: who stores there would wait for each, and for the disk where the system
        has dropped the zeros that `prepare` wrote."""
        with contextlib.suppress(OSError):  # another thread has closed it meanwhile
            os.posix_fadvise(self._fd, start, stop - start, os.POSIX_FADV_WILLNEED)
        last = -(-stop // PAGE) * PAGE
        for at in range(start // PAGE * PAGE, last, COPY_STEP):
            with self._copying, contextlib.suppress(OSError):  # an older Linux refuses: no matter
                self._advise(MADV_POPULATE_WRITE, at, min(at + COPY_STEP, last))

    def _drop(self, first: int, last: int) -> None:
        """Private copies of these pages."""
        self._advise(mmap.MADV_DONTNEED, first, last)

    def _advise(self, advice: int, start: int, stop: int) -> None:
        """Through ctypes: a method of the mapping would keep the interpreter."""
        at = ctypes.c_void_p(self.data.ctypes.data + start)
        if _libc.madvise(at, ctypes.c_size_t(stop - start), advice):
            raise OSError(number := ctypes.get_errno(), os.strerror(number))

    def rewrite(self, ranges: Sequence[Range]) -> None:
        self._handed.clear()
        self._failed = False
        self.flush(ranges)

    def _write(self, view: memoryview, at: int, fd: int = -1) -> None:
        while view:
            written = os.pwrite(self._fd if fd < 0 else fd, view[:WRITE_STEP], at)
            view, at = view[written:], at + written

    def _release(self, start: int, stop: int, at_least: int) -> None:
        """Drop private copies of whole pages below the end of a flushed range: nothing is stored there again."""
        start = self._unreleased.pop(start, start)
        first, last = -(-start // PAGE) * PAGE, stop // PAGE * PAGE
        if last - first >= at_least:
            self._drop(first, last)
            start = last
        self._unreleased[-(-stop // UNIT) * UNIT] = start  # where the next range begins

    def revert(self) -> None:
        self._handed.clear()
        self._mmap.madvise(mmap.MADV_DONTNEED)

    def grow(self, capacity: int) -> None:
        self._extend(capacity)
        self._map()  # readers may still hold the old mapping: it goes when the last of them does

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
