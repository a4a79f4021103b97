"""Where the bytes of a pool are: known figures, estimated ones, and what each view pins.

Estimates come from the indexes on file, which count what they refer to, overwritten records too until a compaction
has met them; so what lives is estimated too high rather than too low.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..log.log import Log
from ..log.segments import Reserve
from ..versions.layer import Layer
from ..versions.view_set import MAIN, ViewEntry, ViewSet
from .cleaning import Cleaner

REPORT_S = 1.0
NAMED_VIEWS = 3  # in the error about a full pool


@dataclass(frozen=True)
class SpaceStats:
    """Tells where the bytes of a pool are. Known: capacity; used: segments in use; reserved: segments kept back for
    deletes, cleaning and recovery; free: the others; moved, freed: by passes of the cleaner since the store was opened;
    write_amplification: bytes written to the pool for each that users wrote, since then; takes_writes: whether a
    segment is left for writers. Estimated: live; dead: used and not live; pinned_by: what deleting a view, this one
    alone, would let the cleaner give back."""

    capacity: int
    used: int
    reserved: int
    free: int
    moved: int
    freed: int
    write_amplification: float
    takes_writes: bool
    live: int
    dead: int
    pinned_by: dict[str, int] = field(default_factory=dict)


def space_of(log: Log, views: ViewSet, cleaner: Cleaner | None) -> SpaceStats:
    """Collect the figures of one moment. The caller holds locks.state."""
    pool, written = log.pool, log.appended[2]
    used, reserved = pool.used * pool.segment_size, min(pool.free, Reserve.WRITE) * pool.segment_size
    layers = [layer for tree in views.trees.values() for layer in tree.layers.values()]
    live = min(used, sum(map(bytes_of, layers)))
    return SpaceStats(
        capacity=int(pool.medium.data.size),
        used=used,
        reserved=reserved,
        free=pool.free * pool.segment_size - reserved,
        moved=log.mover.written,
        freed=cleaner.totals.freed * pool.segment_size if cleaner is not None else 0,
        write_amplification=round((written + log.mover.written) / max(1, written), 3),
        takes_writes=not pool.is_scarce and log.readonly is None,
        live=live,
        dead=used - live,
        pinned_by={name: pinned(views, view) for name, view in views.maps.items() if name != MAIN},
    )


class PinReport:
    """Tells which views pin most, for the error about a full pool; it looks again after a second, or
    when there are other views."""

    def __init__(self, log: Log, views: Callable[[], ViewSet]) -> None:
        self._log, self._views = log, views
        self._report, self._named, self._valid_until = "", set[str](), 0.0  # by the monotonic clock

    def __call__(self) -> str:
        """Return a sentence to append, nothing if no view pins anything. The caller holds no lock."""
        views = self._views()
        if time.monotonic() >= self._valid_until or self._named != views.maps.keys():
            with self._log.locks.state:
                self._report, self._named = what_pins_most(views), set(views.maps)
            self._valid_until = time.monotonic() + REPORT_S
        return self._report


def what_pins_most(views: ViewSet) -> str:
    """Return a sentence about the views that pin most, nothing if none pins anything. The caller holds locks.state."""
    pins = {name: pinned(views, view) for name, view in views.maps.items() if name != MAIN}
    most = sorted((name for name in pins if pins[name]), key=lambda name: -pins[name])[:NAMED_VIEWS]
    named = ", ".join(f"{name!r} about {pins[name]:,} bytes" for name in most)
    return f". Of the views these pin most: {named}" if most else ""


def bytes_of(layer: Layer) -> int:
    """Return about how many bytes of the pool a layer needs: what its runs refer to, and what is in memory alone."""
    on_file = sum(sum(run.info.segments.values()) for run in layer.runs)
    return on_file + sum(memtable.index.count for memtable in layer.memtables) * max(layer.tree.width, 1)


def pinned(views: ViewSet, view: ViewEntry) -> int:
    """Estimate what deleting one view gives back: the layers that only it reads, and of those that it shares with
    `main` as much as `main` has written over them."""
    total = 0
    others = [one for one in views.maps.values() if one is not view]
    for name, top in view.tops.items():
        if top is None:
            continue
        shared = {id(layer) for one in others if (other := one.tops.get(name)) is not None for layer in other.down()}
        stack = list(top.down())
        total += sum(bytes_of(layer) for layer in stack if id(layer) not in shared)
        main = views.maps[MAIN].tops.get(name)
        above = []
        for layer in main.down() if main is not None else ():
            if layer is top:
                total += min(sum(map(bytes_of, above)), sum(map(bytes_of, stack)))
                break
            above.append(layer)
    return total
