"""What the catalog says: every table and keyspace with its runs, complete up to one frame of the log.

`State` is what a checkpoint commits and an opening starts from. In the catalog it is a flat dict of small values, so
that a commit writes only what changed: `log`, `keyspace/<number>`, `table/<id>`, `run/<file>:<offset>`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..errors import CorruptionError
from ..index.run import Run, RunInfo
from ..log.replay import LogEnd


@dataclass(frozen=True)
class PartState:
    """A table or keyspace. decision: what created the table (as in its control frame); None for a keyspace."""

    layer: int
    runs: tuple[Run, ...] = ()  # newest first
    decision: dict[str, Any] | None = None

    @cached_property
    def records(self) -> dict[str, Any]:
        """Of its runs, and "" for its own: kept, as most parts are the same in the next state."""
        runs = {f"run/{name_of(run.info)}": run.info.asdict() for run in self.runs}
        own = {"layer": self.layer, "runs": [name_of(run.info) for run in self.runs], "decision": self.decision}
        return {"": own, **runs}


@dataclass(frozen=True)
class State:
    """Complete up to `end`. parts: by name, `keyspace/0` or `table/1`."""

    end: LogEnd
    last_table: int
    parts: dict[str, PartState] = field(default_factory=dict)

    @property
    def files(self) -> set[str]:
        """Names of the files that this state needs."""
        return {run.info.file for part in self.parts.values() for run in part.runs}

    def with_runs(self, part: str, runs: tuple[Run, ...]) -> State:
        """The same, but for one part's runs."""
        return replace(self, parts=self.parts | {part: replace(self.parts[part], runs=runs)})

    def as_records(self) -> dict[str, Any]:
        """As the catalog keeps it."""
        records: dict[str, Any] = {"log": self.end.asdict() | {"last_table": self.last_table}}
        for name, part in self.parts.items():
            records |= part.records
            records[name] = records.pop("")
        return records


def name_of(info: RunInfo) -> str:
    return f"{info.file}:{info.offset}"


def from_records(records: dict[str, Any], open_run: Callable[[RunInfo], Run]) -> State:
    """The other way round."""
    log = dict(records["log"])
    last_table = log.pop("last_table")
    infos = {name.removeprefix("run/"): value for name, value in records.items() if name.startswith("run/")}
    parts = dict(_parts(records, {name: open_run(RunInfo.from_dict(info)) for name, info in infos.items()}))
    return State(LogEnd(**log), last_table, parts)


def _parts(records: dict[str, Any], runs: dict[str, Run]) -> Iterator[tuple[str, PartState]]:
    for name, value in records.items():
        if name.startswith(("keyspace/", "table/")):
            missing = [run for run in value["runs"] if run not in runs]
            if missing:
                raise CorruptionError(f"the catalog names run {missing[0]} in {name}, and does not describe it")
            yield name, PartState(value["layer"], tuple(runs[run] for run in value["runs"]), value["decision"])
