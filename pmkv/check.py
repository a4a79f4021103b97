"""`pmkv check`: every invariant of a store that is not in use, replayed from its log. Reads only; problems are
reported, not raised."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from .directory import Directory
from .engine import Engine
from .errors import CorruptionError


@dataclass
class Report:
    """What was looked at, and what was found."""

    frames: int = 0
    records: int = 0
    keys: int = 0
    rows: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return not self.problems


def check(path: str | os.PathLike[str], pool: str | os.PathLike[str] = "auto") -> Report:
    """Replay the log, then assert every invariant and verify every live record and row."""
    report = Report()
    place = Directory(path, pool, 0, "page", readonly=True)
    try:
        engine = Engine(place.open_pool(), readonly=True, files=place.open_files())
        report.frames, report.records = engine.recovery.frames, engine.recovery.records
        report.keys = sum(len(keyspace) for keyspace in engine.keyspaces)
        report.rows = sum(len(table) for table in engine.tables.values())
        for part in (engine.log, *engine.keyspaces, *engine.tables.values()):
            try:
                part.check()
            except (CorruptionError, AssertionError) as error:
                report.problems.append(str(error) or f"an invariant of {part!r} does not hold")
    except CorruptionError as error:
        report.problems.append(str(error))
    finally:
        place.close()
    return report
