"""Where run files are: in a directory, or in DRAM.

A file is written once from beginning to end, synced together with its directory, and never changed. Its first page is a
header: magic, format version, the id of its pool, and a checksum of these. The runs after it have checksums of their
own. The catalog says which files are in use.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import random
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from xxhash import xxh3_64_intdigest

from ..errors import CorruptionError, FormatError, FullError
from ..kernels.readahead import start_reads
from ..runtime.scheduling import yield_cpu

PAGE = 4096
VERSION = 1
MAGIC = b"pmkvruns"
HEADER = struct.Struct("<Q8sII16s")  # checksum of what follows, magic, version, reserved, pool id
SUFFIX = ".runs"
FAILED = ctypes.c_void_p(-1).value  # what mmap returns on failure

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

SYNC_STEP_BYTES = 8 << 20  # synced so often that a commit of the log never waits for much of a run file
RUN_WRITE_PIECE_BYTES = 16 << 10  # per system call: a thread that wakes up on this core waits for its end


def pack_header(pool_id: bytes) -> bytes:
    """Return the first page of a file."""
    rest = HEADER.pack(0, MAGIC, VERSION, 0, pool_id)[8:]
    return (xxh3_64_intdigest(rest).to_bytes(8, "little") + rest).ljust(PAGE, b"\0")


def verify_header(data: np.ndarray, pool_id: bytes, name: str) -> None:
    """Verify the header. CorruptionError: it is damaged. FormatError: another version, or another pool."""
    page = data[: HEADER.size].tobytes()
    if len(page) < HEADER.size or xxh3_64_intdigest(page[8:]) != int.from_bytes(page[:8], "little"):
        raise CorruptionError(f"the header of {name} (its first {HEADER.size} bytes) is damaged: restore the file")
    _, magic, version, _, of_pool = HEADER.unpack(page)
    if magic != MAGIC or version != VERSION:
        raise FormatError(f"{name} has format version {version}, this pmkv reads version {VERSION}")
    if of_pool != pool_id:
        raise FormatError(f"{name} belongs to another pool: the files of this directory do not belong together")


class RunFileWriter(Protocol):
    """A file that is being written."""

    name: str
    size: int

    def write(self, buffer: np.ndarray | bytes) -> None: ...
    def sync(self) -> None:
        """Make all that was written durable, and the entry of the file in its directory."""

    def close(self) -> None: ...


class RunFiles(Protocol):
    """The run files of one pool by name; names end in SUFFIX."""

    def create(self, name: str) -> RunFileWriter:
        """Create a file with a header, and replace the file that has this name."""

    def open(self, name: str) -> np.ndarray:
        """Return all bytes of a file, read-only. FileNotFoundError, CorruptionError, FormatError."""

    def remove(self, name: str) -> None:
        """Remove a file, if there is one."""

    def names(self) -> list[str]: ...


@contextlib.contextmanager
def _room_for(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise FullError(
                f"no room on the disk for {path}, an index that a checkpoint or a fold writes: {error.strerror}. "
                "Make room; what was acknowledged is safe in the log"
            ) from error
        raise


class DiskRunFileWriter:
    """Writes a file in a directory."""

    def __init__(self, path: Path) -> None:
        self.name, self.size, self._path, self._synced = path.name, 0, path, 0
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def write(self, buffer: np.ndarray | bytes) -> None:
        view = memoryview(buffer).cast("B")
        with _room_for(self._path):
            while view:
                yield_cpu()
                written = os.write(self._fd, view[:RUN_WRITE_PIECE_BYTES])
                view, self.size = view[written:], self.size + written
            if self.size - self._synced >= SYNC_STEP_BYTES:
                os.fdatasync(self._fd)
                self._synced = self.size

    def sync(self) -> None:
        with _room_for(self._path):
            os.fsync(self._fd)
            sync_directory(self._path.parent)

    def close(self) -> None:
        fd, self._fd = self._fd, -1  # first: the number must not be closed twice, after an interrupt
        if fd >= 0:
            os.close(fd)


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class DiskRunFiles:
    """Run files in a directory, which is created with the first of them."""

    def __init__(self, directory: str | os.PathLike[str], pool_id: bytes) -> None:
        self.directory, self._pool_id = Path(directory), pool_id

    def create(self, name: str) -> DiskRunFileWriter:
        if not self.directory.is_dir():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            sync_directory(self.directory.parent)
        path = self.directory / name
        self.remove(name)  # not truncated: a reader may still map it
        with _room_for(path):
            out = DiskRunFileWriter(path)
        try:
            out.write(pack_header(self._pool_id))
        except BaseException:
            out.close()
            self.remove(name)
            raise
        return out

    def open(self, name: str) -> np.ndarray:
        path = self.directory / name
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise CorruptionError(f"{path} is empty: restore the file")
            data = map_file(file.fileno(), size)
        # a probe reads one page: read-ahead would fetch pages that no probe needs
        libc.madvise(data.ctypes.data, size, mmap.MADV_RANDOM)
        verify_header(data, self._pool_id, str(path))
        return data

    def remove(self, name: str) -> None:
        (self.directory / name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        if not self.directory.is_dir():
            return []
        return sorted(path.name for path in self.directory.iterdir() if path.suffix == SUFFIX)


def will_read(data: np.ndarray, start: int, stop: int) -> None:
    """Ask the system to read a range of an opened file ahead."""
    start, stop = start // PAGE * PAGE, min(stop, data.size)
    if start < stop and isinstance(getattr(data.base, "obj", data.base), ctypes.Array):  # else it is in DRAM
        start_reads(np.uint64(data.ctypes.data), np.arange(start // PAGE, -(-stop // PAGE)), 1)


def map_file(fd: int, size: int) -> np.ndarray:
    """Map a file read-only, until the array is collected.

    Python's mmap would keep a descriptor open for each mapping, and a store may have more run files than a process may
    have descriptors."""
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address == FAILED:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    memory = (ctypes.c_uint8 * size).from_address(address)
    # At exit a thread may still read here, and the process gives its memory back anyway.
    weakref.finalize(memory, libc.munmap, address, size).atexit = False
    data = np.frombuffer(memory, np.uint8)
    data.flags.writeable = False
    return data


class MemoryRunFileWriter:
    """Writes a file in DRAM. `synced`: the bytes that would survive a crash; None: not even the name would."""

    def __init__(self, name: str) -> None:
        self.name, self.data, self.synced = name, bytearray(), None

    @property
    def size(self) -> int:
        return len(self.data)

    def write(self, buffer: np.ndarray | bytes) -> None:
        self.data += memoryview(buffer).cast("B")

    def sync(self) -> None:
        self.synced = len(self.data)

    def close(self) -> None:
        pass


class MemoryRunFiles:
    """Run files in DRAM: for stores without a directory, and to simulate what a crash leaves."""

    def __init__(self, pool_id: bytes) -> None:
        self._pool_id = pool_id
        self._files: dict[str, MemoryRunFileWriter] = {}

    def create(self, name: str) -> MemoryRunFileWriter:
        out = self._files[name] = MemoryRunFileWriter(name)
        out.write(pack_header(self._pool_id))
        return out

    def open(self, name: str) -> np.ndarray:
        if name not in self._files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        data = np.frombuffer(memoryview(self._files[name].data).toreadonly(), np.uint8)
        verify_header(data, self._pool_id, name)
        return data

    def remove(self, name: str) -> None:
        self._files.pop(name, None)

    def names(self) -> list[str]:
        return sorted(self._files)

    def survivor(self, rng: random.Random) -> MemoryRunFiles:
        """Return what a crash now may leave: synced bytes, and nothing or any pages of the others."""
        after = MemoryRunFiles(self._pool_id)
        for name, file in self._files.items():
            if file.synced is not None or rng.random() < 0.5:
                after._files[name] = left = MemoryRunFileWriter(name)
                left.data, left.synced = torn(file, rng), file.synced
        return after


def torn(file: MemoryRunFileWriter, rng: random.Random) -> bytearray:
    """Return the bytes of a file, of which those not synced are cut off somewhere or replaced by zeros."""
    synced = file.synced or 0
    data = file.data[: rng.randint(synced, len(file.data))]
    for start in range(synced, len(data), PAGE):
        if rng.random() < 0.5:
            length = min(PAGE, len(data) - start)
            data[start : start + length] = bytes(length)
    return data
