"""Where the bytes of a pool are: known figures, estimated ones, and what each view pins.

Estimates come from the indexes on file, which count what they refer to, overwritten records too until a compaction
has met them; so what lives is estimated too high rather than too low.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..log.log import Log
from ..log.segments import Reserve
from ..versions.layer import Layer
from ..versions.view_set import MAIN, ViewEntry, ViewSet
from .cleaning import Cleaner


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


def bytes_of(layer: Layer) -> int:
    """Return about how many bytes of the pool a layer needs: what its runs refer to, and what is in memory alone."""
    on_file = sum(sum(run.info.segments.values()) for run in layer.runs)
    return on_file + sum(memtable.index.count for memtable in layer.memtables) * max(layer.tree.width, 1)


def pinned(views: ViewSet, view: ViewEntry) -> int:
    """Estimate what deleting one view gives back: the layers that only it reads, and of those that it shares with
    `main` as much as `main` has written over them."""
    total = 0
    others = [one for one in views.maps.values() if one is not view]
    for name, top in view.parts.items():
        if top is None:
            continue
        shared = {id(layer) for one in others if (other := one.parts.get(name)) is not None for layer in other.down()}
        stack = list(top.down())
        total += sum(bytes_of(layer) for layer in stack if id(layer) not in shared)
        main = views.maps[MAIN].parts.get(name)
        above = []
        for layer in main.down() if main is not None else ():
            if layer is top:
                total += min(sum(map(bytes_of, above)), sum(map(bytes_of, stack)))
                break
            above.append(layer)
    return total
