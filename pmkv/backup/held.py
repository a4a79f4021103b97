"""Holding the views of a store during a backup, so that what is read does not change, and does not go away.

Each head is held by a snapshot, all of them cut at one moment. A crash leaves these snapshots; `drop_held` deletes
them. Of a branch the state at its cut is held, too, by a reference in memory.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..engine.engine import Engine
from ..errors import PmkvError
from ..log.replay import LogEnd
from ..versions.view_set import ViewEntry

HELD = "pmkv.backup:"  # begins the names of the snapshots that hold heads during a backup


@dataclass
class HeldHeads:
    """Says what a backup reads. lsn: of the moment; log: the end of the log, not before that; names: of the snapshots
    that hold heads, by the heads' names; cuts: what each branch was cut at, by its name."""

    lsn: int = 0
    log: LogEnd | None = None
    names: dict[str, str] = field(default_factory=dict)
    cuts: dict[str, ViewEntry] = field(default_factory=dict)


@contextlib.contextmanager
def held(engine: Engine, view: str | None) -> Iterator[HeldHeads]:
    """Hold the heads that a backup of this view, or of all (None), reads. Nothing changes a readonly store."""
    heads = HeldHeads(engine.log.lsn)
    if view is not None:
        engine.view(view)
    try:
        if not engine.log.readonly:
            with engine.batch():
                _hold(engine, view, heads)
                heads.lsn = engine.log.lsn
        with engine.log.locks.append, engine.log.locks.state:
            heads.log = engine.log.end_position()
        engine.log.wait_durable(heads.log.lsn)
        yield heads
    finally:
        _release(engine, heads)


def _hold(engine: Engine, view: str | None, heads: HeldHeads) -> None:
    wanted = [entry for name, entry in engine.view_set.maps.items() if view in (None, name) and entry.is_head]
    for entry in wanted:
        name = f"{HELD}{secrets.token_hex(8)}"
        engine.versions.snapshot(name, entry.name)
        heads.names[entry.name] = name
        if view is None and entry.kind == "branch":
            heads.cuts[entry.name] = _cut(engine, entry, engine.view_set.maps[name])


def _cut(engine: Engine, branch: ViewEntry, held: ViewEntry) -> ViewEntry:
    """Return a view of what a branch was cut at. A collection that the branch does not stand on any more, as it was
    cleared or rolled back, is left out: it counts as written as a whole. The caller holds locks.state."""
    cut = ViewEntry(f"the cut of {branch.name}", "snapshot", branch.lsn)
    for collection, id in branch.bases.items():
        top = held.tops.get(collection)
        base = next((one for one in top.down() if one.id == id), None) if top is not None else None
        if base is not None:
            cut.put(collection, base)
            base.shown += 1
        elif collection in engine.view_set.trees and engine.view_set.trees[collection].decision is None:
            cut.put(collection, None)
    return cut


def _release(engine: Engine, heads: HeldHeads) -> None:
    with engine.log.locks.state:
        for cut in heads.cuts.values():
            for layer in cut.tops.values():
                if layer is not None:
                    layer.shown -= 1
            cut.clear()
    for name in heads.names.values():
        with contextlib.suppress(PmkvError):  # the store was closed, or fails: the next opening drops it
            engine.versions.delete_view(name)


def drop_held(engine: Engine) -> None:
    """Delete the snapshots of a backup that a crash interrupted."""
    if not engine.log.readonly:
        for name in [name for name in list(engine.view_set.maps) if name.startswith(HELD)]:
            engine.versions.delete_view(name)
