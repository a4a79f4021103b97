"""`pmkv.restore`: make a store from a backup. Every byte is verified; what does not hold is refused by its name.

The store is made in a folder `restoring` below the new directory and moved up at the end, its identity last: an
interrupted restore leaves no store, and the next one begins anew.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backup.backup_manifest import Backup, Part, Step
from ..backup.chain import aligned, differences, merged, paged
from ..catalog.lmdb_catalog import sync_folder
from ..data_directory import IDENTITY
from ..errors import CorruptionError, InvalidError
from ..runtime.arguments import place_of
from ..runtime.sizes import parse_size
from ..store import Store, open_store
from ..versions.view_set import MAIN
from ..view import View

RESTORING = "restoring"
STORE_FILES = ("pool", "catalog", "runs", "lock", RESTORING)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RestoreReport:
    """Tells of a restore: from which backup, how many rows and keys were written, in how many seconds."""

    id: str
    lsn: int
    entries: int
    seconds: float


def restore(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    capacity: int | str | None = None,
    pool: str | os.PathLike[str] = "auto",
    progress: Progress | None = None,
) -> RestoreReport:
    """Make a new store in the directory `path` from a backup: the current one of a directory or URL, or the one whose
    manifest (`.../ID.json`) is named.

    capacity: of the pool, that of the source by default; pool: as of `pmkv.open`; progress: called with how many
    entries were written, and of how many. InvalidError: the directory is not empty. CorruptionError: the backup is
    damaged or not complete. UnknownNameError: there is no backup."""
    begun, backup = time.perf_counter(), Backup.open(place_of(source, "the backup"))
    folder = Path(place_of(path, "the new directory")).absolute()
    half = prepared(folder)
    size = backup.manifest.capacity if capacity is None else parse_size(capacity)
    with open_store(half, capacity=size, pool=pool) as store:
        copied = Restorer(backup, store, progress or (lambda done, total: None)).run()
        store.checkpoint()
    for name in ("catalog", "runs", "pool", IDENTITY):  # the identity last: before it there is no store
        if (half / name).exists():
            os.replace(half / name, folder / name)
            sync_folder(folder)
    shutil.rmtree(half)
    return RestoreReport(backup.manifest.id, backup.manifest.lsn, copied, time.perf_counter() - begun)


def prepared(folder: Path) -> Path:
    """Return where the store is made, without what an interrupted restore left.

    InvalidError: something else is there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = set(os.listdir(folder))
    except OSError as error:
        raise InvalidError(f"{folder} cannot be restored to: {error.strerror}; name another directory") from error
    if RESTORING in there and there <= {*STORE_FILES}:
        for name in there:
            one = folder / name
            shutil.rmtree(one) if one.is_dir() else one.unlink()
    elif there:
        raise InvalidError(f"{folder} is not empty: restore to a new directory")
    return folder / RESTORING


class Restorer:
    """Writes the states of a backup to a new store, one after the other."""

    def __init__(self, backup: Backup, store: Store, progress: Progress) -> None:
        self._backup, self._store, self._progress = backup, store, progress
        self._written = 0
        self._present: dict[str, dict[str, Part]] = {MAIN: {}}  # what each view holds
        steps = backup.manifest.steps
        self._total = sum(part.count for step in steps for part in step.parts.values())

    def run(self) -> int:
        """Carry out all steps; return how many rows and keys were written."""
        states = self._present
        for step in self._backup.manifest.steps:
            if step.kind == "branch":
                states[step.name] = states[step.head]
            else:
                self._bring(self._store.view(step.head), states[step.head], step)
                states[step.head] = states[step.name] = step.parts
            if step.kind == "snapshot":
                self._store.view(step.head).snapshot(step.name)
            elif step.kind in ("cut", "branch"):
                self._store.branch(step.name, at=step.head)
        return self._written

    def _bring(self, head: View, present: dict[str, Part], step: Step) -> None:
        """Make a head hold what a step says."""
        tables = {part.decision["name"]: name for name, part in present.items() if part.decision is not None}
        for label, name in tables.items():
            if name not in step.parts:
                head.drop_table(label)
        for name, part in present.items():
            if name not in step.parts and part.decision is None:
                head.keyspace(number_of(name)).clear()
        for name, part in step.parts.items():
            before = present.get(name)
            if part.decision is not None and before is None:
                head.restore_table(part.decision)
            self._fill(head, part, before)

    def _fill(self, head: View, part: Part, before: Part | None) -> None:
        """Make a collection hold what the backup says; before: what it holds now."""
        name = part.decision["name"] if part.decision is not None else ""
        for new, gone in self._changes(part, before):
            if part.decision is not None:
                table = head.table(name)
                table.put_stored(new.ids(part.seed), new.rows.reshape(-1))
                table.delete(gone.ids(part.seed))
            else:
                keyspace = head.keyspace(number_of(part.name))
                keyspace.put_entries(new.keys, new.values, new.expiries, new.kinds)
                keyspace.delete_many(gone.keys)
            self._written += len(new)
            self._progress(self._written, max(self._total, self._written))
        found = len(head.table(name)) if part.decision is not None else part.count
        if found != part.count:
            raise CorruptionError(
                f"the pieces of table {name!r} in the backup {self._backup.target.place} hold {found:,} rows, its "
                f"manifest tells of {part.count:,}; restore another backup"
            )

    def _changes(self, part: Part, before: Part | None) -> Iterator[tuple[Any, Any]]:
        """Yield pairs of entries: those to write, and those to delete."""
        files, chain = self._backup.pieces, part.chain
        kept = before.chain if before is not None else ()
        newer = len(chain) - len(kept)
        if newer >= 0 and chain[newer:] == kept:  # it becomes what it is by what the newer pieces say
            for window in merged(files, part, True, newer, with_deletes=True):
                gone = window.is_delete
                yield window.take(np.flatnonzero(~gone)), window.take(np.flatnonzero(gone))
            return
        assert before is not None
        new, old = merged(files, part, True), merged(files, before, False)
        for page, there in aligned(paged(part, new), paged(part, old)):
            yield differences(page, there, lambda same: np.zeros(same.size, bool))


def number_of(name: str) -> int:
    """Return the number of a keyspace, given its name as a collection."""
    return int(name.partition("/")[2])
