"""Layers: what was written to one collection between two version boundaries, and the tree that they form.

A layer lies on the one below it, which never changes once it is sealed. So views share what they have in common, and a
version costs nothing but a new layer on top. A *tree* has all layers of one collection, whichever view they belong to.
Each layer counts the layers on it and the views that have it on top, and is freed with the last of these. A layer with
nothing below it hides everything older: after a drop or FLUSHDB, the layers that older views read are not below it.

A layer has, from the newest to the oldest: the memtable, which takes writes; *frozen* memtables, until a checkpoint has
written them; runs on file. The caller holds locks.state.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from ..cache.dram_choice import DramChoice
from ..cache.row_cache import RowBudget
from ..index.arena import HELD, Arena
from ..index.location_cache import CacheBudget
from ..index.memtable import MemTable
from ..index.run import Run
from ..log.format import OWNER
from ..runtime.memory_nodes import ANYWHERE, MemoryNodes
from .expired_records import ExpiredRecords

T = TypeVar("T")
EXPECTED_ENTRIES_MAX = 1 << 20  # entries for which a new memtable has slots from the beginning


@dataclass(frozen=True)
class IndexMemory:
    """Holds the memory of all layers. arena: of memtables; budget: of location caches; rows: of row caches, None if
    there are none; nodes: where it is taken from."""

    arena: Arena
    budget: CacheBudget
    rows: RowBudget | None = None
    nodes: MemoryNodes = ANYWHERE


@dataclass(frozen=True)
class SkipRun:
    """Replaces all runs of consecutive layers by one run: from layer `top` down to the one above layer `below` (None:
    down to the bottom)."""

    run: Run
    top: int
    below: int | None


class LayerTree:
    """Holds all layers of one collection. name: `table/1`, `keyspace/0`; width: bytes of a row, 0 for a keyspace;
    decision: the one that created the table."""

    def __init__(
        self, name: str, dram: IndexMemory, seed: int, width: int, decision: dict[str, Any] | None = None
    ) -> None:
        self.name, self.dram, self.seed, self.width, self.decision = name, dram, seed, width, decision
        self.layers: dict[int, Layer] = {}
        self.skip_runs: dict[int, SkipRun] = {}  # by the id of their top layer
        self.stacks: weakref.WeakSet[Any] = weakref.WeakSet()  # the index stacks that read this tree
        self.expired = ExpiredRecords()
        self.kept: DramChoice = decision.get("dram") if decision is not None else None  # of its rows in DRAM

    @property
    def number(self) -> int:
        """Return the number of the keyspace, or the id of the table."""
        return int(self.name.partition("/")[2])

    @property
    def owner(self) -> int:
        """Return the owner of the checks of its records or rows."""
        return self.number + (OWNER if self.keyed else 0)

    @property
    def keyed(self) -> bool:
        """Return whether this is a keyspace."""
        return self.width == 0

    @property
    def creation(self) -> dict[str, Any] | None:
        """Return the decision that would create the table as it is now; None for a keyspace."""
        if self.decision is None or self.decision.get("dram") == self.kept:
            return self.decision
        return {
            key: one for key, one in (self.decision | {"dram": self.kept}).items() if one is not None or key != "dram"
        }

    def begin(self, id: int, below: Layer | None = None) -> Layer:
        """Make a new layer over `below`."""
        layer = self.layers[id] = Layer(self, id, below)
        return layer

    def continue_from(self, id: int, top: Layer) -> Layer:
        """Seal `top` and make a new layer over it. The content of its view stays the same."""
        layer = self.begin(id, top.seal())
        layer.visible_since = top.visible_since
        return layer

    def invalidate_stacks(self) -> None:
        """Make all index stacks gather their memtables and runs anew, as some were replaced."""
        for stack in self.stacks:
            stack.invalidate()

    def with_frozen(self, memtables: tuple[MemTable, ...]) -> Layer | None:
        """Return the layer that has these frozen memtables now; None if it is gone."""
        return next((layer for layer in self.layers.values() if set(memtables) <= set(layer.frozen)), None)

    def with_runs(self, runs: tuple[Run, ...]) -> Layer | None:
        """Return the layer that has these runs now; None if it is gone."""
        return next((layer for layer in self.layers.values() if set(runs) <= set(layer.runs)), None)

    def merge(self, named: set[int | None]) -> None:
        """Merge each layer with the one below it if nothing else refers to that; also the top layer of a head, or what
        it writes over would stay until the next seal, but not while it is empty: decisions pass by an empty one.

        named: ids of layers that are needed, because writes are counted from there on or they are looked up by id."""
        for layer in list(self.layers.values()):
            while (
                (layer.sealed or layer.writes)
                and layer.below is not None
                and layer.below.refs == 1
                and layer.below.id not in named
                and layer.id in self.layers
            ):
                layer.merge_below()
        self.skip_runs = {top: skip for top, skip in self.skip_runs.items() if self._is_whole(skip)}

    def _is_whole(self, skip: SkipRun) -> bool:
        """Return whether both ends of a skip run are still layers."""
        return skip.top in self.layers and (skip.below is None or skip.below in self.layers)

    def discard(self) -> None:
        """Let go of all layers, which refer to this tree. It must not be used again."""
        self.layers.clear()
        self.skip_runs.clear()

    def check(self) -> None:
        """Assert that references are counted, and that every layer below another is sealed."""
        below = [layer.below for layer in self.layers.values() if layer.below is not None]
        for layer in self.layers.values():
            assert layer.refs >= sum(one is layer for one in below) and layer.refs > 0, f"{self.name} {layer.id}"
            for memtable in layer.memtables:
                memtable.index.check()
            for run in layer.runs:
                run.check(self.seed)
        for layer in below:
            assert layer.sealed and self.layers[layer.id] is layer
        for skip in self.skip_runs.values():
            assert self._is_whole(skip)
            skip.run.check(self.seed)


class Layer:
    """Holds one layer: its memtables, its runs and its reference count. id: the LSN of the frame that began it."""

    def __init__(self, tree: LayerTree, id: int, below: Layer | None = None) -> None:
        self.tree, self.id, self.below = tree, id, below
        self.sealed = False
        self.head = ""  # the name of the head that it was made for, which writes to it until it is sealed
        self.memtable: MemTable | None = None  # made by the first write
        self.frozen: tuple[MemTable, ...] = ()  # newest first, like the runs
        self.runs: tuple[Run, ...] = ()
        self.expected = 0  # entries of the next memtable: as many as the last one had
        self.writes = 0  # records written to it; decisions depend on this, so it does not depend on what was merged
        self.merged_writes = 0  # to layers that were merged into it
        self.inserts = 0  # batches inserted; part of the stamp of an index stack
        self.last_write = id  # LSN
        self.visible_since = id  # LSN of the decision that made this layer visible; a miss depends on it
        self.refs = 0  # views that have it on top, layers on it, and readers that are shown it as a previous version
        self.shown = 0  # the last of these: until the decision that replaced it is durable
        if below is not None:
            below.refs += 1

    def expect(self, count: int) -> None:
        """Size the next memtable for so many records, so that it need not grow."""
        self.expected = min(max(self.expected, count), EXPECTED_ENTRIES_MAX)

    def memtable_for_write(self, lock: AbstractContextManager[object] = HELD) -> MemTable:
        """Return the memtable, made if there is none. The caller holds locks.append, and locks.state or passes it as
        `lock`: then it is released while memory is allocated."""
        if self.memtable is None:
            self.memtable = MemTable(self.tree.dram.arena, self.tree.seed, self.expected, lock)
        return self.memtable

    @property
    def memtables(self) -> tuple[MemTable, ...]:
        """Return the memtable and the frozen ones, newest first."""
        return (self.memtable, *self.frozen) if self.memtable is not None else self.frozen

    def down(self) -> Iterator[Layer]:
        """Yield this layer and those below it."""
        layer: Layer | None = self
        while layer is not None:
            yield layer
            layer = layer.below

    # its life

    def acquire(self) -> Layer:
        """Count one more reference. Return the layer."""
        self.refs += 1
        return self

    def release(self) -> None:
        """Count one reference less; free this layer with the last one, and then those below that nothing else needs."""
        layer: Layer | None = self
        while layer is not None:
            layer.refs -= 1
            if layer.refs:
                return
            layer.free()
            layer = layer.below

    def free(self) -> None:
        """Free the memory, and leave the tree."""
        for memtable in self.memtables:
            memtable.die()
        self.memtable, self.frozen, self.runs = None, (), ()  # readers without locks.state have their own copy of runs
        self.tree.layers.pop(self.id, None)
        self.tree.skip_runs.pop(self.id, None)  # skip runs that end here are gone already: the layers above are

    def freeze(self) -> None:
        """Freeze the memtable: the next write makes a new one."""
        if self.memtable is not None:
            self.expected = min(self.memtable.index.count, EXPECTED_ENTRIES_MAX)
            self.frozen, self.memtable = (self.memtable, *self.frozen), None

    def seal(self) -> Layer:
        """Allow no more writes to this layer. Return it."""
        self.freeze()
        self.sealed = True
        return self

    def adopt(self, written: tuple[MemTable, ...], run: Run | None) -> None:
        """Put a run in place of the oldest frozen memtables, which it was written from (None: nothing of them is
        left)."""
        kept = len(self.frozen) - len(written)
        assert self.frozen[kept:] == written, "what was written is not what lies on the runs"
        self.frozen, self.runs = self.frozen[:kept], (run, *self.runs) if run is not None else self.runs
        for memtable in written:
            memtable.die()

    def merge_below(self) -> None:
        """Take over all that the layer below has. Nothing else may refer to that."""
        below = self.below
        assert below is not None and below.sealed and below.refs == 1
        self.frozen, self.runs = self.frozen + below.frozen, self.runs + below.runs
        self.merged_writes += below.writes + below.merged_writes
        self.below = below.below  # with the reference that `below` had on it
        del self.tree.layers[below.id]


def live_of(runs: tuple[Run, ...]) -> int | None:
    """Return how many more keys live by these runs than without; None where damage prevented counting them."""
    counts = [run.info.live for run in runs]
    return None if None in counts else sum(counts)


def replaced(runs: tuple[T, ...], inputs: tuple[T, ...], run: T | None, kept: tuple[T, ...] = ()) -> tuple[T, ...]:
    """Return `runs` with `run`, if any, and below it `kept` in place of the consecutive `inputs`."""
    at = runs.index(inputs[0])
    assert runs[at : at + len(inputs)] == inputs, "the runs to be replaced are not consecutive any more"
    return (*runs[:at], *((run,) if run is not None else ()), *kept, *runs[at + len(inputs) :])
