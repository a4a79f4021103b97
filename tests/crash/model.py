"""The model of a store: plain dicts, of `main` and of every view, and which part of each was written when.

A *part* is a keyspace, by its number, or a table, by its name and which one of this name it is. Every write gives its
part a new *stamp*; whoever cuts, promotes or rolls back takes stamps along with contents. So two parts with one stamp
are one, a branch has written the parts that do not have the stamp that they stand on, and main has gone on where its
stamp is another one. What is new or cleared has stamp 0.

Models can be compared with `==`: what they show. Stamps are not shown. A model that was recovered may therefore have
*rivals*: models that show the same, and may answer otherwise later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np

FAR = 4_000_000_000_000  # unix ms, in the year 2096; what expires earlier has expired
SPACES = 16
UNDO = "undo"
CONFLICT = "conflict"  # what a promote or undo gives that is refused
NOTHING = "nothing"  # to promote

CREATED = -2  # the default of tables whose absent rows are written by the first read

Entry = tuple[bytes, int]  # value, expiry
Part = int | tuple[str, int]
Tables = Sequence[str] | None
Keys = Sequence[int] | bool | None
numbers = count(1)  # of stamps, marks and tables
former: dict[int, int] = {}  # by stamp: the stamp that its part had before it was written


@dataclass
class Rows:
    """One table of the model. number: which of its name."""

    descr: Any
    bound: int | None
    rows: dict[int, bytes] = field(default_factory=dict)
    number: int = field(default_factory=lambda: next(numbers), compare=False, repr=False)
    default: int = field(default=0, compare=False, repr=False)  # every element of a row that is not there

    def copy(self) -> Rows:
        return Rows(self.descr, self.bound, dict(self.rows), self.number, self.default)

    @property
    def is_created_by_reads(self) -> bool:
        return self.default == CREATED

    @property
    def absent(self) -> bytes:
        """The row of an id that has none."""
        if not self.default:
            return bytes(self.descr.itemsize)
        return np.full(self.descr.shape, self.default, self.descr.base).tobytes()


@dataclass
class OpenView:
    """What one view holds. marks: change with stamps, and whenever a part is cleared or exchanged."""

    spaces: dict[int, dict[bytes, Entry]] = field(default_factory=dict)  # keyspaces that hold something
    tables: dict[str, Rows] = field(default_factory=dict)
    stamps: dict[Part, int] = field(default_factory=dict, compare=False, repr=False)
    marks: dict[Part, int] = field(default_factory=dict, compare=False, repr=False)

    # parts

    def part(self, name: str) -> Part | None:
        """The table of this name."""
        return (name, self.tables[name].number) if name in self.tables else None

    @property
    def table_parts(self) -> set[Part]:
        return {(name, table.number) for name, table in self.tables.items()}

    @property
    def parts(self) -> set[Part]:
        """All that are there; keyspaces always are."""
        return self.table_parts | set(range(SPACES))

    def stamp(self, part: Part) -> int:
        return self.stamps.get(part, 0)

    def touch(self, part: Part | None) -> None:
        """It was written."""
        assert part is not None
        before = self.stamp(part)
        self.stamps[part] = self.marks[part] = next(numbers)
        former[self.stamps[part]] = before

    def remove(self, part: Part) -> None:
        self.stamps.pop(part, None)
        self.marks.pop(part, None)
        if isinstance(part, int):
            self.spaces.pop(part, None)
        elif self.part(part[0]) == part:
            del self.tables[part[0]]

    def take(self, other: OpenView, parts: Iterable[Part]) -> None:
        """These parts as another one has them, in place of what has their names here."""
        for part in sorted(parts, key=rank):
            if isinstance(part, tuple) and (mine := self.part(part[0])) is not None:
                self.remove(mine)
            self.remove(part)
            if isinstance(part, int):
                self.spaces |= {part: dict(other.spaces[part])} if part in other.spaces else {}
            else:
                self.tables[part[0]] = other.tables[part[0]].copy()
            if other.stamp(part):
                self.stamps[part] = other.stamp(part)

    def copy(self) -> Any:
        copy = OpenView()
        copy.copy_of(self)
        return copy

    def copy_of(self, other: OpenView) -> None:
        self.take(other, other.parts)
        self.marks = dict(other.marks)

    # writing

    def not_written(self, before: OpenView, part: Part) -> None:
        """Since then: it only looked so."""
        for mine, its in ((self.stamps, before.stamps), (self.marks, before.marks)):
            mine.pop(part, None)
            mine |= {part: its[part]} if part in its else {}

    def put(self, space: int, key: bytes, value: bytes, at: int) -> None:
        if at == 0 or at >= FAR:
            self.spaces.setdefault(space, {})[key] = (value, at)
        else:
            self.delete(space, key)
        self.touch(space)

    def delete(self, space: int, key: bytes) -> bool:
        """What is not there is not written."""
        keys = self.spaces.get(space, {})
        found = keys.pop(key, None) is not None
        if found:
            self.touch(space)
        if not keys:
            self.spaces.pop(space, None)
        return found

    def clear(self, space: int) -> None:
        self.remove(space)
        self.marks[space] = next(numbers)


@dataclass
class View(OpenView):
    """A branch, a snapshot, or `undo`. stands_on: the stamps of a branch when it was cut, or promoted a part;
    exchanged: the marks of main after what `undo` undoes, None for what it then had not; branch: whose promote that
    was, and `stands_on` what it stood on before; first: what a branch stood on before its first promote; rebased: what
    branches stood on whose promoted writes main lost by what `undo` undoes."""

    kind: str = "branch"
    base: str = "main"
    stands_on: dict[Part, int] = field(default_factory=dict, compare=False, repr=False)
    exchanged: dict[Part, int | None] = field(default_factory=dict, compare=False, repr=False)
    branch: str = field(default="", compare=False, repr=False)
    first: dict[Part, int] = field(default_factory=dict, compare=False, repr=False)
    rebased: dict[str, dict[Part, int]] = field(default_factory=dict, compare=False, repr=False)

    def copy(self) -> View:
        copy = View(kind=self.kind, base=self.base, stands_on=dict(self.stands_on), exchanged=dict(self.exchanged))
        copy.branch, copy.first = self.branch, dict(self.first)
        copy.rebased = {name: dict(stamps) for name, stamps in self.rebased.items()}
        copy.copy_of(self)
        return copy

    @property
    def written(self) -> set[Part]:
        """The parts that a branch wrote, created, dropped or cleared since it was cut, or promoted them."""
        here = {part for part in self.parts if self.stands_on.get(part) != self.stamp(part)}
        return here | (self.stands_on.keys() - self.parts)


@dataclass
class Model(OpenView):
    """`main`, and the views beside it. switches: promotions, rollbacks and undos of main so far."""

    views: dict[str, View] = field(default_factory=dict)
    switches: int = 0
    rivals: list[Model] = field(default_factory=list, compare=False, repr=False)

    def copy(self) -> Model:
        views = {name: view.copy() for name, view in self.views.items()}
        copy = Model(views=views, switches=self.switches, rivals=[rival.copy() for rival in self.rivals])
        copy.copy_of(self)
        return copy

    def head(self, name: str) -> OpenView:
        """What a view holds."""
        return self if name == "main" else self.views[name]

    def named(self, *kinds: str) -> list[str]:
        """The views of some kinds."""
        return [name for name, view in self.views.items() if view.kind in kinds]

    def promotable(self, name: str) -> list[str]:
        """Tables that may be named in a promote of this branch: it has them, or dropped one that somebody still has."""
        branch, there = self.views[name], {part for one in (self, *self.views.values()) for part in one.table_parts}
        return sorted({part[0] for part in branch.table_parts | (branch.written & there)})

    # what happens to views

    def cut(self, name: str, at: str, kind: str) -> None:
        """A new view of another one as it is now."""
        base = self.head(at)
        view = View(kind=kind, base=at)
        view.take(base, base.parts)
        if kind == "branch":
            view.stands_on = {part: view.stamp(part) for part in view.parts}
        self.views[name] = view

    def promote(self, name: str, tables: Tables = None, keys: Keys = None, force: bool = False) -> str | None:
        branch = self.views[name]
        chosen = promoted(branch, tables, keys)
        parts = chosen & branch.parts
        gone = (chosen - parts) & self.parts
        others = self._in_the_way(parts)
        if not force and (others - gone or any(self._has_gone_on(branch, part) for part in chosen)):
            return CONFLICT
        if not (parts or gone or others):
            return NOTHING
        self._exchange(branch, parts, gone | others)
        self._rebase_lost(parts | gone | others, branch)
        self.views[UNDO].branch, self.views[UNDO].stands_on = name, dict(branch.stands_on)
        branch.first = branch.first or dict(branch.stands_on)
        for part in parts | gone | others:
            branch.stands_on.pop(part, None)
        branch.stands_on |= {part: branch.stamp(part) for part in parts}
        return None

    def _has_gone_on(self, branch: View, part: Part) -> bool:
        """Would a promote of a part drop what main did to it?"""
        if part not in branch.stands_on:
            return False
        if part not in self.parts:
            return part in branch.parts
        return self.stamp(part) != branch.stands_on[part]

    def _in_the_way(self, parts: set[Part], head: str = "main") -> set[Part]:
        """Other tables of the same names."""
        mine = self.head(head)
        same = {mine.part(part[0]) for part in parts if isinstance(part, tuple)} - {None}
        return {part for part in same if part is not None} - parts

    def rollback(self, name: str, tables: Tables = None, keys: bool | None = None, head: str = "main") -> bool:
        """Return whether anything is changed."""
        snapshot, mine = self.views[name], self.head(head)
        chosen = set(range(SPACES)) if keys or (keys is None and tables is None) else set()
        chosen |= snapshot.table_parts if tables is None else {snapshot.part(table) for table in tables}
        parts = {part for part in chosen if part not in mine.parts or mine.stamp(part) != snapshot.stamp(part)}
        drop = self._in_the_way(parts, head)
        if tables is None:
            drop |= mine.table_parts - snapshot.table_parts
        if not (parts or drop):
            return False
        if head == "main":
            self._exchange(snapshot, parts, drop)
            self._rebase_lost(parts | drop)
        else:
            change(mine, snapshot, parts, drop)
        return True

    def _exchange(self, source: OpenView, parts: set[Part], drop: set[Part]) -> None:
        """Parts of main against those of a view. What was before is left as `undo`."""
        self.cut(UNDO, "main", "undo")
        change(self, source, parts, drop)
        self.views[UNDO].exchanged = {part: self.marks.get(part) for part in parts | drop}
        self.switches += 1

    def _rebase_lost(self, parts: set[Part], but: View | None = None) -> None:
        """Branches stand where they were cut, in parts of which main has no more what they were promoted with."""
        for name in self.named("branch"):
            branch = self.views[name]
            lost = {part for part in parts if branch.stands_on.get(part) != branch.first.get(part)}
            lost = {part for part in lost if not self._has(part, branch.stands_on.get(part))}
            if branch is but or not branch.first or not lost:
                continue
            self.views[UNDO].rebased[name] = dict(branch.stands_on)
            for part in lost:
                branch.stands_on.pop(part, None)
            branch.stands_on |= {part: branch.first[part] for part in lost & branch.first.keys()}

    def _has(self, part: Part, stamp: int | None) -> bool:
        """Was a part of main made from this stamp, or is it like that in main: without writes, or not there (None)?"""
        if stamp is None or part not in self.parts:
            return stamp is None and part not in self.parts
        mine = self.stamp(part)
        while stamp and mine > stamp:
            mine = former[mine]
        return mine == stamp

    def forget(self, name: str) -> None:
        """A branch of the same name will be another one."""
        del self.views[name]
        if UNDO in self.views:
            self.views[UNDO].rebased.pop(name, None)
            if self.views[UNDO].branch == name:
                self.views[UNDO].branch = ""

    def undo(self, force: bool = False) -> str | None:
        before = self.views[UNDO]
        parts = before.exchanged.keys() & before.parts
        gone = before.exchanged.keys() - before.parts
        others = self._in_the_way(parts) - gone
        lost = [part for part, mark in before.exchanged.items() if part in self.parts and self.marks.get(part) != mark]
        lost += [part for part in parts - self.parts if before.exchanged[part] is not None]
        if not force and (lost or others):
            return CONFLICT
        change(self, before, parts, gone | others)
        for name, stamps in before.rebased.items():
            self.views[name].stands_on = dict(stamps)
        if before.branch in self.views:
            self.views[before.branch].stands_on = dict(before.stands_on)
        del self.views[UNDO]
        self.switches += 1
        return None

    # what cannot be seen

    @property
    def possible(self) -> list[Model]:
        """This one and its rivals."""
        return [self, *self.rivals]

    @property
    def pattern(self) -> tuple[int, ...]:
        """Equal for models of which nobody will ever tell one from the other: which of their stamps, marks and tables
        are equal."""
        known: dict[int | None, int] = {}
        return tuple(known.setdefault(number, len(known)) for number in [0, None, *self._numbers()])

    def _numbers(self) -> Iterable[int | None]:
        views = [view for _, view in sorted(self.views.items())]
        for contents in (self, *views):
            for name in sorted(contents.tables):
                yield contents.tables[name].number
        parts = {part for one in (self, *views) for part in (*one.parts, *getattr(one, "stands_on", ()))}
        parts |= {part for view in views for part in view.exchanged}
        for part in sorted(parts, key=rank):
            yield from ((one.stamps.get(part, 0) if part in one.parts else None) for one in (self, *views))
            yield from (view.stands_on.get(part) for view in views)
            yield from (view.first.get(part) for view in views)
            yield from (stamps.get(part) for view in views for _, stamps in sorted(view.rebased.items()))
            yield from (-1 if part not in view.exchanged else view.exchanged[part] for view in views)
            yield self.marks.get(part)
        yield from (-2 - sorted(self.views).index(one.branch) for one in views if one.branch in self.views)


def rank(part: Part) -> tuple[Any, ...]:
    """An order that is the same whenever a history is told."""
    return (part,) if isinstance(part, int) else (SPACES, *part)


def change(head: OpenView, source: OpenView, parts: set[Part], drop: set[Part]) -> None:
    """Give a head some parts of a view, and take others from it."""
    for part in drop:
        head.remove(part)
    head.take(source, parts)
    for part in parts:
        head.marks[part] = next(numbers)


def promoted(branch: View, tables: Tables, keys: Keys) -> set[Part]:
    """The parts that a promote takes: those that are named, else those that were written."""
    written, any_space = branch.written, keys is True or (keys is None and tables is None)
    chosen = {part for part in written if (any_space if isinstance(part, int) else tables is None or part[0] in tables)}
    chosen |= {branch.part(name) for name in tables or () if name in branch.tables}
    return chosen | set(keys if isinstance(keys, Sequence) else ())


def one_of(models: Iterable[Model]) -> Model:
    """The first, and as its rivals those that may behave otherwise."""
    models = [replace(model, rivals=[]) for model in models]
    distinct = {model.pattern: model for model in reversed(models)} if len(models) > 1 else {}
    models[0].rivals = [model for model in distinct.values() if model is not models[0]]
    return models[0]
