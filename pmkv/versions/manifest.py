"""The manifest: every view, and every collection with its layers and their runs, complete up to one frame of the log.

A collection is a table or a keyspace. A layer is named by a number that is unique within its collection; a view names
the layer on top of each collection.

A `Manifest` is what a checkpoint commits and an opening starts from. In the catalog it is a flat dict of small values,
so that a commit writes only what changed: `log`, `view/<name>`, `keyspace/<number>`, `table/<id>`,
`run/<file>:<offset>`. The keys inside these values are part of the format; `to_record` and `from_record` name them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..cache.dram_choice import DramChoice
from ..errors import CorruptionError
from ..index.run import Run, RunInfo
from ..log.replay import LogEnd
from .layer import SkipRun

FindRun = Callable[[str], Run]  # returns the run of this name. CorruptionError: the catalog does not describe it


@dataclass(frozen=True)
class LayerRecord:
    """Describes a layer. below: the id of the layer below; runs: newest first; writes: records written to it;
    last_write: the LSN of the last of them; merged_writes: records written to layers that were merged into it."""

    id: int
    below: int | None
    runs: tuple[Run, ...] = ()
    writes: int = 0
    last_write: int = 0
    merged_writes: int = 0

    def to_record(self) -> list[Any]:
        """Return the layer as the catalog keeps it."""
        merged = [self.merged_writes] if self.merged_writes else []
        return [self.id, self.below, self.writes, self.last_write, [run_name(run.info) for run in self.runs], *merged]

    @classmethod
    def from_record(cls, record: list[Any], find_run: FindRun) -> LayerRecord:
        """Return the layer of such a record."""
        id, below, writes, last_write, names, *merged = record
        return cls(id, below, tuple(map(find_run, names)), writes, last_write, *merged)


@dataclass(frozen=True)
class CollectionRecord:
    """Describes a collection. decision: the one that created the table, from its control frame; None for keyspaces;
    expired: the records that were seen expired, as `ExpiredRecords.to_record` has them; dram: what a table's owner
    chose last for its rows."""

    layers: tuple[LayerRecord, ...]
    decision: dict[str, Any] | None = None
    skip_runs: tuple[SkipRun, ...] = ()
    expired: list[list[int]] = field(default_factory=list)
    dram: DramChoice = None

    @property
    def runs(self) -> Iterator[Run]:
        """Yield all runs, skip runs too."""
        for layer in self.layers:
            yield from layer.runs
        yield from (skip.run for skip in self.skip_runs)

    def with_runs(self, id: int, runs: tuple[Run, ...]) -> CollectionRecord:
        """Return the collection with other runs in layer `id`."""
        layers = tuple(replace(layer, runs=runs) if layer.id == id else layer for layer in self.layers)
        return replace(self, layers=layers)

    @cached_property
    def records(self) -> dict[str, Any]:
        """Return the records of its runs by name, and its own under ""; cached, as most commits leave it unchanged."""
        runs = {f"run/{run_name(run.info)}": run.info.asdict() for run in self.runs}
        return {"": self.to_record(), **runs}

    def to_record(self) -> dict[str, Any]:
        """Return the collection as the catalog keeps it, without its runs."""
        skip_runs = [[skip.top, skip.below, run_name(skip.run.info)] for skip in self.skip_runs]
        record = {"layers": [one.to_record() for one in self.layers], "spans": skip_runs, "decision": self.decision}
        dram = {"dram": self.dram} if self.dram is not None else {}
        return record | ({"expired": self.expired} if self.expired else {}) | dram

    @classmethod
    def from_record(cls, record: dict[str, Any], find_run: FindRun) -> CollectionRecord:
        """Return the collection of such a record."""
        layers = tuple(LayerRecord.from_record(layer, find_run) for layer in record["layers"])
        skip_runs = tuple(SkipRun(find_run(run), top, below) for top, below, run in record["spans"])
        return cls(layers, record["decision"], skip_runs, record.get("expired", []), record.get("dram"))


@dataclass(frozen=True)
class ViewRecord:
    """Describes a view. tops: the layer on top of each collection that it has, None for one that was never written.

    lsn, created (unix ms): when it was cut; base: from which view. bases: of a branch, the layer of `main` that its own
    layers of each collection stand on. Of `undo` only: restored, the collections that it brings back; removed, those of
    them that `main` lost; promoted, the branch whose promote it undoes (name, LSN of its cut), which then gets back its
    former `bases`, kept here; rebased, the same of the branches whose promoted writes `main` lost. cuts: of a branch
    that was promoted, its bases before that."""

    kind: str
    lsn: int = 0
    created: int = 0
    base: str = ""
    tops: dict[str, int | None] = field(default_factory=dict)
    bases: dict[str, int | None] = field(default_factory=dict)
    restored: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    promoted: tuple[str, int] | None = None
    cuts: dict[str, int | None] = field(default_factory=dict)
    rebased: dict[str, tuple[int, dict[str, int | None]]] = field(default_factory=dict)

    @cached_property
    def record(self) -> dict[str, Any]:
        """Return the view as the catalog keeps it; cached, as most views never change."""
        return self.to_record()

    def to_record(self) -> dict[str, Any]:
        """Return the view as the catalog keeps it."""
        record = {
            "kind": self.kind, "lsn": self.lsn, "created": self.created, "base": self.base, "parts": self.tops,
            "stands_on": self.bases, "exchanged": self.restored, "dropped": self.removed, "branch": self.promoted,
        }  # fmt: skip
        return record | ({"cuts": self.cuts} if self.cuts else {}) | ({"rebased": self.rebased} if self.rebased else {})

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> ViewRecord:
        """Return the view of such a record."""
        return cls(
            record["kind"], record["lsn"], record["created"], record["base"], record["parts"], record["stands_on"],
            tuple(record["exchanged"]), tuple(record["dropped"]), tuple(record["branch"]) if record["branch"] else None,
            record.get("cuts", {}), {name: (lsn, bases) for name, (lsn, bases) in record.get("rebased", {}).items()},
        )  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """Describes the state of a store, complete up to `end`. collections: by name, `keyspace/0` or `table/1`.

    main_changes: how often `main` was promoted, rolled back or undone, and the LSN of the last time."""

    end: LogEnd
    last_table: int
    collections: dict[str, CollectionRecord] = field(default_factory=dict)
    views: dict[str, ViewRecord] = field(default_factory=dict)
    main_changes: tuple[int, int] = (0, 0)

    @property
    def runs(self) -> Iterator[tuple[str, Run]]:
        """Yield all runs, each with the name of its collection."""
        for name, collection in self.collections.items():
            for run in collection.runs:
                yield name, run

    @property
    def files(self) -> set[str]:
        """Return the names of the run files that this manifest needs."""
        return {run.info.file for _, run in self.runs}

    def with_collection(self, name: str, collection: CollectionRecord) -> Manifest:
        """Return the manifest with another record of one collection."""
        return replace(self, collections=self.collections | {name: collection})

    def with_run(self, name: str, layer_id: int, run: Run) -> Manifest:
        """Return the manifest with a new run on top of those of one layer of collection `name`."""
        collection = self.collections[name]
        runs = next(layer.runs for layer in collection.layers if layer.id == layer_id)
        return self.with_collection(name, collection.with_runs(layer_id, (run, *runs)))

    def to_records(self) -> dict[str, Any]:
        """Return the manifest as the catalog keeps it."""
        log = self.end.asdict() | {"last_table": self.last_table, "switches": self.main_changes}
        records: dict[str, Any] = {"log": log}
        for name, collection in self.collections.items():
            records |= collection.records
            records[name] = records.pop("")
        return records | {f"view/{name}": view.record for name, view in self.views.items()}

    @classmethod
    def from_records(cls, records: dict[str, Any], open_run: Callable[[RunInfo], Run]) -> Manifest:
        """Return the manifest of such records. open_run: maps a run. CorruptionError: a run is not described."""
        log = dict(records["log"])
        last_table, main_changes = log.pop("last_table"), tuple(log.pop("switches"))
        infos = {name.removeprefix("run/"): info for name, info in records.items() if name.startswith("run/")}
        runs = {name: open_run(RunInfo.from_dict(info)) for name, info in infos.items()}
        collections = {
            name: CollectionRecord.from_record(record, finder(runs, name))
            for name, record in records.items()
            if name.startswith(("keyspace/", "table/"))
        }
        views = {
            name.removeprefix("view/"): ViewRecord.from_record(record)
            for name, record in records.items()
            if name.startswith("view/")
        }
        return cls(LogEnd.from_dict(log), last_table, collections, views, main_changes)


def run_name(info: RunInfo) -> str:
    """Return the name of a run, unique in its store."""
    return f"{info.file}:{info.offset}"


def finder(runs: dict[str, Run], collection: str) -> FindRun:
    """Return a function that finds the runs of one collection by name."""

    def find(name: str) -> Run:
        if name not in runs:
            raise CorruptionError(f"the catalog names run {name} in {collection}, and does not describe it")
        return runs[name]

    return find
