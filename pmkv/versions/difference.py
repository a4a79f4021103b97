"""The difference of two views of one collection: the layers that only one of them stands on.

What both stand on is the same in both, so it need not be read: the difference of a table of a hundred million rows and
its snapshot costs what was written since. The caller holds locks.state.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .index_stack import Window, merge_windows
from .layer import Layer


def layers_between(top: Layer, since: Layer | None) -> list[Layer]:
    """Return the layers that only one of two views stands on, given the top layer of each; None: it has none.

    A key that is in none of them is the same in both views."""
    own, others = list(top.down()), list(since.down()) if since is not None else []
    shared = set(map(id, own)) & set(map(id, others))
    return [layer for layer in (*own, *others) if id(layer) not in shared]


def walk_layers(layers: list[Layer], seed: int | np.uint64, slot_hash: int = 0) -> Iterator[Window]:
    """Yield all entries of these layers from `slot_hash` on, in windows ascending by slot hash, deletes too."""
    sources = [memtable.index.walk(slot_hash) for layer in layers for memtable in layer.memtables]
    sources += [run.walk(slot_hash, seed) for layer in layers for run in layer.runs]
    if sources:
        yield from merge_windows(sources)
