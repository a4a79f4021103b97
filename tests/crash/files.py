"""Catalog and files of runs that lose, tear and fail as real ones do, for crash tests. Their fault model:

- Power cut: of a file that was written and not synced any part is there, cut anywhere, with pages of zeros; or nothing,
  not even its name. A file that was removed, or put in place of another one, may be back until the directory is
  synced, which every sync of a file does.
- A commit of the catalog is there as a whole or not at all.
- No room, or EIO (`Fault`): a file cannot be created, or ends with a part of what should have been written to it; a
  sync fails when any part is there; a file cannot be removed. A commit that finds no room has not taken place; one
  that meets EIO may have, or not, or turn out either way at the next crash, until another one succeeds.

`on_point(stage)` is called before and after everything that changes what a crash leaves.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pmkv.catalog.key_directory import Key
from pmkv.catalog.lmdb_catalog import MemoryCatalog
from pmkv.errors import FlushError, FullError
from pmkv.index.run_files import PAGE, pack_header, verify_header

STAGES = ("create", "write", "sync", "synced", "remove", "removed", "commit", "committed")


@dataclass(frozen=True)
class Fault:
    """The nth call of this kind from now on (1: the next) fails. whole: a commit fails when it has taken place."""

    call: str  # create, write, sync, remove, commit
    nth: int = 1
    full: bool = False  # no room; else EIO
    whole: bool = False
    later: bool = False  # a commit that failed turns out the other way at the next crash


class Disk:
    """What shelf and catalog have in common: who watches them, and what fails next."""

    def __init__(self) -> None:
        self.on_point: Callable[[str], None] | None = None
        self.fault: Fault | None = None
        self.failed = 0
        self._calls = 0

    def arm(self, fault: Fault | None) -> None:
        self.fault, self._calls = fault, 0

    def point(self, stage: str) -> None:
        if self.on_point is not None:
            self.on_point(stage)

    def due(self, call: str) -> Fault | None:
        """The fault that this call meets."""
        fault = self.fault
        if fault is None or fault.call != call:
            return None
        self._calls += 1
        if self._calls < fault.nth:
            return None
        self.failed += 1
        self.arm(None)
        return fault


@dataclass
class Content:
    """A file: its bytes, and how many of them were synced."""

    data: bytes
    synced: int = 0


class SimulatedAppender:
    """A file that is being written."""

    def __init__(self, shelf: SimulatedShelf, name: str) -> None:
        self.name, self._shelf, self.content = name, shelf, Content(b"")

    @property
    def size(self) -> int:
        return len(self.content.data)

    def write(self, buffer: np.ndarray | bytes) -> None:
        disk, content, more = self._shelf.disk, self.content, memoryview(buffer).tobytes()
        disk.point("write")
        if fault := disk.due("write"):
            content.data += more[: len(more) // 2]
            raise error(fault, self.name)
        content.data += more

    def sync(self) -> None:
        disk = self._shelf.disk
        disk.point("sync")
        if fault := disk.due("sync"):
            raise error(fault, self.name)
        self.content.synced = len(self.content.data)
        self._shelf.sync_names()
        disk.point("synced")

    def close(self) -> None:
        pass


def error(fault: Fault, name: str) -> Exception:
    return FullError(f"simulated: no room for {name}") if fault.full else OSError(errno.EIO, "simulated: EIO", name)


class SimulatedShelf:
    """A directory of files. `files`: as the process sees them; `durable`: what its last sync made of the directory."""

    def __init__(self, pool_id: bytes, disk: Disk) -> None:
        self.pool_id, self.disk = pool_id, disk
        self.files: dict[str, Content] = {}
        self.durable: dict[str, Content] = {}

    def create(self, name: str) -> SimulatedAppender:
        self.disk.point("create")
        out = SimulatedAppender(self, name)
        if fault := self.disk.due("create"):
            raise error(fault, name)
        self.files[name] = out.content
        try:
            out.write(pack_header(self.pool_id))
        except (FullError, OSError):
            del self.files[name]
            raise
        return out

    def open(self, name: str) -> np.ndarray:
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        data = np.frombuffer(self.files[name].data, np.uint8)
        verify_header(data, self.pool_id, name)
        return data

    def remove(self, name: str) -> None:
        self.disk.point("remove")
        if fault := self.disk.due("remove"):
            raise error(fault, name)
        self.files.pop(name, None)
        self.disk.point("removed")

    def names(self) -> list[str]:
        return sorted(self.files)

    def sync_names(self) -> None:
        self.durable = dict(self.files)


class SimulatedCatalog(MemoryCatalog):
    """A catalog in DRAM. `other`: what a crash may leave as well."""

    def __init__(self, pool_id: bytes, disk: Disk) -> None:
        super().__init__(pool_id)
        self.disk = disk
        self.other: MemoryCatalog | None = None

    @classmethod
    def of(cls, catalog: MemoryCatalog, disk: Disk) -> SimulatedCatalog:
        """One that holds what another one does, and shares nothing with it."""
        copy = cls(catalog._pool_id, disk)
        copy._records, copy._entries = dict(catalog._records), catalog._entries
        return copy

    def commit(self, state: dict[str, Any], new: Iterable[Key] = (), dead: Iterable[Key] = (), *pause: Any) -> int:
        dead, new = list(dead), list(new)
        self.disk.point("commit")
        if fault := self.disk.due("commit"):
            self._fail(fault, state, new, dead)
        number = super().commit(state, new, dead, *pause)
        self.other = None
        self.disk.point("committed")
        return number

    def _fail(self, fault: Fault, state: dict[str, Any], new: list[Key], dead: list[Key]) -> None:
        before, after = self.survivor(committed=True), self.survivor(committed=True)
        after.commit(state, new, dead)
        whole, later = fault.whole and not fault.full, fault.later and not fault.full
        found = after if whole else before
        self._records, self._entries = found._records, found._entries
        self.other = (before if whole else after) if later else None
        self.disk.point("committed")
        raise (FullError if fault.full else FlushError)("simulated: the catalog cannot be committed")


@dataclass(frozen=True)
class FilesPoint:
    """What a power cut at one moment may leave of a catalog and its files: every name with one of several contents,
    None where it may be missing."""

    pool_id: bytes
    catalogs: tuple[MemoryCatalog, ...]
    files: dict[str, tuple[Content | None, ...]]

    @property
    def is_certain(self) -> bool:
        """Can there be one outcome only?"""
        contents = [options[0] for options in self.files.values() if len(options) == 1]
        whole = len(contents) == len(self.files) and all(one.synced == len(one.data) for one in contents if one)
        return whole and len(self.catalogs) == 1

    def outcome(self, rng: np.random.Generator) -> Files:
        """One of the outcomes: all that was written, only what was synced, or anything in between."""
        kind = rng.integers(4)
        files: dict[str, Content] = {}
        for name, options in self.files.items():
            one = options[min(int(kind), 1) % len(options)] if kind < 2 else options[rng.integers(len(options))]
            if one is not None:
                files[name] = torn(one, rng) if kind else one
        return Files(self.pool_id, self.catalogs[rng.integers(len(self.catalogs))], files)


def torn(content: Content, rng: np.random.Generator) -> Content:
    """What was synced of a file, and of the rest anything."""
    if content.synced == len(content.data):
        return content
    data = bytearray(content.data[: rng.integers(content.synced, len(content.data) + 1)])
    for start in range(content.synced, len(data), PAGE):
        if rng.random() < 0.5:
            data[start : start + PAGE] = bytes(min(PAGE, len(data) - start))
    return Content(bytes(data), len(data))


class Files:
    """A catalog and files of runs, and what happens to them. Those that are given are not changed."""

    def __init__(
        self, pool_id: bytes, catalog: MemoryCatalog | None = None, files: dict[str, Content] | None = None
    ) -> None:
        self.disk, self.pool_id = Disk(), pool_id
        self.catalog = SimulatedCatalog.of(catalog or MemoryCatalog(pool_id), self.disk)
        self.shelf = SimulatedShelf(pool_id, self.disk)
        self.shelf.files = dict(files or {})
        self.shelf.sync_names()

    def point(self) -> FilesPoint:
        """What a power cut at this moment may leave."""
        catalogs = [self.catalog.survivor(committed=True)]
        if self.catalog.other is not None:
            catalogs.append(self.catalog.other)
        seen, durable = self.shelf.files, self.shelf.durable
        files: dict[str, tuple[Content | None, ...]] = {}
        for name in sorted(seen.keys() | durable.keys()):
            now, then = seen.get(name), durable.get(name)
            now = Content(now.data, now.synced) if now is not None else None
            files[name] = (now,) if name in seen and seen[name] is then else (now, then)
        return FilesPoint(self.pool_id, tuple(catalogs), files)
