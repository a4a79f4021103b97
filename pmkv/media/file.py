"""A plain file as a medium.

`data` is a private mapping of the file: a store makes a private copy of its page until `flush` writes the ranges with
pwrite and syncs. So no partial group reaches the page cache by itself, gathering the next group never waits for the
sync of the last one, and every reader sees one flat array. Private copies of pages that were flushed whole are dropped;
the mapping then shows the page cache of the file, which holds the same bytes. (POSIX leaves open whether a private
mapping shows later changes of the file; Linux does.) Whole pages of large values take a direct way: `store` writes them
to the page cache, and the mapping, which has no copy of them, shows them.

The file has its full size from the beginning, with holes. `prepare` reserves a range and fills it with zeros before its
first use, so that a full disk is an error there and never a fault on access, and a commit never waits for the metadata
of the file system (where zeros were really written).
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
from ..kernels.readahead import CALL_BYTES
from ..runtime.scheduling import yield_cpu
from .base import Granularity, Range
from .reservation import punch, reserve

PAGE = mmap.PAGESIZE
UNIT = Granularity.CACHE_LINE  # ranges begin at multiples of it, and end anywhere
FILL_SYNC_BYTES = 1 << 20  # filling with zeros syncs so often that a commit's fdatasync never waits for much of it
# Zeros are written in small pieces: the system keeps the pages of one write together and counts (some file systems:
# writes) all of them as dirty whenever a commit changes one, 144 KB for each commit of eight bytes.
FILL_PIECE_BYTES = 8 << 10
RELEASE_BYTES = 1 << 20  # private copies are dropped so many at a time: one madvise costs as much as ten commits
WRITE_PIECE_BYTES = 256 << 10  # per system call: on a kernel without preemption no thread gets the core before its end
POPULATE_PIECE_BYTES = 256 << 10  # copies are made so many bytes at a time, as `store` may wait for the lock
MAP_NORESERVE = 0x4000  # not in the mmap module; a pool larger than memory must not count as memory asked for
MADV_POPULATE_WRITE = 23  # likewise; since Linux 5.14
# From this size on `store` lets the disk begin to write before the flush that waits for it. A smaller value is flushed
# soon anyway. The flush reports an error, since the early call waits for nothing.
EARLY_WRITE_BYTES = 512 << 10
SYNC_FILE_RANGE_WRITE = 2
_libc = ctypes.CDLL(None, use_errno=True)
_begin_writing: Callable[..., int] = getattr(_libc, "sync_file_range", lambda *_: 0)  # on Linux only


class FileMedium:
    """A pool file of `capacity` bytes (a larger file keeps its size); created when missing, unless readonly."""

    granularity = Granularity.PAGE
    inline = False

    def __init__(self, path: str | os.PathLike[str], capacity: int = 0, readonly: bool = False) -> None:
        self.path = Path(path)
        flags = os.O_RDONLY if readonly else os.O_RDWR | os.O_CREAT
        self._fd = os.open(self.path, flags | os.O_CLOEXEC, 0o600)
        self._prewritten: dict[int, int] = {}  # start: stop of pages that `store` wrote, which `flush` only syncs
        self._copying = threading.Lock()
        self._failed = False  # whether a sync has failed
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
        self._mmap.madvise(mmap.MADV_RANDOM)  # reads are random: read-ahead would fetch pages that no read needs
        self.data = np.frombuffer(self._mmap, np.uint8)
        self._unreleased: dict[int, int] = {}  # end of a flushed range: start of its private copies

    def prepare(self, start: int, stop: int, fill: bool = True) -> None:
        try:
            reserve(self._fd, start, stop)
            if fill:
                self._fill(start, stop)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise FullError(f"no room for {stop - start:,} more bytes of {self.path}: {error.strerror}") from error
            raise
        self._drop_copies(start, stop)  # private copies from a former use of the range

    def discard(self, start: int, stop: int) -> bool:
        is_hole = punch(self._fd, start, stop)
        self._drop_copies(start, stop)
        return is_hole

    def _fill(self, start: int, stop: int) -> None:
        """Write zeros through a descriptor of its own.

        Each descriptor is told of an error once, and a commit meanwhile has to learn of its own."""
        zeros = memoryview(bytes(FILL_PIECE_BYTES))
        fd = os.open(f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            for at in range(start, stop, FILL_PIECE_BYTES):
                yield_cpu()
                self._write(zeros[: stop - at], at, fd)
                if (at - start) % FILL_SYNC_BYTES == FILL_SYNC_BYTES - FILL_PIECE_BYTES:
                    os.fdatasync(fd)
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def store(self, at: int, raw: np.ndarray) -> int:
        """Write whole pages to the file at once, and store the rest.

        A store to a page of the mapping would zero or read the page, copy it, and write it in the end."""
        stop = at + raw.size
        first, last = -(-at // PAGE) * PAGE, stop // PAGE * PAGE
        if last <= first:
            self.data[at:stop] = raw
            return 0
        self._write(memoryview(raw)[first - at : last - at], first)
        with self._copying:  # copies made by `will_write`, even now, would hide the pages
            self._drop_copies(first, last)
        self.data[at:first], self.data[last:stop] = raw[: first - at], raw[last - at :]
        self._prewritten[first] = last
        if last - first >= EARLY_WRITE_BYTES:
            _begin_writing(self._fd, ctypes.c_int64(first), ctypes.c_int64(last - first), SYNC_FILE_RANGE_WRITE)
        return last - first

    def flush(self, ranges: Sequence[Range], sync: bool = True) -> None:
        if self._failed:
            raise OSError(errno.EIO, "a sync failed before, and the system takes what it lost for written")
        view, prewritten = memoryview(self._mmap), sorted(self._prewritten.copy().items()) if self._prewritten else []
        for start, stop in ranges:
            for first, last in prewritten:
                if start <= first and last <= stop:
                    self._write(view[start:first], start)
                    start = last
            self._write(view[start:stop], start)
        for first, last in prewritten:  # before the sync: if that is interrupted, all is written again
            if any(start <= first and last <= stop for start, stop in ranges):
                self._prewritten.pop(first, None)
        if sync:
            self._sync()
        for start, stop in ranges:
            self._release(start, stop, RELEASE_BYTES if (start, stop) == ranges[-1] else PAGE)

    def _sync(self) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError:
            self._failed = True  # set here: the caller may be interrupted before it can note the failure
            raise

    def written(self, start: int, stop: int) -> Iterator[Range]:
        """Yield what the file system says is written: reading zeros that it only promised would allocate pages."""
        while start < stop:
            try:
                first = os.lseek(self._fd, start, os.SEEK_DATA)
                start = os.lseek(self._fd, first, os.SEEK_HOLE)
            except OSError as error:
                if error.errno != errno.ENXIO:  # it does not know; ENXIO: nothing is written up to the end
                    yield start, stop
                return
            if first < stop:
                yield first, min(start, stop)

    def will_read(self, start: int, stop: int) -> None:
        for first in range(start, stop, CALL_BYTES):
            os.posix_fadvise(self._fd, first, min(stop - first, CALL_BYTES), os.POSIX_FADV_WILLNEED)

    def will_write(self, start: int, stop: int) -> None:
        """Make private copies of the pages now.

        A store would wait for each copy, and for the disk where the system has dropped the zeros of `prepare`."""
        with contextlib.suppress(OSError):  # another thread has closed the file
            self.will_read(start, stop)
        last = -(-stop // PAGE) * PAGE
        for at in range(start // PAGE * PAGE, last, POPULATE_PIECE_BYTES):
            with self._copying, contextlib.suppress(OSError):  # an older Linux refuses, then stores make the copies
                self._advise(MADV_POPULATE_WRITE, at, min(at + POPULATE_PIECE_BYTES, last))

    def _drop_copies(self, first: int, last: int) -> None:
        """Drop the private copies of these pages."""
        self._advise(mmap.MADV_DONTNEED, first, last)

    def _advise(self, advice: int, start: int, stop: int) -> None:
        """Call madvise through ctypes: the method of the mapping would keep the GIL."""
        at = ctypes.c_void_p(self.data.ctypes.data + start)
        if _libc.madvise(at, ctypes.c_size_t(stop - start), advice):
            raise OSError(number := ctypes.get_errno(), os.strerror(number))

    def rewrite(self, ranges: Sequence[Range]) -> None:
        self._prewritten.clear()
        self._failed = False
        self.flush(ranges)

    def _write(self, view: memoryview, at: int, fd: int = -1) -> None:
        while view:
            written = os.pwrite(self._fd if fd < 0 else fd, view[:WRITE_PIECE_BYTES], at)
            view, at = view[written:], at + written

    def _release(self, start: int, stop: int, at_least: int) -> None:
        """Drop private copies of whole pages below the end of a flushed range, where nothing is stored again."""
        start = self._unreleased.pop(start, start)
        first, last = -(-start // PAGE) * PAGE, stop // PAGE * PAGE
        if last - first >= at_least:
            self._drop_copies(first, last)
            start = last
        self._unreleased[-(-stop // UNIT) * UNIT] = start  # where the next range begins

    def revert(self) -> None:
        self._prewritten.clear()
        self._mmap.madvise(mmap.MADV_DONTNEED)

    def grow(self, capacity: int) -> None:
        self._extend(capacity)
        self._map()  # readers may hold the old mapping, which is unmapped with the last array

    def close(self) -> None:
        fd, self._fd = self._fd, -1  # first: the number must not be closed twice, after an interrupt
        if fd >= 0:
            os.close(fd)
