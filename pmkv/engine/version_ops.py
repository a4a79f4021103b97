"""The operations on versions: snapshot, branch, promote, rollback, undo and delete_view.

Each makes a plan under the store's locks, appends it to the log as a decision and carries it out; replay does the same
with the decision alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ConflictError, ExistsError, InvalidError, UnknownViewError
from ..log.decisions import reserve_controls
from ..log.room import with_room
from ..versions.view_set import MAIN, UNDO, ViewEntry, ViewSet
from .open_view import OpenView
from .version_plan import KeyspaceChoice, Plan, TableNames, check_view_name, plan_promote, plan_rollback, plan_undo

if TYPE_CHECKING:
    from .engine import Engine

T = TypeVar("T")


class VersionOperations:
    """The version operations of one engine. Safe for threads.

    `on_main_changed` is called after each promote, rollback or undo of `main`, in the thread that did it, with
    locks.append and locks.state held."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.on_main_changed: Callable[[], None] | None = None

    def _decide(self, body: Callable[[ViewSet], T], frees: bool = False) -> T:
        """Call `body` in a batch of its own, then wait until the whole log is durable: even a refusal tells of writes
        that may be pending. Return its result. frees: the decision makes something dead."""
        log = self._engine.log
        log.guard_write()
        try:
            return with_room(log, lambda: log.run_batch(lambda: body(self._engine.view_set)), frees)
        finally:
            log.wait_durable(log.lsn)

    def snapshot(self, name: str, head: str = MAIN) -> None:
        """Name the present state of a head."""

        def decide(_: ViewSet) -> None:
            self._refuse_taken(name)
            self._engine.decide({"op": "snapshot", "name": name}, self._engine.head_entry(head).name)

        self._decide(decide)

    def branch(self, name: str, at: str = MAIN) -> OpenView:
        """Create a head that begins as the view `at` is now, and return it."""

        def decide(_: ViewSet) -> None:
            self._refuse_taken(name)
            self._seal_and_decide(self._engine.view_entry(at), {"op": "branch", "name": name, "at": at}, MAIN)

        self._decide(decide)
        return self._engine.view(name)

    def promote(self, name: str, tables: TableNames = None, keys: KeyspaceChoice = None, force: bool = False) -> None:
        """Give `main` everything that a branch wrote. ConflictError: `main` wrote to one of these collections since the
        branch was cut; `force` discards those writes instead."""

        def decide(views: ViewSet) -> None:
            branch = self._engine.view_entry(name, "branch")
            self._exchange("promote", branch, plan_promote(views, branch, tables, keys), MAIN, force)

        self._decide(decide)

    def rollback(self, name: str, tables: TableNames = None, keys: KeyspaceChoice = None, head: str = MAIN) -> bool:
        """Give a head the state of a snapshot. Return whether that changes anything: if not, an undo afterwards undoes
        what was done before."""

        def decide(views: ViewSet) -> bool:
            target, snapshot = self._engine.head_entry(head), self._engine.view_entry(name, "snapshot")
            return self._exchange(
                "rollback", snapshot, plan_rollback(views, target, snapshot, tables, keys), head, True
            )

        return self._decide(decide)

    def undo(self, force: bool = False) -> None:
        """Bring back everything that the last promote or rollback of `main` exchanged. ConflictError: one of these
        collections was written to since; `force` discards those writes instead."""

        def decide(views: ViewSet) -> None:
            if UNDO not in views.maps:
                raise UnknownViewError("there is nothing to undo: no promote or rollback since the last undo")
            self._exchange("undo", views.maps[UNDO], plan_undo(views), MAIN, force)

        self._decide(decide)

    def delete_view(self, name: str) -> None:
        """Delete a branch, a snapshot or `undo`. Layers that other views are based on stay."""

        def decide(_: ViewSet) -> None:
            if self._engine.view_entry(name).kind == MAIN:
                raise InvalidError("`main` cannot be deleted")
            self._engine.decide({"op": "delete_view", "name": name})

        self._decide(decide, frees=True)

    def _exchange(self, op: str, source: ViewEntry, plan: Plan, head: str, force: bool) -> bool:
        """Carry out a plan, unless it conflicts or would change nothing. Return whether it did."""
        if plan.conflicts and not force:
            raise ConflictError(f"{'; '.join(plan.conflicts)}. Nothing was changed; with force, that is dropped")
        if not (plan.collections or plan.drop) and op != "undo":
            if op == "promote":
                raise InvalidError(
                    f"nothing to promote: branch {source.name!r} wrote nothing since it was cut or promoted"
                )
            return False  # a rollback to the present state: the view `undo` stays as it is
        decision = {"op": op, "name": source.name, "parts": plan.collections, "drop": plan.drop}
        self._seal_and_decide(source, decision, head)
        if head == MAIN and self.on_main_changed:
            self.on_main_changed()
        return True

    def _refuse_taken(self, name: str) -> None:
        """ExistsError if a view has this name; InvalidError if none may have it."""
        check_view_name(name)
        views = self._engine.view_set.maps
        if name in views:
            raise ExistsError(f"there is a view {name!r} already, a {views[name].kind}: delete it first")

    def _seal_and_decide(self, source: ViewEntry, decision: dict[str, Any], head: str) -> None:
        """Decide something that bases a head on another view. The written layers of that view are sealed before, if it
        is a head: no frame may open two layers of one collection."""
        steps = [(decision, head)]
        if source.is_head and any(top is not None and top.writes for top in source.tops.values()):
            steps.insert(0, ({"op": "seal"}, source.name))
        reserve_controls(self._engine.log, [step if on == MAIN else step | {"head": on} for step, on in steps])
        for step, on in steps:
            self._engine.decide(step, on)
