"""`pmkv check`: check every invariant of a store that is not in use. Reads only; problems are reported, not raised."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial

from ..data_directory import DataDirectory
from ..engine.engine import Engine
from ..engine.keyspace import Keyspace
from ..errors import CorruptionError

PAGE_KEYS = 64  # keys of one page of an ordered scan: their values are read with them


@dataclass
class Report:
    """Counts of what was checked, and the problems found."""

    frames: int = 0
    records: int = 0
    keys: int = 0
    rows: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return not self.problems


def check(path: str | os.PathLike[str], pool: str | os.PathLike[str] = "auto") -> Report:
    """Open it as a restart does, then assert every invariant and verify every live record and row, every page of every
    run and every entry of the catalog."""
    report = Report()
    place = DataDirectory(path, pool, None, "page", readonly=True)
    try:
        opened, files = place.open_pool(), place.open_files()
        if place.catalog_damage is not None:
            report.problems.append(str(place.catalog_damage))
        engine = Engine(opened, readonly=True, files=files)
        report.frames, report.records = engine.recovery.frames, engine.recovery.records
        report.keys = sum(len(keyspace) for keyspace in engine.keyspaces)
        report.rows = sum(len(table) for table in engine.tables.values())
        views = [engine.view(name) for name in engine.view_set.maps]
        parts, seen = (engine.log, engine.view_set, *(files[:1] if files else ())), set()
        checks = [part.check for part in parts] + [partial(view.check, seen) for view in views]
        checks += [partial(check_order, one) for view in views for one in view.keyspaces]
        for one in checks:
            try:
                one()
            except (CorruptionError, AssertionError) as error:
                if str(error) not in report.problems:
                    report.problems.append(str(error) or f"an invariant does not hold: {one!r}")
    except CorruptionError as error:
        report.problems.append(str(error))
    finally:
        place.close()
    return report


def check_order(keyspace: Keyspace) -> None:
    """Assert that an ordered scan finds every key: the ordered directory lacks none."""
    found, start = 0, b""
    while page := [key for key, _ in keyspace.scan(start=start, limit=PAGE_KEYS)]:
        found, start = found + len(page), page[-1] + b"\0"
    there = len(keyspace)
    assert found >= there, f"a scan of keyspace {keyspace.number} finds {found:,} of its {there:,} keys"
