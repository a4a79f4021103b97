"""Mutants of versions: layers, views, and what a promote, a rollback and an undo decide. `mutants` says what one is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from pmkv.cache.pinned_rows import PinnedRows
from pmkv.engine import table as table_module
from pmkv.engine import version_ops
from pmkv.engine import version_plan as plans
from pmkv.engine.collection import Collection, PreviousVersion
from pmkv.engine.engine import Engine
from pmkv.engine.open_view import OpenView
from pmkv.engine.recovery import Replayer
from pmkv.engine.version_ops import VersionOperations
from pmkv.engine.version_plan import Plan
from pmkv.log.durability import DurabilityGate
from pmkv.log.format import Frame
from pmkv.maintenance import compaction as compaction_module
from pmkv.maintenance import compaction_policy as fold_module
from pmkv.maintenance.checkpoint import Checkpointer, FrozenState
from pmkv.versions import view_set as heads_module
from pmkv.versions.index_stack import IndexStack
from pmkv.versions.layer import Layer, LayerTree, SkipRun
from pmkv.versions.manifest import LayerRecord, Manifest, ViewRecord
from pmkv.versions.view_set import UNDO, ViewEntry, ViewSet
from tests.crash.mutants import MUTANTS, Patch, mutant

carry_out, follow, rotate, apply = ViewSet.carry_out, OpenView.follow, Engine._freeze, Replayer.apply
plan_promote, plan_undo, view_record, commit = (
    plans.plan_promote,
    plans.plan_undo,
    heads_module.view_record,
    Checkpointer._commit,
)
drop_replaced = IndexStack._drop_replaced
others = set(MUTANTS)


# --- boundaries


@mutant("the index stack of a table that comes back is not told of new runs")
def _() -> list[Patch]:
    rebase = IndexStack.rebase

    def forgotten(self: IndexStack, top: Layer) -> bool:
        was_known = self in self.tree.stacks or top.tree is not self.tree
        result = rebase(self, top)
        if not was_known:
            self.tree.stacks.discard(self)
        return result

    return [(IndexStack, "rebase", forgotten)]


@mutant("what a branch is cut from, and a branch that is promoted, is not sealed")
def _() -> list[Patch]:
    def unsealed(self: VersionOperations, source: Any, decision: dict[str, Any], head: str) -> None:
        self._engine.decide(decision, head)

    return [(VersionOperations, "_seal_and_decide", unsealed)]


@mutant("a snapshot shares the layer that is written to")
def _() -> list[Patch]:
    def snapshot(self: ViewSet, new: ViewEntry, head: ViewEntry, lsn: int) -> None:
        for part in head.tops:
            new.put(part, head.tops[part])
        self.maps[new.name] = new

    return [(ViewSet, "_snapshot", snapshot)]


@mutant("layers are merged across what a view names")
def _() -> list[Patch]:
    def merge(self: LayerTree, *named: object) -> None:
        for layer in list(self.layers.values()):
            while layer.sealed and layer.below is not None and layer.id in self.layers:
                layer.below.refs = 1
                layer.merge_below()

    return [(LayerTree, "merge", merge)]


@mutant("an empty layer that a head writes to is merged with the one below")
def _() -> list[Patch]:
    def merge(self: LayerTree, named: set[int | None]) -> None:
        for layer in list(self.layers.values()):
            while (below := layer.below) is not None and below.refs == 1 and below.id not in named:
                layer.merge_below()

    return [(LayerTree, "merge", merge)]


@mutant("the lowest run of a layer is taken for the bottom of the stack")
def _() -> list[Patch]:
    folds_of = fold_module.compactions_of

    def bottomless(tree: LayerTree, part: Any, *how: Any) -> Iterator[Any]:
        lowest = {layer.runs[-1].name for layer in part.layers if layer.runs}
        for fold in folds_of(tree, part, *how):
            yield replace(fold, bottom=fold.inputs[-1].name in lowest)

    return [(compaction_module, "compactions_of", bottomless)]


@mutant("a span hides what is below it")
def _() -> list[Patch]:
    return [(fold_module, "SkipRun", lambda run, top, below: SkipRun(run, top, None))]


@mutant("a span leaves out its lowest layer")
def _() -> list[Patch]:
    spanning = fold_module.SkipRunPlan

    def short(tree: LayerTree, top: int, below: int | None, inputs: Any) -> Any:
        return spanning(tree, top, below, inputs if len(inputs) == 1 else inputs[:-1])

    return [(fold_module, "SkipRunPlan", short)]


# --- who needs what


@mutant("nobody counts who stands on a layer")
def _() -> list[Patch]:
    return [(Layer, "acquire", lambda self: self)]


@mutant("a layer that nobody needs is kept")
def _() -> list[Patch]:
    return [(Layer, "release", lambda self: None)]


@mutant("stacks do not hear that runs were exchanged")
def _() -> list[Patch]:
    return [(LayerTree, "invalidate_stacks", lambda self: None)]


@mutant("what was hot stays so when another layer is on top")
def _() -> list[Patch]:
    return [(IndexStack, "_drop_replaced", lambda self, runs: None)]


@mutant("what only the stack before had stays hot")
def _() -> list[Patch]:
    exchanged = IndexStack._drop_replaced

    def forgetful(self: IndexStack, before: Any) -> None:
        exchanged(self, before and (tuple(run for run in before[0] if run in self._runs), before[1]))

    return [(IndexStack, "_drop_replaced", forgetful)]


@mutant("what only the new stack has, on no file yet, stays hot")
def _() -> list[Patch]:
    exchanged = IndexStack._drop_replaced

    def forgetful(self: IndexStack, before: Any) -> None:
        exchanged(self, before and (before[0], {*self.memtables}))

    return [(IndexStack, "_drop_replaced", forgetful)]


@mutant("tables and keyspaces of a branch do not follow it")
def _() -> list[Patch]:
    def lazy(self: OpenView, view: ViewEntry, *how: Any) -> None:
        if view.kind == "main" or not self.tables:
            follow(self, view, *how)

    return [(OpenView, "follow", lazy)]


@mutant("keys that only other views have leave the directory")
def _() -> list[Patch]:
    return [(ViewSet, "is_shared", lambda self, part: False)]


# --- checkpoints


def rotated(change: Any) -> list[Patch]:
    """A rotation of which something is changed."""
    return [(Engine, "_freeze", lambda self: change(self, rotate(self)))]


@mutant("the rows of a stack that was exchanged stay in the row cache")
def _() -> list[Patch]:
    def drop(self: IndexStack, before: Any) -> None:
        rows, self.rows = self.rows, None
        drop_replaced(self, before)
        self.rows = rows

    return [(IndexStack, "_drop_replaced", drop)]


@mutant("the pinned rows of a stack that was exchanged stay")
def _() -> list[Patch]:
    def drop(self: IndexStack, before: Any) -> None:
        rows, self.rows = self.rows, None if isinstance(self.rows, PinnedRows) else self.rows
        drop_replaced(self, before)
        self.rows = rows

    return [(IndexStack, "_drop_replaced", drop)]


@mutant("a checkpoint does not write what only a snapshot or branch holds")
def _() -> list[Patch]:
    def without(engine: Engine, rotation: FrozenState) -> FrozenState:
        mains = {layer.id for top in engine.view_set.maps["main"].tops.values() if top for layer in top.down()}
        return replace(rotation, layers=[one for one in rotation.layers if one.layer in mains])

    return rotated(without)


@mutant("the catalog does not keep `undo`")
def _() -> list[Patch]:
    def without(engine: Engine, rotation: FrozenState) -> FrozenState:
        views = {name: view for name, view in rotation.manifest.views.items() if name != UNDO}
        return replace(rotation, manifest=replace(rotation.manifest, views=views))

    return rotated(without)


@mutant("the catalog does not count promotions and rollbacks")
def _() -> list[Patch]:
    return rotated(lambda engine, rotation: replace(rotation, manifest=replace(rotation.manifest, switches=(0, 0))))


@mutant("a checkpoint commits which views there are, and how often they were exchanged, as it is now, not as it was")
def _() -> list[Patch]:
    def late(self: Checkpointer, frozen: FrozenState, manifest: Manifest) -> None:
        heads = self._freeze.__self__.view_set
        views = {name: view for name, view in manifest.views.items() if name in heads.maps}
        commit(self, frozen, replace(manifest, views=views, main_changes=heads.main_changes))

    return [(Checkpointer, "_commit", late)]


def kept(**changes: Any) -> list[Patch]:
    """Views of which the catalog keeps less."""

    def state(view: ViewEntry, trees: dict[str, LayerTree]) -> ViewRecord:
        return replace(view_record(view, trees), **changes)

    return [(heads_module, "view_record", state)]


@mutant("the catalog does not know what a branch stands on")
def _() -> list[Patch]:
    return kept(bases={})


@mutant("the catalog does not know what an undo brings back")
def _() -> list[Patch]:
    return kept(restored=())


@mutant("the catalog does not count what was written to a layer")
def _() -> list[Patch]:
    to_record = LayerRecord.to_record
    return [(LayerRecord, "to_record", lambda self: to_record(replace(self, writes=0)))]


# --- replay


@mutant("replay takes what a branch wrote for main's")
def _() -> list[Patch]:
    return [(Replayer, "_head_written_by", lambda self, frame, part: self._engine.main)]


@mutant("replay takes what was decided on a branch for main's")
def _() -> list[Patch]:
    def on_main(self: Replayer, frame: Frame) -> None:
        def forgetful(heads: ViewSet, decision: dict[str, Any], *when: int) -> None:
            carry_out(heads, {name: value for name, value in decision.items() if name != "head"}, *when)

        with patch.object(ViewSet, "carry_out", forgetful):
            apply(self, frame)

    return [(Replayer, "apply", on_main)]


# --- decisions


@mutant("a keyspace of a branch is cleared in main")
def _() -> list[Patch]:
    clear = Engine._clear
    return [(Engine, "_clear", lambda self, head, number: clear(self, "main", number))]


@mutant("a promote takes all that a branch has")
def _() -> list[Patch]:
    return [(ViewSet, "written", lambda self, branch: list(branch.tops))]


@mutant("a promote is never refused")
def _() -> list[Patch]:
    return [(plans, "_why_not", lambda heads, branch, part: None)]


@mutant("what a branch dropped stays when it is promoted")
def _() -> list[Patch]:
    return [(version_ops, "plan_promote", lambda *how: replace(plan_promote(*how), drop=[]))]


@mutant("a promoted branch stands where it stood")
def _() -> list[Patch]:
    return [(ViewSet, "_rebase_promoted", lambda self, branch, collections: None)]


@mutant("a branch whose promote was undone stands on what it promoted")
def _() -> list[Patch]:
    return [(heads_module, "restore_bases", lambda views: None)]


@mutant("an undo brings back everything")
def _() -> list[Patch]:
    def everything(heads: ViewSet) -> Plan:
        with patch.object(heads.maps[UNDO], "restored", tuple(heads.maps[UNDO].tops)):
            return replace(plan_undo(heads), conflicts=plan_undo(heads).conflicts)

    return [(version_ops, "plan_undo", everything)]


@mutant("an undo is never refused")
def _() -> list[Patch]:
    return [(plans, "_lost", lambda *how: iter(()))]


@mutant("an undo can be undone")
def _() -> list[Patch]:
    delete = ViewSet._delete
    return [(ViewSet, "_delete", lambda self, name: delete(self, name) if name != UNDO else None)]


@mutant("a table that a rollback removes stays")
def _() -> list[Patch]:
    plan = version_ops.plan_rollback
    return [(version_ops, "plan_rollback", lambda *how: replace(plan(*how), drop=[]))]


# --- what is pending


@mutant("who reads does not wait for a promote or rollback")
def _() -> list[Patch]:
    depends = DurabilityGate.durability_of
    return [(DurabilityGate, "durability_of", lambda self, waiting, layer: depends(self, waiting, 0))]


@mutant("what goes on behind a seal forgets by which decision it has what it has")
def _() -> list[Patch]:
    go_on = LayerTree.continue_from

    def forgetful(self: LayerTree, id: int, top: Layer) -> Layer:
        layer = go_on(self, id, top)
        layer.visible_since = 0
        return layer

    return [(LayerTree, "continue_from", forgetful)]


@mutant("a branch does not notice that main lost what it was promoted with")
def _() -> list[Patch]:
    return [(ViewSet, "_rebase_lost", lambda self, source, names: None)]


@mutant("an undo gives back writes to main, and not to the branch where it stands")
def _() -> list[Patch]:
    lost = ViewSet._rebase_lost

    def unremembered(self: ViewSet, source: ViewEntry, names: Any) -> None:
        lost(self, source, names)
        self.maps["undo"].rebased.clear()

    return [(ViewSet, "_rebase_lost", unremembered)]


# --- what is shown until it is durable


def shown_unless(is_over: Callable[[Collection, PreviousVersion], bool]) -> list[Patch]:
    """What was there before is shown until this."""

    def shown(self: Collection) -> IndexStack:
        former = self._previous
        return self.stack if former is None or is_over(self, former) else former.stack

    return [(Collection, "_shown", shown)]


@mutant("whoever promoted is shown what was there before")
def _() -> list[Patch]:
    return shown_unless(lambda surface, former: surface._log.locks.append.is_held or former.lsn <= surface._log.durable)


@mutant("who writes is shown what was there before")
def _() -> list[Patch]:
    return shown_unless(lambda surface, former: max(surface._log.thread.min_lsn, surface._log.durable) >= former.lsn)


@mutant("what was there before a promote is shown for ever")
def _() -> list[Patch]:
    return shown_unless(lambda surface, former: surface._log.locks.append.is_held or surface._log.thread.min_lsn > 0)


@mutant("what is shown goes with its view")
def _() -> list[Patch]:
    def keep_shown(self: Collection, lsn: int) -> None:
        keep(self, lsn)
        if self._previous is not None and self._previous._top.shown:
            self._previous._top.shown -= 1
            self._previous._top.release()

    def leave(self: PreviousVersion) -> None:
        if self._stack is not None:
            self._stack.close()

    keep = Collection.keep_shown
    return [(Collection, "keep_shown", keep_shown), (PreviousVersion, "leave", leave)]


@mutant("a checkpoint keeps layers that are only shown")
def _() -> list[Patch]:
    return [(OpenView, "forget_previous", lambda self: None)]


@mutant("several tables are gathered as they were, and as they are")
def _() -> list[Patch]:
    def at_once(self: OpenView, reads: list[Any], finish: Callable[[], Any]) -> Any:
        log = self._context.log
        with log.deferred() as seen, log.locks.state:
            for read in reads:
                read.begin()
            found = finish()
        log.wait_durable(seen.lsn)
        return found

    return [(OpenView, "_at_once", at_once)]


@mutant("the changes since a view leave out what only that view has")
def _() -> list[Patch]:
    def layers_between(top: Layer, since: Layer | None) -> list[Layer]:
        shared = set(map(id, since.down())) if since is not None else set()
        return [layer for layer in top.down() if id(layer) not in shared]

    return [(table_module, "layers_between", layers_between)]


VERSIONS = set(MUTANTS) - others
