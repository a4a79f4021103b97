"""The committed state: the manifest in the catalog and its run files, shared by checkpoints and compactions.

The catalog's commit is the only switch from one manifest to the next. A crash before it leaves run files that no
manifest names; `remove_unneeded_files` removes these at the next opening. A commit that failed may have taken effect
nevertheless, so the files of both manifests are kept until another commit succeeds.

All of it runs in the maintenance thread. Other threads only read the counters, and note that they have rebuilt memory
from the present manifest (`is_ahead`), with `locks.append` and `locks.state` held.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Iterable, Iterator

import numpy as np

from ..catalog.key_directory import Key
from ..catalog.lmdb_catalog import Catalog
from ..errors import ClosedError, CorruptionError, FullError, PmkvError
from ..index.lookup_batch import lives
from ..index.run import Run, RunInfo
from ..index.run_files import RunFiles, RunFileWriter
from ..kernels.location import OFFSET_MASK
from ..kernels.records import DAMAGED, key_bounds, read_records
from ..log.log import Log
from ..runtime.scheduling import no_yield, yield_cpu
from ..versions.layer import LayerTree
from ..versions.manifest import Manifest, run_name

RECORD_OWNER = 1 << 32  # the owner of a keyspace's records is its number plus this
log = logging.getLogger("pmkv")

Steps = Generator[None, None, None]  # yields where other work may go first; never holds locks.state across a yield


class CommittedState:
    """Holds the committed manifest of one store, its catalog and its run files. trees: returns the present trees."""

    def __init__(
        self, log: Log, catalog: Catalog, run_files: RunFiles, trees: Callable[[], dict[str, LayerTree]]
    ) -> None:
        self.log, self.catalog, self.run_files, self.trees = log, catalog, run_files, trees
        self.segments = (log.pool.start(0), log.pool.segment_size)
        self.uncertain_files: set[str] = set()  # files of failed commits: a restart may find the commit done
        self.is_compacting = False  # a compaction has a file that no manifest names yet
        self._file_number = 0
        self._maps: dict[str, np.ndarray] = {}  # mapped run files by name
        records = catalog.load()
        self.manifest = Manifest.from_records(records, self.open_run) if records is not None else None
        self.is_ahead = False  # of memory, which still stands on the manifest before
        self.complete_to = 0, 0, 0  # of what the log appended, a checkpoint covers so many frames, records, bytes
        self.may_clean = False  # a checkpoint was committed since the store was opened
        self.bytes_written = 0  # of run files
        self.pause: Callable[[], None] = no_yield  # called within steps; may raise to give the step up
        self.error: str | None = None  # why the last checkpoint or compaction failed; None if it did not

    def renew(self) -> bool:
        """Load, in a readonly store, the manifest that another process committed last; return whether it is another
        one. CorruptionError: it cannot be read, perhaps as the next one is just replacing it."""
        records = self.catalog.renew()
        if records is None:
            return False
        self.manifest = Manifest.from_records(records, self.open_run)
        self._maps = {name: data for name, data in self._maps.items() if name in self.manifest.files}
        return True

    def open_run(self, info: RunInfo) -> Run:
        """Map a run. CorruptionError: its file is missing or damaged."""
        if info.file not in self._maps:
            try:
                self._maps[info.file] = self.run_files.open(info.file)
            except FileNotFoundError as error:
                raise CorruptionError(
                    f"the catalog names {info.file} among the runs, and there is no such file: restore it, or move "
                    "`catalog` and `runs` away: the log holds everything, and is replayed from its beginning then"
                ) from error
        return Run(info, self._maps[info.file], run_name(info), self.segments)

    def open_new_run(self, info: RunInfo) -> Run | None:
        """Map a run that was just written, whose pages are in the page cache. Return None for an empty one."""
        if info.is_empty:
            return None
        run = self.open_run(info)
        run.is_warm = True
        return run

    def remove_unneeded_files(self) -> None:
        """Remove the run files that no manifest needs. A readonly store keeps what it has mapped."""
        if self.is_compacting:
            return  # the compaction removes them when it ends
        needed = (self.manifest.files if self.manifest else set()) | self.uncertain_files
        for name in self.run_files.names():
            if name not in needed:
                self.run_files.remove(name)
        self._maps = {name: data for name, data in self._maps.items() if name in needed}

    def try_to_remove_unneeded_files(self) -> None:
        """Remove unneeded run files after a commit, ignoring errors: the commit is valid without it, and the next one
        tries again."""
        with contextlib.suppress(PmkvError, OSError):
            self.remove_unneeded_files()

    def warm(self) -> Steps:
        """Read all runs of the manifest once, so that probes need not wait for the disk."""
        damaged = None
        for _, run in list(self.manifest.runs if self.manifest else ()):
            try:
                yield from run.warm()
            except CorruptionError as error:  # read the other runs nevertheless
                damaged = error
        if damaged is not None:
            raise damaged

    @property
    def nbytes(self) -> int:
        """Return the bytes of the mapped run files."""
        return sum(data.size for data in list(self._maps.values()))

    def close(self) -> None:
        """Close the catalog and forget the mapped files."""
        self.catalog.close()
        self._maps = {}

    @contextlib.contextmanager
    def new_file(self, lsn: int) -> Iterator[RunFileWriter]:
        """Open a new run file; sync it at the end of the body, or remove it if the body fails.

        Its name must be new: a compaction covers the same LSNs as a checkpoint, possibly one of an earlier process,
        whose file also holds runs of other collections."""
        existing, name = set(self.run_files.names()), ""
        while not name or name in existing:
            self._file_number += 1
            name = f"{lsn:016x}-{self._file_number}.runs"
        out = self.run_files.create(name)
        try:
            yield out
            out.sync()
            self.bytes_written += out.size
        except BaseException:
            out.close()
            self.run_files.remove(name)
            raise
        out.close()

    def commit(self, manifest: Manifest, new: Iterable[Key] = (), dead: Iterable[Key] = ()) -> None:
        """Make `manifest` current. new, dead: keys that enter and leave the ordered directory with it. `adopt` must
        follow."""
        if self.is_ahead:  # an exception came between the last commit and what had to follow in memory
            self.adopt(self.catch_up)
        self.mend_directory()  # a large one is not verified at the start
        before = self.uncertain_files
        self.uncertain_files = before | manifest.files
        try:
            self.catalog.commit(manifest.to_records(), new, dead, self.pause)
        except (FullError, ClosedError):  # nothing was switched, so the new file is not needed
            self.uncertain_files = before
            self.try_to_remove_unneeded_files()
            raise
        self.manifest, self.uncertain_files, self.error, self.is_ahead = manifest, set(), None, True

    def adopt(self, change: Callable[[], None], trees: dict[str, LayerTree] | None = None) -> None:
        """Bring memory to the current manifest, by `change`.

        trees: what `change` is made for, if it fits no others. Memory that was rebuilt from the manifest before, while
        this one was being committed, is rebuilt again: it would name runs, and refer to segments, that the next
        compaction gives up."""
        with self.log.locks.append, self.log.locks.state:
            self.log.access.finish_interrupted()
            self.log.change_memory(lambda: self._adopt(change, trees))

    def _adopt(self, change: Callable[[], None], trees: dict[str, LayerTree] | None) -> None:
        if trees is not None and self.trees() is not trees:
            self.catch_up()
        change()
        self.is_ahead = False

    def catch_up(self) -> None:
        """Rebuild memory if it stands on an earlier manifest. The caller holds locks.append and locks.state."""
        if self.is_ahead and not self.log.failed and self.log.on_cut is not None:
            self.log.on_cut()

    def check(self) -> None:
        """Assert that memory stands on the current manifest: it names no run that was given up. The caller holds
        locks.state."""
        if self.manifest is not None and not self.is_ahead and not self.log.failed:
            known = {run.name for _, run in self.manifest.runs}
            for name, tree in self.trees().items():
                named = {run.name for layer in tree.layers.values() for run in layer.runs}
                assert named <= known, f"{name} reads runs that the manifest does not name: {named - known}"

    def mend_directory(self, most: int | None = None) -> None:
        """Make the ordered directory of keys anew from the runs, if its pages are damaged (and at most so many bytes).

        CorruptionError: a run or a record that is needed for that is damaged, too."""
        damage = self.catalog.directory_damage(most)
        if damage is not None and self.manifest is not None:
            self.catalog.rebuild(self.manifest.to_records(), self._names)
            log.warning("the ordered directory of keys was made anew: %s", damage)

    def _names(self) -> Iterator[Key]:
        """Yield the names of all keys in runs; a key may come several times."""
        for name, run in self.manifest.runs if self.manifest else ():
            tree = self.trees()[name]
            if tree.keyed:
                for _, key64s, locations in run.walk(0, tree.seed):
                    yield from self._named(tree.number, key64s, locations)

    def _named(self, number: int, key64s: np.ndarray, locations: np.ndarray) -> Iterator[Key]:
        """Yield the keys of those of some records of a keyspace that are alive. CorruptionError: one is damaged."""
        alive = np.flatnonzero(lives(locations))
        found, data = locations[alive], self.log.data
        rows, bounds = np.empty((found.size, 4), np.int64), np.empty((found.size, 2), np.int64)
        if read_records(data, found, np.uint64(RECORD_OWNER + number), 0, True, rows):
            bad = int(found[np.flatnonzero(rows[:, 0] == DAMAGED)[0]] & OFFSET_MASK)
            raise CorruptionError(
                f"the directory of keys cannot be made anew: the record at offset {bad:,} of the pool is damaged, too; "
                "restore a backup, or copy what is whole with `pmkv check --salvage`"
            )
        key_bounds(data, found, bounds)
        for (start, stop), key64 in zip(bounds.tolist(), key64s[alive].tolist()):
            yield number, data[start:stop].tobytes(), key64

    def is_present(self, tree: LayerTree) -> bool:
        """Return False once the collection of this tree was dropped, or memory was rebuilt after a failed flush."""
        return self.trees().get(tree.name) is tree

    def let_others_run(self) -> None:
        """Yield the core between two pieces of a step. Raises if the store is closing."""
        yield_cpu()
        self.pause()
