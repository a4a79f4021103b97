"""Layers: what was written to one table or keyspace between two version boundaries, and the tree that they form.

A layer stands on the one below it, which never changes once it is sealed; so views share what they have in common, and
a version costs nothing but a new layer on top. A *tree* has all layers of one table or keyspace, whichever view they
belong to; each counts who stands on it or names it, and goes with the last of these. A layer that stands on nothing
hides everything there was before: after a drop or FLUSHDB, what old views still read is simply not below.

Within a layer: the open run, which takes what is written; below it those *closed* by a rotation or by the seal, until a
checkpoint has written them; then the runs on file. Assumes: the caller holds the store's lock.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from ..index.arena import HELD, Arena
from ..index.location_cache import CacheBudget
from ..index.memtable import MemTable
from ..index.run import Run

T = TypeVar("T")
MOST_EXPECTED = 1 << 20  # entries for which an open run has slots from the beginning


@dataclass(frozen=True)
class IndexMemory:
    """Where layers keep what is not on files. budget: of hot words."""

    heap: Arena
    budget: CacheBudget


@dataclass(frozen=True)
class SkipRun:
    """One run in place of all those of consecutive layers: from layer `top` down to the one above layer `below` (None:
    down to the bottom)."""

    run: Run
    top: int
    below: int | None


class LayerTree:
    """All layers of one table or keyspace. name: `table/1`, `keyspace/0`; width: bytes of a row, 0 for a keyspace;
    decision: what created the table."""

    def __init__(
        self, name: str, dram: IndexMemory, seed: int, width: int, decision: dict[str, Any] | None = None
    ) -> None:
        self.name, self.dram, self.seed, self.width, self.decision = name, dram, seed, width, decision
        self.layers: dict[int, Layer] = {}
        self.spans: dict[int, SkipRun] = {}  # by their top
        self.chains: weakref.WeakSet[Any] = weakref.WeakSet()  # those that read it

    @property
    def number(self) -> int:
        """Of the table or keyspace."""
        return int(self.name.partition("/")[2])

    @property
    def keyed(self) -> bool:
        return self.width == 0

    def begin(self, id: int, below: Layer | None = None) -> Layer:
        """A new layer."""
        layer = self.layers[id] = Layer(self, id, below)
        return layer

    def go_on(self, id: int, top: Layer) -> Layer:
        """A new layer over one that is sealed by this: what its view has stays the same."""
        layer = self.begin(id, top.seal())
        layer.since = top.since
        return layer

    def changed(self) -> None:
        """Runs were exchanged: chains let go of what they have, and look again when they are asked."""
        for chain in self.chains:
            chain.forget()

    def with_closed(self, closed: tuple[MemTable, ...]) -> Layer | None:
        """The layer that has these closed runs now; None if it is gone."""
        return next((layer for layer in self.layers.values() if set(closed) <= set(layer.closed)), None)

    def with_runs(self, runs: tuple[Run, ...]) -> Layer | None:
        """The layer that has these runs now; None if it is gone."""
        return next((layer for layer in self.layers.values() if set(runs) <= set(layer.runs)), None)

    def merge(self, named: set[int | None]) -> None:
        """Of two sealed layers between which nobody stands or reads any more, make one; not if somebody counts from
        there on, or looks for it by its number (named)."""
        for layer in list(self.layers.values()):
            while (
                layer.sealed
                and layer.below is not None
                and layer.below.refs == 1
                and layer.below.id not in named
                and layer.id in self.layers
            ):
                layer.absorb()
        self.spans = {top: span for top, span in self.spans.items() if self._is_whole(span)}

    def _is_whole(self, span: SkipRun) -> bool:
        return span.top in self.layers and (span.below is None or span.below in self.layers)

    def discard(self) -> None:
        """Give all memory back; the tree is not used again."""
        for layer in list(self.layers.values()):
            layer.give_back()

    def check(self) -> None:
        """References are counted, whoever is below is sealed and older."""
        stands_on = [layer.below for layer in self.layers.values() if layer.below is not None]
        for layer in self.layers.values():
            assert layer.refs >= sum(one is layer for one in stands_on) and layer.refs > 0, f"{self.name} {layer.id}"
            for mutable in layer.mutables:
                mutable.index.check()
            for run in layer.runs:
                run.check(self.seed)
        for below in stands_on:
            assert below.sealed and self.layers[below.id] is below
        for span in self.spans.values():
            assert self._is_whole(span)
            span.run.check(self.seed)


class Layer:
    """One layer. id: the LSN of the frame that opened it."""

    def __init__(self, tree: LayerTree, id: int, below: Layer | None = None) -> None:
        self.tree, self.id, self.below = tree, id, below
        self.sealed = False
        self.open: MemTable | None = None  # made by the first write
        self.closed: tuple[MemTable, ...] = ()  # newest first, as the runs
        self.runs: tuple[Run, ...] = ()
        self.expected = 0  # entries of the next open run: as many as the last one had
        self.writes = 0  # records
        self.entered = 0  # times that some were entered
        self.changed = id  # the LSN of the last write
        self.since = id  # the LSN of the decision by which its view has what is here and below
        self.refs = 0  # views that have it on top, layers that stand on it, and those who show it
        self.shown = 0  # of these, who shows it although the view has another: until the decision is durable
        if below is not None:
            below.refs += 1

    def expect(self, count: int) -> None:
        """So many records come next: an open run that is made for them need not grow."""
        self.expected = min(max(self.expected, count), MOST_EXPECTED)

    def to_write(self, lock: AbstractContextManager[object] = HELD) -> MemTable:
        """The open run. By who writes; under the lock, or with it: memory for a new one is asked for without."""
        if self.open is None:
            self.open = MemTable(self.tree.dram.heap, self.tree.seed, self.expected, lock)
        return self.open

    @property
    def mutables(self) -> tuple[MemTable, ...]:
        return (self.open, *self.closed) if self.open is not None else self.closed

    def down(self) -> Iterator[Layer]:
        """This one and those below it."""
        layer: Layer | None = self
        while layer is not None:
            yield layer
            layer = layer.below

    # its life

    def hold(self) -> Layer:
        self.refs += 1
        return self

    def let_go(self) -> None:
        """One reference less; what nobody needs any more gives its memory back."""
        layer: Layer | None = self
        while layer is not None:
            layer.refs -= 1
            if layer.refs:
                return
            layer.give_back()
            layer = layer.below

    def give_back(self) -> None:
        for mutable in self.mutables:
            mutable.die()
        self.open, self.closed, self.runs = None, (), ()  # who reads runs without the lock has them
        self.tree.layers.pop(self.id, None)
        self.tree.spans.pop(self.id, None)  # of those above, that end here: their top is gone before

    def close(self) -> None:
        """Nothing more is written to the open run."""
        if self.open is not None:
            self.expected = min(self.open.index.count, MOST_EXPECTED)
            self.closed, self.open = (self.open, *self.closed), None

    def seal(self) -> Layer:
        """Nothing more is written to it."""
        self.close()
        self.sealed = True
        return self

    def adopt(self, closed: tuple[MemTable, ...], run: Run | None) -> None:
        """The oldest closed runs were written to a file as one (None: nothing of them is left)."""
        kept = len(self.closed) - len(closed)
        assert self.closed[kept:] == closed, "what was written is not what stands on the files"
        self.closed, self.runs = self.closed[:kept], (run, *self.runs) if run is not None else self.runs
        for mutable in closed:
            mutable.die()

    def absorb(self) -> None:
        """Become one with the layer below, on which nothing else stands."""
        below = self.below
        assert below is not None and self.sealed and below.refs == 1
        self.closed, self.runs = self.closed + below.closed, self.runs + below.runs
        self.writes += below.writes
        self.below = below.below  # its reference is this one's now
        del self.tree.layers[below.id]


def live_of(runs: tuple[Run, ...]) -> int | None:
    """How many more words live by these runs; None where damage kept one from being counted."""
    lives_by = [run.info.live for run in runs]
    return None if None in lives_by else sum(lives_by)


def replaced(runs: tuple[T, ...], inputs: tuple[T, ...], run: T | None) -> tuple[T, ...]:
    """`runs` with the consecutive `inputs` replaced."""
    at = runs.index(inputs[0])
    assert runs[at : at + len(inputs)] == inputs, "what is folded is not consecutive any more"
    return (*runs[:at], *((run,) if run is not None else ()), *runs[at + len(inputs) :])
