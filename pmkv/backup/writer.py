"""Writing a backup while a store is used: the views are held, their entries are written, and the manifest last.

Entries that did not change since an earlier backup, or since a view that was written before, are not written again:
their locations are compared, their contents are not read.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..engine.collection import Collection
from ..engine.engine import Engine
from ..engine.open_view import OpenView
from ..errors import InvalidError, UnknownViewError
from ..kernels import location
from ..log.format import unpack_frame
from ..log.replay import LogEnd
from ..versions.view_set import MAIN, UNDO
from .backup_manifest import CURRENT, FILE, Backup, Manifest, Part, Piece, PieceFiles, Step, current_file
from .chain import aligned, differences, merged, nothing, paged
from .entries import Entries
from .held import HELD, HeldHeads, drop_held, held
from .source import KeyspaceSource, TableSource, source_of
from .target import Target, relative_place

PIECE_BYTES = 8 << 20  # a piece is closed when it is as long; one value may be longer

Progress = Callable[[int, int], None]  # called with how many entries were looked at, and of how many


@dataclass(frozen=True)
class BackupReport:
    """Tells of a backup. lsn: what it contains of the log; entries: rows, keys and deletes that were written; pieces,
    bytes: of its own files."""

    place: str
    id: str
    lsn: int
    entries: int
    pieces: int
    bytes: int
    seconds: float

    @property
    def manifest(self) -> str:
        """Return the place of its manifest, which a restore takes as its source, and a backup as `since`."""
        return f"{self.place}/{self.id}.json"


def no_progress(done: int, total: int) -> None:
    """Tell nobody how far a backup or restore is."""


def write_backup(
    engine: Engine, target: Target, view: str | None, since: Backup | None, progress: Progress
) -> BackupReport:
    """Back up one view, or all (None). since: an earlier backup of the same store; only what changed since then is
    written."""
    begun = time.perf_counter()
    drop_held(engine)
    with held(engine, view) as heads:
        writer = Writer(engine, target, since, heads)
        manifest = writer.manifest(view, progress)
        target.write(f"{manifest.id}.json", content := manifest.encoded())
        target.write(CURRENT, current_file(manifest.id))
    remove_others(target, manifest)
    return BackupReport(
        target.place, manifest.id, manifest.lsn, writer.entries, writer.pieces, writer.bytes + len(content),
        time.perf_counter() - begun,
    )  # fmt: skip


def remove_others(target: Target, manifest: Manifest) -> None:
    """Remove from a target what interrupted backups left, and earlier backups that the current one replaces.

    If it is incremental and needs one of them, all stay."""
    names = target.names()
    kept = {manifest.id}
    if "." in manifest.places.values():
        kept |= {name.removesuffix(".json") for name in names if name.endswith(".json")}
    for name in names:
        found = FILE.fullmatch(name)
        if found and (found[1] not in kept or name.endswith(".new")):
            target.remove(name)


class Writer:
    """Writes the pieces of one backup."""

    def __init__(self, engine: Engine, target: Target, since: Backup | None, heads: HeldHeads) -> None:
        self._engine, self._target, self._since, self._heads = engine, target, since, heads
        self.id = f"{heads.lsn:016x}-{secrets.token_hex(4)}"
        self.entries = self.pieces = self.bytes = 0
        self._generations = dict(engine.pool.generations)  # as they are before the first location is read
        self._now = engine.log.now()
        self._known: dict[str, list[Part]] = {}  # what stands in pieces already, by collection
        self._latest: dict[str, dict[str, Part]] = {}  # the last of it by head and collection: what changes stand on
        self._earlier: dict[str, Target] = {}
        self._changed_segments = np.zeros(engine.pool.count, bool)  # locations there may mean something else now
        if since is not None:
            self._changed_segments = changed_segments(engine, since)
            self._learn(since)
        self._files = PieceFiles(target, self._earlier)

    def _learn(self, since: Backup) -> None:
        """Note what stands in an earlier backup."""
        for step in since.manifest.steps:
            self._latest[since.manifest.view or step.head] = step.parts
            for part in step.parts.values():
                self._known.setdefault(part.name, []).append(part)
                for piece in (delta[0] for delta in part.chain):
                    self._earlier[piece.id] = since.pieces.target_of(piece)

    def _is_same(self, locations: np.ndarray) -> np.ndarray:
        """Tell which locations mean what they meant when they were written to a piece."""
        pool, before = self._engine.pool, self._generations
        changed = np.ones(pool.count, bool)  # true for segments that were added meanwhile
        changed[: self._changed_segments.size] = self._changed_segments
        changed[[i for i, generation in list(pool.generations.items()) if before.get(i) != generation]] = True
        offsets = (locations & location.OFFSET_MASK).astype(np.int64)
        return ~changed[(offsets - pool.start(0)) // pool.segment_size]

    def manifest(self, view: str | None, progress: Progress) -> Manifest:
        """Write all pieces; return the manifest that names them."""
        engine, heads, before = self._engine, self._heads, self._since
        plan = list(self._plan(view))
        total = sum(len(part) for _, collections in plan for part in collections)
        steps: list[Step] = []
        self._done, self._tell = 0, lambda done: progress(done, max(done, total))
        for step, collections in plan:
            try:
                parts = self._parts(view or step.head, collections)
            except UnknownViewError:  # somebody has deleted a snapshot meanwhile
                if step.kind != "snapshot" or any(other.head == step.name for other, _ in plan):
                    raise
            else:
                steps.append(replace(step, parts=parts))
        after = engine.pool.generations
        generations = {str(i): after[i] if self._generations.get(i) == after[i] else 0 for i in sorted(after)}
        needed = {
            piece.id for step in steps for part in step.parts.values() for delta in part.chain for piece in delta[:1]
        }
        places = {id: relative_place(self._earlier[id].place, self._target.place) for id in sorted(needed - {self.id})}
        return Manifest(
            self.id, engine.pool.pool_id.hex(), engine.log.now(), heads.lsn, heads.log.asdict(), generations,
            int(engine.pool.medium.data.size), view, before.manifest.id if before else None, tuple(steps), places,
        )  # fmt: skip

    def _plan(self, view: str | None) -> Iterator[tuple[Step, list[Collection]]]:
        """Yield the steps in the order of restoring, without parts, and the collections that each reads."""
        if view is not None:
            yield Step("head", view, MAIN), self._collections(view)
            return
        maps, cuts = self._engine.view_set.maps, self._heads.cuts
        for entry in sorted(maps.values(), key=lambda entry: entry.lsn):
            base = entry.base if entry.base in maps and maps[entry.base].lsn < entry.lsn else MAIN
            base = base if base != UNDO else MAIN  # which is in no backup
            if entry.name in cuts:
                if maps[base].kind == "snapshot":
                    yield Step("branch", entry.name, base), []
                else:
                    yield Step("cut", entry.name, base), self._cut_collections(entry.name)
            elif entry.kind == "snapshot" and not entry.name.startswith(HELD):
                yield Step("snapshot", entry.name, base if base in cuts else MAIN), self._collections(entry.name)
        for name in (*cuts, MAIN):
            yield Step("head", name, name), self._collections(name)

    def _collections(self, name: str) -> list[Collection]:
        """Return all collections of a view, or of what holds it."""
        opened = self._engine.view(self._heads.names.get(name, name))
        return [*opened.keyspaces, *opened.tables.values()]

    def _cut_collections(self, name: str) -> list[Collection]:
        """Return what a branch was cut at."""
        with self._engine.log.locks.state:
            opened = OpenView(self._heads.cuts[name], self._engine.view_set.trees, self._engine.context)
        return [*opened.keyspaces, *opened.tables.values()]

    def _parts(self, head: str, collections: list[Collection]) -> dict[str, Part]:
        """Write what is not in pieces yet of these collections."""
        parts = {}
        for collection in collections:
            part = self._part(head, collection)
            self._done += part.count
            if part.decision is not None or part.count:
                parts[part.name] = part
        return parts

    def _part(self, head: str, collection: Collection) -> Part:
        """Write what is not in pieces yet of one collection."""
        source, top = source_of(collection, self._now), collection.stack.top
        layer = top.id if top.sealed else None
        known = self._known.setdefault(source.name, [])
        for part in known:
            if layer is not None and part.layer == layer:
                return part
        latest = self._latest.setdefault(head, {})
        base = Part(source.name, source.decision, source.width, source.seed, None, 0, ())
        base = latest.get(source.name) or (known[-1] if known else base)
        earlier = paged(base, merged(self._files, base, with_body=False))
        pieces, count = PieceWriter(self.put, nothing(base)), 0
        for page, before in aligned(source.pages(), earlier):
            count += len(page)
            changed, gone = differences(page, before, self._is_same)
            for some in portions(source, changed, gone.deletes(source.width)):
                pieces.add(some)
            self._tell(self._done + count)
        delta = pieces.end()
        chain = (delta, *base.chain) if delta else base.chain
        part = Part(source.name, source.decision, source.width, source.seed, layer, count, chain)
        known.append(part)
        latest[part.name] = part
        return part

    def put(self, content: tuple[bytes, bytes], count: int) -> Piece:
        """Write one piece; return its description."""
        self.pieces += 1
        piece = Piece.of(f"{self.id}-{self.pieces:06}.piece", count, *content)
        self._target.write(piece.file, b"".join(content))
        self.entries, self.bytes = self.entries + count, self.bytes + piece.index + piece.body
        return piece


class PieceWriter:
    """Gathers entries, and writes a piece whenever there are enough. write: writes index and body of so many entries;
    none: no entries of the collection."""

    def __init__(self, write: Callable[[tuple[bytes, bytes], int], Piece], none: Entries) -> None:
        self._write, self._none = write, none
        self._gathered: list[Entries] = []
        self._nbytes = 0
        self._written: list[Piece] = []

    def add(self, entries: Entries) -> None:
        """Add entries that follow those before. Entries of one slot hash come together."""
        if len(entries):
            self._gathered.append(entries)
            self._nbytes += entries.nbytes
        if self._nbytes >= PIECE_BYTES:
            self.end()

    def end(self) -> tuple[Piece, ...]:
        """Write what is left; return all pieces."""
        if self._gathered:
            whole = type(self._none).joined(self._gathered)
            self._written.append(self._write(whole.encoded(), len(whole)))
            self._gathered, self._nbytes = [], 0
        return tuple(self._written)


def portions(source: TableSource | KeyspaceSource, changed: Entries, gone: Entries) -> Iterator[Entries]:
    """Yield changed entries, read, and deletes, in the order of their slot hashes, at most about a piece at a time."""
    ends = np.cumsum(source.sizes(changed)) if len(changed) else np.empty(0, np.int64)
    start = 0
    while start < len(changed):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + PIECE_BYTES, "right")))
        stop = int(np.searchsorted(changed.slots, changed.slots[stop - 1], "right"))
        at = int(np.searchsorted(gone.slots, changed.slots[stop - 1], "right")) if stop < len(changed) else len(gone)
        yield sorted_by_slot([source.filled(changed.take(slice(start, stop))), gone.take(slice(0, at))])
        start, gone = stop, gone.take(slice(at, None))
    if len(gone):
        yield gone


def sorted_by_slot(parts: list[Any]) -> Entries:
    """Return all entries in the order of their slot hashes."""
    some = [part for part in parts if len(part)]
    if len(some) == 1:
        return some[0]
    whole = type(some[0]).joined(some)
    return whole.take(np.argsort(whole.slots, kind="stable"))


def changed_segments(engine: Engine, since: Backup) -> np.ndarray:
    """Return for each segment whether a location there may mean something else than it did at an earlier backup.

    InvalidError: the store is another one, or does not continue the one that was backed up."""
    pool, before = engine.pool, since.manifest
    if before.pool_id != pool.pool_id.hex():
        raise InvalidError(
            f"the backup {since.target.place} is of another store, with pool {before.pool_id}: make a whole backup, "
            "without since"
        )
    log, now = LogEnd.from_dict(before.log), pool.generations
    changed = np.zeros(pool.count, bool)
    for index, generation in before.generations.items():
        if int(index) < pool.count:
            changed[int(index)] = now.get(int(index)) != generation
    last = log.segments[-1][0]
    if last >= pool.count or changed[last]:
        changed[:] = True  # whether the log continues that one cannot be seen any more
        return changed
    frame = unpack_frame(memoryview(pool.medium.data), log.last, pool.stop(last), pool.seed(last))
    if frame is None or (frame.lsn, frame.check) != (log.lsn, log.previous):
        raise InvalidError(
            f"the backup {before.id} in {since.target.place} is no earlier state of this store, which has another "
            f"history up to LSN {log.lsn}: make a whole backup, without since"
        )
    return changed
