"""Mutants of versions: layers, views, and what a promote, a rollback and an undo decide. `mutants` says what one is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from pmkv import engine as engine_module
from pmkv import plans
from pmkv.contents import Contents
from pmkv.engine import Engine
from pmkv.log.format import Frame
from pmkv.log.writer import Log
from pmkv.plans import Plan
from pmkv.surface import Former, Surface
from pmkv.versions import fold as fold_module
from pmkv.versions import heads as heads_module
from pmkv.versions import state as state_module
from pmkv.versions import upkeep as upkeep_module
from pmkv.versions.chain import Chain
from pmkv.versions.heads import UNDO, Heads, ViewMap
from pmkv.versions.layer import Layer, Span, Tree
from pmkv.versions.state import LayerState, State, ViewState
from pmkv.versions.upkeep import Rotation, Upkeep
from tests.crash.mutants import MUTANTS, Patch, mutant

carry_out, follow, rotate, apply = Heads.carry_out, Contents.follow, Engine._rotate, Engine._apply
plan_promote, plan_undo, view_state, commit = (
    plans.plan_promote,
    plans.plan_undo,
    heads_module.view_state,
    Upkeep._commit,
)
others = set(MUTANTS)


# --- boundaries


@mutant("what a branch is cut from, and a branch that is promoted, is not sealed")
def _() -> list[Patch]:
    return [(Engine, "_seal", lambda self, view: None)]


@mutant("a snapshot shares the layer that is written to")
def _() -> list[Patch]:
    def snapshot(self: Heads, new: ViewMap, head: ViewMap, lsn: int) -> None:
        for part in head.parts:
            new.put(part, head.parts[part])
        self.maps[new.name] = new

    return [(Heads, "_snapshot", snapshot)]


@mutant("layers are merged across what a view names")
def _() -> list[Patch]:
    def merge(self: Tree, named: object) -> None:
        for layer in list(self.layers.values()):
            while layer.sealed and layer.below is not None and layer.id in self.layers:
                layer.below.refs = 1
                layer.absorb()

    return [(Tree, "merge", merge)]


@mutant("the lowest run of a layer is taken for the bottom of the chain")
def _() -> list[Patch]:
    folds_of = fold_module.folds_of

    def bottomless(tree: Tree, part: Any, *how: Any) -> Iterator[Any]:
        lowest = {layer.runs[-1].name for layer in part.layers if layer.runs}
        for fold in folds_of(tree, part, *how):
            yield replace(fold, bottom=fold.inputs[-1].name in lowest)

    return [(upkeep_module, "folds_of", bottomless)]


@mutant("a span hides what is below it")
def _() -> list[Patch]:
    return [(fold_module, "Span", lambda run, top, below: Span(run, top, None))]


@mutant("a span leaves out its lowest layer")
def _() -> list[Patch]:
    spanning = fold_module.Spanning

    def short(tree: Tree, top: int, below: int | None, inputs: Any) -> Any:
        return spanning(tree, top, below, inputs if len(inputs) == 1 else inputs[:-1])

    return [(fold_module, "Spanning", short)]


# --- who needs what


@mutant("nobody counts who stands on a layer")
def _() -> list[Patch]:
    return [(Layer, "hold", lambda self: self)]


@mutant("a layer that nobody needs is kept")
def _() -> list[Patch]:
    return [(Layer, "let_go", lambda self: None)]


@mutant("chains do not hear that runs were exchanged")
def _() -> list[Patch]:
    return [(Tree, "changed", lambda self: None)]


@mutant("what was hot stays so when another layer is on top")
def _() -> list[Patch]:
    return [(Chain, "_forget_exchanged", lambda self, runs: None)]


@mutant("what only the chain before had stays hot")
def _() -> list[Patch]:
    exchanged = Chain._forget_exchanged

    def forgetful(self: Chain, before: Any) -> None:
        exchanged(self, before and (tuple(run for run in before[0] if run in self._runs), before[1]))

    return [(Chain, "_forget_exchanged", forgetful)]


@mutant("what only the new chain has, on no file yet, stays hot")
def _() -> list[Patch]:
    exchanged = Chain._forget_exchanged

    def forgetful(self: Chain, before: Any) -> None:
        exchanged(self, before and (before[0], {*self.mutables}))

    return [(Chain, "_forget_exchanged", forgetful)]


@mutant("tables and keyspaces of a branch do not follow it")
def _() -> list[Patch]:
    def lazy(self: Contents, view: ViewMap, *how: Any) -> None:
        if view.kind == "main" or not self.tables:
            follow(self, view, *how)

    return [(Contents, "follow", lazy)]


@mutant("keys that only other views have leave the directory")
def _() -> list[Patch]:
    return [(Heads, "is_shared", lambda self, part: False)]


# --- checkpoints


def rotated(change: Any) -> list[Patch]:
    """A rotation of which something is changed."""
    return [(Engine, "_rotate", lambda self: change(self, rotate(self)))]


@mutant("a checkpoint does not write what only a snapshot or branch holds")
def _() -> list[Patch]:
    def without(engine: Engine, rotation: Rotation) -> Rotation:
        mains = {layer.id for top in engine.heads.maps["main"].parts.values() if top for layer in top.down()}
        return replace(rotation, closed=[closed for closed in rotation.closed if closed.layer in mains])

    return rotated(without)


@mutant("the catalog does not keep `undo`")
def _() -> list[Patch]:
    def without(engine: Engine, rotation: Rotation) -> Rotation:
        views = {name: view for name, view in rotation.state.views.items() if name != UNDO}
        return replace(rotation, state=replace(rotation.state, views=views))

    return rotated(without)


@mutant("the catalog does not count promotions and rollbacks")
def _() -> list[Patch]:
    return rotated(lambda engine, rotation: replace(rotation, state=replace(rotation.state, switches=(0, 0))))


@mutant("a checkpoint commits which views there are, and how often they were exchanged, as it is now, not as it was")
def _() -> list[Patch]:
    def late(self: Upkeep, state: State, *names: Any) -> None:
        heads = self._rotate.__self__.heads
        views = {name: view for name, view in state.views.items() if name in heads.maps}
        commit(self, replace(state, views=views, switches=heads.switches), *names)

    return [(Upkeep, "_commit", late)]


def kept(**changes: Any) -> list[Patch]:
    """Views of which the catalog keeps less."""

    def state(view: ViewMap, trees: dict[str, Tree]) -> ViewState:
        return replace(view_state(view, trees), **changes)

    return [(heads_module, "view_state", state)]


@mutant("the catalog does not know what a branch stands on")
def _() -> list[Patch]:
    return kept(stands_on={})


@mutant("the catalog does not know what an undo brings back")
def _() -> list[Patch]:
    return kept(exchanged=())


@mutant("the catalog does not count what was written to a layer")
def _() -> list[Patch]:
    def uncounted(*fields: Any) -> LayerState:
        return replace(LayerState(*fields), writes=0)

    return [(heads_module, "LayerState", uncounted), (state_module, "LayerState", uncounted)]


# --- replay


@mutant("replay takes what a branch wrote for main's")
def _() -> list[Patch]:
    return [(Engine, "_writer_of", lambda self, frame, part: self.main)]


@mutant("replay takes what was decided on a branch for main's")
def _() -> list[Patch]:
    def on_main(self: Engine, frame: Frame) -> None:
        def forgetful(heads: Heads, decision: dict[str, Any], *when: int) -> None:
            carry_out(heads, {name: value for name, value in decision.items() if name != "head"}, *when)

        with patch.object(Heads, "carry_out", forgetful):
            apply(self, frame)

    return [(Engine, "_apply", on_main)]


# --- decisions


@mutant("a keyspace of a branch is cleared in main")
def _() -> list[Patch]:
    clear = Engine._clear
    return [(Engine, "_clear", lambda self, head, number: clear(self, "main", number))]


@mutant("a promote takes all that a branch has")
def _() -> list[Patch]:
    return [(Heads, "written", lambda self, branch: list(branch.parts))]


@mutant("a promote is never refused")
def _() -> list[Patch]:
    return [(plans, "_why_not", lambda heads, branch, part: None)]


@mutant("what a branch dropped stays when it is promoted")
def _() -> list[Patch]:
    return [(engine_module, "plan_promote", lambda *how: replace(plan_promote(*how), drop=[]))]


@mutant("a promoted branch stands where it stood")
def _() -> list[Patch]:
    return [(Heads, "_stand_on_promoted", lambda self, branch, parts: None)]


@mutant("a branch whose promote was undone stands on what it promoted")
def _() -> list[Patch]:
    return [(Heads, "_stand_as_before", lambda self, before: None)]


@mutant("an undo brings back everything")
def _() -> list[Patch]:
    def everything(heads: Heads) -> Plan:
        with patch.object(heads.maps[UNDO], "exchanged", tuple(heads.maps[UNDO].parts)):
            return replace(plan_undo(heads), conflicts=plan_undo(heads).conflicts)

    return [(engine_module, "plan_undo", everything)]


@mutant("an undo is never refused")
def _() -> list[Patch]:
    return [(plans, "_lost", lambda *how: iter(()))]


@mutant("an undo can be undone")
def _() -> list[Patch]:
    delete = Heads._delete
    return [(Heads, "_delete", lambda self, name: delete(self, name) if name != UNDO else None)]


@mutant("a table that a rollback removes stays")
def _() -> list[Patch]:
    plan = engine_module.plan_rollback
    return [(engine_module, "plan_rollback", lambda *how: replace(plan(*how), drop=[]))]


# --- what is pending


@mutant("who reads does not wait for a promote or rollback")
def _() -> list[Patch]:
    depends = Log.depends
    return [(Log, "depends", lambda self, waiting, layer: depends(self, waiting, 0))]


@mutant("what goes on behind a seal forgets by which decision it has what it has")
def _() -> list[Patch]:
    go_on = Tree.go_on

    def forgetful(self: Tree, id: int, top: Layer) -> Layer:
        layer = go_on(self, id, top)
        layer.since = 0
        return layer

    return [(Tree, "go_on", forgetful)]


# --- what is shown until it is durable


def shown_unless(is_over: Callable[[Surface, Former], bool]) -> list[Patch]:
    """What was there before is shown until this."""

    def shown(self: Surface) -> Chain:
        former = self._former
        return self.chain if former is None or is_over(self, former) else former.chain

    return [(Surface, "_shown", shown)]


@mutant("whoever promoted is shown what was there before")
def _() -> list[Patch]:
    return shown_unless(lambda surface, former: surface._log.writing._is_owned() or former.lsn <= surface._log.durable)


@mutant("who writes is shown what was there before")
def _() -> list[Patch]:
    return shown_unless(lambda surface, former: max(surface._log.waiting.seen, surface._log.durable) >= former.lsn)


@mutant("what was there before a promote is shown for ever")
def _() -> list[Patch]:
    return shown_unless(lambda surface, former: surface._log.writing._is_owned() or surface._log.waiting.seen > 0)


@mutant("what is shown goes with its view")
def _() -> list[Patch]:
    def keep_shown(self: Surface, lsn: int) -> None:
        keep(self, lsn)
        if self._former is not None and self._former._top.shown:
            self._former._top.shown -= 1
            self._former._top.let_go()

    def leave(self: Former) -> None:
        if self._chain is not None:
            self._chain.leave()

    keep = Surface.keep_shown
    return [(Surface, "keep_shown", keep_shown), (Former, "leave", leave)]


@mutant("a checkpoint keeps layers that are only shown")
def _() -> list[Patch]:
    return [(Contents, "forget_former", lambda self: None)]


@mutant("several tables are gathered as they were, and as they are")
def _() -> list[Patch]:
    def at_once(self: Contents, read: Callable[[], Any]) -> Any:
        log = self._ground.log
        with log.deferred() as seen, log.lock:
            found = read()
        log.settle(seen.lsn)
        return found

    return [(Contents, "_at_once", at_once)]


VERSIONS = set(MUTANTS) - others
