"""Which runs are worth to be one: a size-tiered policy, as of a log-structured merge tree.

Within a layer, a *fold* writes one run in place of consecutive ones. Where many layers follow one another, since
snapshots name each of them, nothing may take their place; but a *span*, an extra run over consecutive layers, lets
those who stand above skip them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..index.run import Run
from ..versions.layer import LayerTree, SkipRun, replaced
from ..versions.manifest import CollectionRecord, LayerRecord, Manifest

# Of a table of a hundred million ids, updated at random, an entry is written 2.7 times by folds, and a read meets ten
# runs on the average; with tiers of five 3.9 times, and eight. Of ten million 1.8 times and six, or 2.4 and five.
TIER = 8  # so many of about one size become one
QUIET_TIER = 2  # the same while nobody writes
SPAN_TIER = 4  # layers and spans: what is written again is small, and who reads `main` asks half as many
SIMILAR = 2  # times the smaller one's entries
MOST = 24  # runs of a layer, or layers and spans of a chain, beyond which any so many are folded
WIDEST = 64  # so many, at most, are folded at once
AT_ONCE = 1 << 20  # entries that folds of several chains may write as one file


@dataclass(frozen=True)
class CompactionPlan:
    """Consecutive runs of one layer, newest first. bottom: nothing is below them."""

    tree: LayerTree
    layer: int
    inputs: tuple[Run, ...]
    bottom: bool

    @property
    def size(self) -> int:
        return entries_of(self.inputs)

    def in_state(self, state: Manifest, run: Run | None) -> Manifest | None:
        """With one run in place of those folded, in whatever layer has them; None if they were dropped meanwhile."""
        part = state.parts.get(self.tree.name)
        for layer in part.layers if part is not None else ():
            if set(self.inputs) <= set(layer.runs):
                changed = part.with_runs(layer.id, replaced(layer.runs, self.inputs, run))
                return state.with_part(self.tree.name, changed)
        return None

    def in_tree(self, run: Run | None) -> None:
        """The same in memory. Under the lock."""
        layer = self.tree.with_runs(self.inputs)
        if layer is not None:
            layer.runs = replaced(layer.runs, self.inputs, run)
            self.tree.invalidate_stacks()


@dataclass(frozen=True)
class SkipRunPlan:
    """The runs of consecutive layers, newest first, from `top` down to the one above `below`."""

    tree: LayerTree
    top: int
    below: int | None
    inputs: tuple[Run, ...]
    bottom: bool = False  # no delete is dropped, so something always remains

    @property
    def size(self) -> int:
        return entries_of(self.inputs)

    def in_state(self, state: Manifest, run: Run | None) -> Manifest | None:
        """With this span; None if one of its ends is no boundary any more."""
        part = state.parts.get(self.tree.name)
        ids = {layer.id for layer in part.layers} if part is not None else set()
        if run is None or not {self.top, self.below} <= ids | {None}:
            return None
        others = tuple(span for span in part.spans if span.top != self.top)
        spans = (*others, SkipRun(run, self.top, self.below))
        return state.with_part(self.tree.name, replace(part, spans=spans))

    def in_tree(self, run: Run | None) -> None:
        """The same in memory. Under the lock."""
        if run is not None and {self.top, self.below} <= self.tree.layers.keys() | {None}:
            self.tree.skip_runs[self.top] = SkipRun(run, self.top, self.below)
            self.tree.invalidate_stacks()


def together(folds: list[CompactionPlan | SkipRunPlan]) -> list[CompactionPlan | SkipRunPlan]:
    """The cheapest, and as many more as one file may take: small ones cost less than a file and a commit each."""
    chosen, size = [], 0
    for fold in sorted(folds, key=lambda fold: fold.size):
        size += fold.size
        if chosen and size > AT_ONCE:
            break
        chosen.append(fold)
    return chosen


def tier_of(sizes: Sequence[int], tier: int) -> slice:
    """Consecutive ones, newest first, that are worth to be one: `tier` or more of about one size, of the smallest size
    as many as there are; any so many where there are too many."""
    groups = []
    for first in range(len(sizes)):
        stop = first + 1
        while stop < min(len(sizes), first + WIDEST) and sizes[stop] <= SIMILAR * sizes[first]:
            stop += 1
        if stop - first >= tier:
            groups.append(slice(first, stop))
    if groups:
        return min(groups, key=lambda group: (sizes[group.start].bit_length(), group.start))
    if len(sizes) <= max(MOST, tier - 1):
        return slice(0)
    groups = [slice(first, first + tier) for first in range(len(sizes) - tier + 1)]
    return min(groups, key=lambda group: sum(sizes[group]))


def compactable(layer: LayerRecord, sealed: bool, at_rest: bool) -> tuple[Run, ...]:
    """Runs of one layer that are worth to be one. While nobody writes, of a sealed one all that are its own, whatever
    their sizes: it gets no more, so that is written once. (Behind them stand those of layers that it became one with,
    perhaps again and again.) Beside writers that would cost them a tenth, with a snapshot a second."""
    if sealed and at_rest:
        own = sum(run.info.first >= layer.id for run in layer.runs)
        if own > 1:
            return layer.runs[: min(own, WIDEST)]
    return layer.runs[tier_of([run.info.count for run in layer.runs], QUIET_TIER if at_rest else TIER)]


def compactions_of(
    tree: LayerTree, part: CollectionRecord, tops: set[int | None], at_rest: bool
) -> Iterator[CompactionPlan]:
    """Those worth while within the layers of a part. tops: the layers on which heads stand, and write to."""
    for layer in part.layers:
        inputs = compactable(layer, layer.id not in tops, at_rest)
        if inputs:
            yield CompactionPlan(tree, layer.id, inputs, layer.below is None and inputs[-1] is layer.runs[-1])


def skip_run_of(tree: LayerTree, part: CollectionRecord, top: int | None) -> SkipRunPlan | None:
    """The one worth while below the layer on top of a head; of that itself nothing, as it is written to."""
    layers, spans = {layer.id: layer for layer in part.layers}, {span.top: span for span in part.spans}
    found: list[SkipRunPlan] = []
    at = layers[top].below if top is not None else None
    while at is not None:
        span = spans.get(at)
        below, runs = (span.below, (span.run,)) if span is not None else (layers[at].below, layers[at].runs)
        if runs:
            found.append(SkipRunPlan(tree, at, below, runs))
        at = below
    group = found[tier_of([one.size for one in found], SPAN_TIER)]
    if not group:
        return None
    return SkipRunPlan(tree, group[0].top, group[-1].below, tuple(run for one in group for run in one.inputs))


def entries_of(runs: tuple[Run, ...]) -> int:
    return sum(run.info.count for run in runs)
