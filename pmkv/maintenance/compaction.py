"""Compaction: write one run in place of consecutive ones of a layer, or a skip run over consecutive layers.

`compaction_policy` chooses the runs. A compaction is a generator of steps, like a checkpoint, and may run inside or
around one; it drops its result when a collection changed meanwhile so that the result no longer fits.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from ..errors import CorruptionError
from ..index.run import Run, RunInfo
from ..index.run_files import RunFileWriter
from ..index.run_writer import Relocate, stay, write_run
from ..versions.index_stack import net_expiries
from ..versions.layer import live_of
from ..versions.manifest import Manifest
from .committed import CommittedState, Steps
from .compaction_policy import CompactionPlan, SkipRunPlan, cheapest, compactions_of, skip_run_of

Plan = CompactionPlan | SkipRunPlan


class Compactor:
    """Runs the compactions of one store."""

    def __init__(self, state: CommittedState) -> None:
        self._state = state
        self._unreadable: set[str] = set()  # runs that a compaction could not read
        self.compacted_at_rest: Manifest | None = None  # the manifest that left nothing to do while nobody wrote
        self.count = 0  # compactions committed

    def compact(self) -> Steps:
        """Compact until every index stack has few runs.

        Does nothing if a compaction is under way already, as that looks for more at its end; nor between a failed
        commit and the next checkpoint: the failed commit may have taken keys out of the directory, and a commit of the
        older manifest would make that current without the deletes that justified it."""
        state = self._state
        while not (state.is_compacting or state.uncertain_files):
            manifest, is_idle = state.manifest, state.log.is_idle
            plans = self._choose(is_idle)
            if not plans:
                self.compacted_at_rest = manifest if is_idle else self.compacted_at_rest
                return
            state.is_compacting = True
            try:
                yield from self._compact(plans)
            finally:
                state.is_compacting = False
            state.try_to_remove_unneeded_files()

    def _choose(self, is_idle: bool) -> list[Plan]:
        """Return the cheapest compactions that are worth their cost. is_idle: nobody writes."""
        found: list[Plan] = []
        manifest, trees = self._state.manifest, self._state.trees()
        for name, collection in manifest.collections.items() if manifest else ():
            if name in trees:
                tops = [view.tops.get(name) for view in manifest.views.values() if view.kind in ("main", "branch")]
                found += compactions_of(trees[name], collection, set(tops), is_idle)
                skips = [skip_run_of(trees[name], collection, top) for top in tops]
                found += {plan.top: plan for plan in skips if plan is not None}.values()
        return cheapest([plan for plan in found if not any(run.name in self._unreadable for run in plan.inputs)])

    def _compact(self, plans: list[Plan]) -> Steps:
        """Write the outputs of all plans as one file, and commit those that still fit."""
        state, infos = self._state, []
        with state.new_file(max(plan.inputs[0].info.last for plan in plans)) as out:
            for plan in plans:
                try:
                    infos.append((yield from write_output(state, out, plan)))
                except CorruptionError:  # the next attempt compacts the other runs without these
                    self._unreadable |= {run.name for run in plan.inputs}
                    raise
            yield
        manifest, done = state.manifest, []
        assert manifest is not None
        for plan, info in zip(plans, infos):
            run = state.open_new_run(info)
            changed = plan.in_manifest(manifest, run)
            if changed is not None:  # None: the inputs were dropped meanwhile
                manifest, done = changed, [*done, (plan, run)]
        if state.uncertain_files:
            return  # a checkpoint failed to commit meanwhile
        if done:
            state.commit(manifest)
            state.adopt(lambda: self._adopt(done))
        self.count += len(done)

    def _adopt(self, done: list[tuple[Plan, Run | None]]) -> None:
        """Put the outputs in place of the inputs. The caller holds locks.state."""
        for plan, run in done:
            # not `plan.tree`: memory may have been rebuilt meanwhile, from the manifest before
            if (tree := self._state.trees().get(plan.tree.name)) is not None:
                plan.in_tree(tree, run)


def write_output(
    state: CommittedState,
    out: RunFileWriter,
    plan: Plan,
    relocate: Relocate = stay,
    moving: tuple[np.ndarray, int] | None = None,
) -> Generator[None, None, RunInfo]:
    """Write the output of one plan, in steps. relocate, moving: as of `write_run`; what only moves changes no count."""
    inputs, tree = plan.inputs, plan.tree
    nothing = np.empty(0, np.int64)
    added, gone = (np.concatenate([getattr(run, which) for run in inputs]) for which in ("added", "gone"))
    added, gone = net_expiries(added, gone)
    return (
        yield from write_run(
            out,
            list(inputs),
            pool_data=state.log.data,
            width=tree.width,
            seed=np.uint64(tree.seed),
            segments=state.segments,
            bottom=plan.bottom and moving is None,
            live=live_of(inputs) if moving is None else 0,
            added=added if moving is None else nothing,
            gone=gone if moving is None else nothing,
            first=inputs[-1 if moving is None else 0].info.first,
            last=inputs[0].info.last,
            relocate=relocate,
            moving=moving,
        )
    )
