"""Size-tiered compaction policy, as of a log-structured merge tree: which consecutive runs to merge.

A compaction writes one run in place of consecutive ones of a layer. Where many layers follow one another, because a
snapshot names each of them, no run may take their place; but a *skip run*, an extra run over consecutive layers, lets
readers above them skip these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..index.run import Run
from ..versions.layer import LayerTree, SkipRun, replaced
from ..versions.manifest import CollectionRecord, LayerRecord, Manifest

# In a table of a hundred million ids, updated at random, compactions write an entry 2.7 times and a read probes ten
# runs on average; with tiers of five 3.9 times, and eight runs. With ten million ids 1.8 times and six runs, or 2.4 and
# five.
TIER = 8  # so many runs of about one size become one
QUIET_TIER = 2  # the same while nobody writes
SPAN_TIER = 4  # layers and skip runs: what is written again is small, and reads of `main` probe half as many
SIZE_RATIO = 2  # runs are of about one size up to so many times the entries of the newest of them
MOST = 24  # runs of a layer, or layers and skip runs of a stack, beyond which a full tier of any sizes is compacted
MAX_INPUTS = 64  # runs compacted at once
AT_ONCE = 1 << 20  # entries that compactions of several collections may write as one file


@dataclass(frozen=True)
class CompactionPlan:
    """Describes a compaction of consecutive runs of one layer, newest first. bottom: nothing lies below them."""

    tree: LayerTree
    layer: int
    inputs: tuple[Run, ...]
    bottom: bool

    @property
    def size(self) -> int:
        """Return the number of entries to read."""
        return entries_of(self.inputs)

    def in_manifest(self, manifest: Manifest, run: Run | None, kept: tuple[Run, ...] = ()) -> Manifest | None:
        """Return the manifest with `run` (None: nothing of them is left) and below it `kept` in place of the inputs, in
        whichever layer has them. Return None if they were dropped meanwhile."""
        collection = manifest.collections.get(self.tree.name)
        for layer in collection.layers if collection is not None else ():
            if set(self.inputs) <= set(layer.runs):
                changed = collection.with_runs(layer.id, replaced(layer.runs, self.inputs, run, kept))
                return manifest.with_collection(self.tree.name, changed)
        return None

    def in_tree(self, tree: LayerTree, run: Run | None, kept: tuple[Run, ...] = ()) -> None:
        """Put the run, and `kept`, in place of the inputs in memory. The caller holds locks.state."""
        layer = tree.with_runs(self.inputs)
        if layer is not None:
            layer.runs = replaced(layer.runs, self.inputs, run, kept)
            tree.invalidate_stacks()


@dataclass(frozen=True)
class SkipRunPlan:
    """Describes a skip run to be written from the runs of consecutive layers, newest first: from layer `top` down to
    the one above `below`."""

    tree: LayerTree
    top: int
    below: int | None
    inputs: tuple[Run, ...]
    bottom: bool = False  # no delete is dropped, so the output is never empty

    @property
    def size(self) -> int:
        """Return the number of entries to read."""
        return entries_of(self.inputs)

    def in_manifest(self, manifest: Manifest, run: Run | None) -> Manifest | None:
        """Return the manifest with this skip run; None if one of its ends is no layer any more."""
        collection = manifest.collections.get(self.tree.name)
        ids = {layer.id for layer in collection.layers} if collection is not None else set()
        if run is None or not {self.top, self.below} <= ids | {None}:
            return None
        others = tuple(skip for skip in collection.skip_runs if skip.top != self.top)
        skip_runs = (*others, SkipRun(run, self.top, self.below))
        return manifest.with_collection(self.tree.name, replace(collection, skip_runs=skip_runs))

    def in_tree(self, tree: LayerTree, run: Run | None) -> None:
        """Put the run in place of its inputs in memory. The caller holds locks.state."""
        if run is not None and {self.top, self.below} <= tree.layers.keys() | {None}:
            tree.skip_runs[self.top] = SkipRun(run, self.top, self.below)
            tree.invalidate_stacks()


def cheapest(plans: list[CompactionPlan | SkipRunPlan]) -> list[CompactionPlan | SkipRunPlan]:
    """Return the smallest plan, and as many more as one file may take: small ones cost less than a file and a commit
    each."""
    chosen, size = [], 0
    for plan in sorted(plans, key=lambda plan: plan.size):
        size += plan.size
        if chosen and size > AT_ONCE:
            break
        chosen.append(plan)
    return chosen


def tier_of(sizes: Sequence[int], tier: int) -> slice:
    """Return which consecutive runs to merge, given the sizes of all, newest first; slice(0) for none.

    It takes `tier` or more runs of about one size, of the smallest such size as many as there are. If there are none,
    but too many runs in all, it takes the `tier` runs with the fewest entries together."""
    groups = []
    for first in range(len(sizes)):
        stop = first + 1
        while stop < min(len(sizes), first + MAX_INPUTS) and sizes[stop] <= SIZE_RATIO * sizes[first]:
            stop += 1
        if stop - first >= tier:
            groups.append(slice(first, stop))
    if groups:
        return min(groups, key=lambda group: (sizes[group.start].bit_length(), group.start))
    if len(sizes) <= max(MOST, tier - 1):
        return slice(0)
    groups = [slice(first, first + tier) for first in range(len(sizes) - tier + 1)]
    return min(groups, key=lambda group: sum(sizes[group]))


def compactable(layer: LayerRecord, sealed: bool, is_idle: bool) -> tuple[Run, ...]:
    """Return the runs of one layer to merge.

    While nobody writes, these are all runs of a sealed layer that are its own, whatever their sizes: it gets no more,
    so they are written once. (Below them are runs of layers that were merged into it, perhaps again and again.) While
    clients write that would cost them a tenth of their throughput, with a snapshot a second."""
    if sealed and is_idle:
        own = sum(run.info.first >= layer.id for run in layer.runs)
        if own > 1:
            return layer.runs[: min(own, MAX_INPUTS)]
    return layer.runs[tier_of([run.info.count for run in layer.runs], QUIET_TIER if is_idle else TIER)]


def compactions_of(
    tree: LayerTree, collection: CollectionRecord, tops: set[int | None], is_idle: bool
) -> Iterator[CompactionPlan]:
    """Yield the compactions worth their cost within the layers of a collection. tops: the layers that heads write
    to."""
    for layer in collection.layers:
        inputs = compactable(layer, layer.id not in tops, is_idle)
        if inputs:
            yield CompactionPlan(tree, layer.id, inputs, layer.below is None and inputs[-1] is layer.runs[-1])


def skip_run_of(tree: LayerTree, collection: CollectionRecord, top: int | None) -> SkipRunPlan | None:
    """Return the skip run worth its cost below the top layer of a head, which is left out as it is written to."""
    layers = {layer.id: layer for layer in collection.layers}
    skip_runs = {skip.top: skip for skip in collection.skip_runs}
    found: list[SkipRunPlan] = []
    at = layers[top].below if top is not None else None
    while at is not None:
        skip = skip_runs.get(at)
        below, runs = (skip.below, (skip.run,)) if skip is not None else (layers[at].below, layers[at].runs)
        if runs:
            found.append(SkipRunPlan(tree, at, below, runs))
        at = below
    group = found[tier_of([one.size for one in found], SPAN_TIER)]
    if not group:
        return None
    return SkipRunPlan(tree, group[0].top, group[-1].below, tuple(run for one in group for run in one.inputs))


def entries_of(runs: tuple[Run, ...]) -> int:
    """Return how many entries these runs have together."""
    return sum(run.info.count for run in runs)
