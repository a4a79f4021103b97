"""What the catalog says: every view, and every table and keyspace with its layers and their runs, complete up to one
frame of the log. A layer is named by its number, which is its own within its table or keyspace; a view says which layer
is its top.

`State` is what a checkpoint commits and an opening starts from. In the catalog it is a flat dict of small values, so
that a commit writes only what changed: `log`, `view/<name>`, `keyspace/<number>`, `table/<id>`, `run/<file>:<offset>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from ..errors import CorruptionError
from ..index.run import Run, RunInfo
from ..log.replay import LogEnd
from .layer import SkipRun


@dataclass(frozen=True)
class LayerRecord:
    """runs: newest first. changed: the LSN of the last write."""

    id: int
    below: int | None
    runs: tuple[Run, ...] = ()
    writes: int = 0
    changed: int = 0


@dataclass(frozen=True)
class CollectionRecord:
    """A table or keyspace. decision: what created the table (as in its control frame); None for a keyspace."""

    layers: tuple[LayerRecord, ...]
    decision: dict[str, Any] | None = None
    spans: tuple[SkipRun, ...] = ()

    @property
    def runs(self) -> Iterator[Run]:
        """All of them, spans too."""
        for layer in self.layers:
            yield from layer.runs
        yield from (span.run for span in self.skip_runs)

    def with_runs(self, id: int, runs: tuple[Run, ...]) -> CollectionRecord:
        """The same, but for one layer's runs."""
        layers = tuple(replace(layer, runs=runs) if layer.id == id else layer for layer in self.layers)
        return replace(self, layers=layers)

    @cached_property
    def records(self) -> dict[str, Any]:
        """Of its runs, and "" for its own; kept from one fold to the next."""
        runs = {f"run/{name_of(run.info)}": run.info.asdict() for run in self.runs}
        layers = [[one.id, one.below, one.writes, one.changed, list(map(name_of_run, one.runs))] for one in self.layers]
        spans = [[one.top, one.below, name_of_run(one.run)] for one in self.skip_runs]
        return {"": {"layers": layers, "spans": spans, "decision": self.decision}, **runs}


@dataclass(frozen=True)
class ViewRecord:
    """A view: parts: the layer on top of each table and keyspace that it has, None for one that was never written.

    lsn, created (unix ms): when it was cut; base: from which view. stands_on: of a branch, the layer on which it stands
    with each part of `main`. exchanged: of `undo`, the parts that it brings back; dropped: of those, what `main` lost;
    branch: whose promote it undoes (name and lsn), which then stands on `stands_on` again."""

    kind: str
    lsn: int = 0
    created: int = 0
    base: str = ""
    parts: dict[str, int | None] = field(default_factory=dict)
    stands_on: dict[str, int | None] = field(default_factory=dict)
    exchanged: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    branch: tuple[str, int] | None = None

    @cached_property
    def record(self) -> dict[str, Any]:
        """As the catalog keeps it: once for the many that never change."""
        return asdict(self)


@dataclass(frozen=True)
class Manifest:
    """Complete up to `end`. parts: by name, `keyspace/0` or `table/1`. switches: promotions, rollbacks and undos of
    `main` so far, and the LSN of the last."""

    end: LogEnd
    last_table: int
    parts: dict[str, CollectionRecord] = field(default_factory=dict)
    views: dict[str, ViewRecord] = field(default_factory=dict)
    switches: tuple[int, int] = (0, 0)

    @property
    def runs(self) -> Iterator[tuple[str, Run]]:
        """All of them, each with the name of its part."""
        for name, part in self.parts.items():
            for run in part.runs:
                yield name, run

    @property
    def files(self) -> set[str]:
        """Names of the files that this state needs."""
        return {run.info.file for _, run in self.runs}

    def with_part(self, name: str, part: CollectionRecord) -> Manifest:
        """The same, but for one part."""
        return replace(self, parts=self.parts | {name: part})

    def as_records(self) -> dict[str, Any]:
        """As the catalog keeps it."""
        log = self.end.asdict() | {"last_table": self.last_table, "switches": self.switches}
        records: dict[str, Any] = {"log": log}
        for name, part in self.parts.items():
            records |= part.records
            records[name] = records.pop("")
        return records | {f"view/{name}": view.record for name, view in self.views.items()}


def name_of(info: RunInfo) -> str:
    return f"{info.file}:{info.offset}"


def name_of_run(run: Run) -> str:
    return name_of(run.info)


def from_records(records: dict[str, Any], open_run: Callable[[RunInfo], Run]) -> Manifest:
    """The other way round."""
    log = dict(records["log"])
    last_table, switches = log.pop("last_table"), tuple(log.pop("switches"))
    infos = {name.removeprefix("run/"): value for name, value in records.items() if name.startswith("run/")}
    runs = Runs({name: open_run(RunInfo.from_dict(info)) for name, info in infos.items()})
    parts = {name: _part(name, record, runs) for name, record in records.items() if is_part(name)}
    views = {name.removeprefix("view/"): _view(one) for name, one in records.items() if name.startswith("view/")}
    return Manifest(LogEnd(**log), last_table, parts, views, switches)


def is_part(name: str) -> bool:
    return name.startswith(("keyspace/", "table/"))


class Runs:
    """The runs that the catalog describes, by name."""

    def __init__(self, runs: dict[str, Run]) -> None:
        self._runs = runs

    def get(self, name: str, part: str) -> Run:
        if name not in self._runs:
            raise CorruptionError(f"the catalog names run {name} in {part}, and does not describe it")
        return self._runs[name]


def _part(name: str, record: dict[str, Any], runs: Runs) -> CollectionRecord:
    layers = tuple(
        LayerRecord(id, below, tuple(runs.get(run, name) for run in names), writes, changed)
        for id, below, writes, changed, names in record["layers"]
    )
    spans = tuple(SkipRun(runs.get(run, name), top, below) for top, below, run in record["spans"])
    return CollectionRecord(layers, record["decision"], spans)


def _view(record: dict[str, Any]) -> ViewRecord:
    branch = tuple(record["branch"]) if record["branch"] else None
    exchanged, dropped = tuple(record["exchanged"]), tuple(record["dropped"])
    return ViewRecord(**record | {"exchanged": exchanged, "dropped": dropped, "branch": branch})
