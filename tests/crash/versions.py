"""Operations on views: cut, promote, roll back, undo, delete, and write to a branch. `operations` says what one is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pmkv.errors import ConflictError, InvalidError
from tests.crash.model import CONFLICT, NOTHING, UNDO, Model
from tests.crash.operations import Operation

Tables = tuple[str, ...] | None


def head_of(store: Any, view: str) -> Any:
    return store if view == "main" else store.view(view)


def refusable(call: Any) -> Any:
    try:
        return call()
    except ConflictError:
        return CONFLICT
    except InvalidError:
        return NOTHING


@dataclass(frozen=True)
class Snapshot(Operation):
    view: str
    head: str = "main"

    def fits(self, model: Model) -> bool:
        return self.view not in model.views and self.head in ("main", *model.named("branch"))

    def on_model(self, model: Model) -> Any:
        model.cut(self.view, self.head, "snapshot")

    def on_store(self, store: Any) -> Any:
        return head_of(store, self.head).snapshot(self.view)


@dataclass(frozen=True)
class Branch(Operation):
    view: str
    at: str = "main"

    def fits(self, model: Model) -> bool:
        return self.view not in model.views and self.at in ("main", *model.views)

    def on_model(self, model: Model) -> Any:
        model.cut(self.view, self.at, "branch")

    def on_store(self, store: Any) -> Any:
        store.branch(self.view, at=self.at)


@dataclass(frozen=True)
class Promote(Operation):
    view: str
    tables: Tables = None
    keys: bool | tuple[int, ...] | None = None
    force: bool = False

    def fits(self, model: Model) -> bool:
        return self.view in model.named("branch") and set(self.tables or ()) <= set(model.promotable(self.view))

    def on_model(self, model: Model) -> Any:
        return model.promote(self.view, self.tables, self.keys, self.force)

    def on_store(self, store: Any) -> Any:
        return refusable(lambda: store.promote(self.view, self.tables, self.keys, self.force))


@dataclass(frozen=True)
class Rollback(Operation):
    view: str
    tables: Tables = None
    keys: bool | None = None
    head: str = "main"

    def fits(self, model: Model) -> bool:
        if self.view not in model.named("snapshot") or self.head not in ("main", *model.named("branch")):
            return False
        return set(self.tables or ()) <= model.views[self.view].tables.keys()

    def on_model(self, model: Model) -> Any:
        return model.rollback(self.view, self.tables, self.keys, self.head)

    def on_store(self, store: Any) -> Any:
        return head_of(store, self.head).rollback(self.view, self.tables, self.keys)


@dataclass(frozen=True)
class Undo(Operation):
    force: bool = False

    def fits(self, model: Model) -> bool:
        return UNDO in model.views

    def on_model(self, model: Model) -> Any:
        return model.undo(self.force)

    def on_store(self, store: Any) -> Any:
        return refusable(lambda: store.undo(self.force))


@dataclass(frozen=True)
class DeleteView(Operation):
    view: str

    def fits(self, model: Model) -> bool:
        return self.view in model.views

    def on_model(self, model: Model) -> Any:
        model.forget(self.view)

    def on_store(self, store: Any) -> Any:
        return store.delete_view(self.view)


@dataclass(frozen=True)
class On(Operation):
    """An operation on a branch instead of `main`."""

    view: str
    operation: Any

    def fits(self, model: Model) -> bool:
        return self.view in model.named("branch") and self.operation.fits(model.views[self.view])

    def on_model(self, model: Model) -> Any:
        return self.operation.on_model(model.views[self.view])

    def on_store(self, store: Any) -> Any:
        return self.operation.on_store(store.view(self.view))
