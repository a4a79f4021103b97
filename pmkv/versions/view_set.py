"""Heads: which layers every view has, and what snapshot, branch, promote, roll back and undo make of them.

A *head* (`main`, and every branch) has an open layer of its own on top of each table and keyspace; a snapshot has
sealed ones. A decision is carried out the same way when it is made and when it is replayed: it never looks at anything
but what decisions and writes before it left, so nothing is decided again. No frame opens two layers of one table or
keyspace: so before a branch is cut or promoted, a frame of its own seals the head it is taken from.

Assumes: the caller holds the store's lock, and made sure that the decision fits (`pmkv/engine/version_plan.py` says).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import CorruptionError
from ..log.format import Frame, Kind
from .layer import Layer, LayerTree
from .manifest import CollectionRecord, LayerRecord, Manifest, ViewRecord

MAIN, UNDO = "main", "undo"
SEALING = ("seal", "snapshot", "promote", "rollback")
NAMING = ("snapshot", "branch", "promote", "rollback", "undo", "delete_view")  # decisions that name a view
KEYSPACES = 16


@dataclass(frozen=True)
class ViewInfo:
    """A view. kind: "main", "branch", "snapshot" or "undo"; lsn, created (unix ms): when it was cut; base: the view
    that it was cut from; tables: how many; writes: records written to it since, by its layers that are not shared."""

    name: str
    kind: str
    lsn: int
    created: int
    base: str
    tables: int
    writes: int

    def asdict(self) -> dict[str, Any]:
        """As plain Python."""
        return asdict(self)


@dataclass
class ViewEntry:
    """A view: the layer on top of each table and keyspace; None for one that was never written, in a snapshot.

    stands_on: of a branch, the layer below its own of each part, as it was cut or promoted last. exchanged: of `undo`,
    what it brings back; dropped: of that, what `main` then lost; branch: whose promote that undoes (name, LSN of its
    cut), and where it stood before."""

    name: str
    kind: str
    lsn: int = 0
    created: int = 0
    base: str = ""
    parts: dict[str, Layer | None] = field(default_factory=dict)
    stands_on: dict[str, int | None] = field(default_factory=dict)
    exchanged: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    branch: tuple[str, int] | None = None
    kept: ViewRecord | None = None  # what the catalog keeps of a view that never changes

    @property
    def is_head(self) -> bool:
        return self.kind in (MAIN, "branch")

    def put(self, part: str, layer: Layer | None) -> None:
        """In place of what was there."""
        if layer is not None:
            layer.acquire()
        self.remove(part)
        self.parts[part] = layer

    def remove(self, part: str) -> None:
        before = self.parts.pop(part, None)
        if before is not None:
            before.release()

    def leave(self) -> None:
        """Nobody reads it any more."""
        for part in list(self.parts):
            self.remove(part)

    def base_of(self, part: str) -> Layer | None:
        """What stays of a part when everything unsealed is taken away; of a head, once it was sealed."""
        top = self.parts[part]
        return top.below if self.is_head and top is not None else top


def id_of(layer: Layer | None) -> int | None:
    return layer.id if layer is not None else None


def keyspace_name(number: int) -> str:
    return f"keyspace/{number}"


def table_name(number: int) -> str:
    return f"table/{number}"


class ViewSet:
    """Every view, and every tree. new_tree: makes the tree of a part, given the decision that created it."""

    def __init__(self, new_tree: Callable[[str, dict[str, Any] | None], LayerTree]) -> None:
        self._new_tree = new_tree
        self.trees = {part: new_tree(part, None) for part in map(keyspace_name, range(KEYSPACES))}
        self.maps = {MAIN: ViewEntry(MAIN, MAIN)}
        for part, tree in self.trees.items():
            self.maps[MAIN].put(part, tree.begin(0))
        self.last_table = 0  # ids are never used again
        self.switches = 0, 0  # of main so far, and the LSN of the last
        self.seals = 0  # frames since the last rotation that sealed something: each left one more run to ask

    # carrying out

    def carry_out(self, decision: dict[str, Any], lsn: int, time: int) -> set[str]:
        """Do what was decided in the frame `lsn`; returns the names of the views that are concerned."""
        self.seals += decision["op"] in SEALING
        head = self.maps[decision.get("head", MAIN)]
        match decision:
            case {"op": "create_table", "id": number}:
                tree = self.trees[table_name(number)] = self._new_tree(table_name(number), decision)
                head.put(tree.name, tree.begin(lsn))
                self.last_table = max(self.last_table, number)
            case {"op": "drop_table", "id": number}:
                head.remove(table_name(number))
            case {"op": "clear", "keyspaces": numbers}:
                for part in map(keyspace_name, numbers):
                    head.put(part, self.trees[part].begin(lsn))
            case {"op": "seal"}:
                self._seal(head, lsn)
            case {"op": "snapshot", "name": name}:
                self._snapshot(ViewEntry(name, "snapshot", lsn, time, head.name), head, lsn)
            case {"op": "branch", "name": name, "at": at}:
                self._branch(ViewEntry(name, "branch", lsn, time, at), self.maps[at], lsn)
            case {"op": "promote", "name": name, "parts": parts, "drop": drop}:
                self._exchange(head, self.maps[name], parts, drop, lsn, time)
                self._stand_on_promoted(self.maps[name], [*parts, *drop])
            case {"op": "rollback", "name": name, "parts": parts, "drop": drop}:
                self._exchange(head, self.maps[name], parts, drop, lsn, time)
            case {"op": "undo", "parts": parts, "drop": drop}:
                self._put_all(head, self.maps[UNDO], parts, drop, lsn)
                self._stand_as_before(self.maps[UNDO])
                self._delete(UNDO)
                self.switches = self.switches[0] + 1, lsn
            case {"op": "delete_view", "name": name}:
                self._delete(name)
            case _:
                raise CorruptionError(f"control frame {lsn} holds {decision!r}, which this version does not know")
        self._forget_trees()
        return {head.name, decision["name"], UNDO} if decision["op"] in NAMING else {head.name}

    def _seal(self, head: ViewEntry, lsn: int) -> None:
        """New layers over those that were written to."""
        for part, top in list(head.parts.items()):
            if top is not None and top.writes:
                head.put(part, top.tree.continue_from(lsn, top))

    def _snapshot(self, new: ViewEntry, head: ViewEntry, lsn: int) -> None:
        self._seal(head, lsn)
        for part in head.parts:
            new.put(part, head.base_of(part))
        self.maps[new.name] = new

    def _branch(self, new: ViewEntry, source: ViewEntry, lsn: int) -> None:
        for part in source.parts:
            base = source.base_of(part)
            new.put(part, self.trees[part].begin(lsn, base))
            new.stands_on[part] = id_of(base)
        self.maps[new.name] = new

    def _exchange(
        self, head: ViewEntry, source: ViewEntry, parts: Iterable[str], drop: Iterable[str], lsn: int, time: int
    ) -> None:
        """Give a head the source's state of some parts. What `main` was before stays as `undo`."""
        if head.name == MAIN:
            self._keep(head, (*parts, *drop), tuple(drop), lsn, time)
            self.switches = self.switches[0] + 1, lsn
        self._put_all(head, source, parts, drop, lsn)

    def _keep(self, main: ViewEntry, exchanged: tuple[str, ...], dropped: tuple[str, ...], lsn: int, time: int) -> None:
        """Parts that are exchanged need no new layer over what is kept: they are given one anyway."""
        new = ViewEntry(UNDO, UNDO, lsn, time, MAIN, exchanged=exchanged, dropped=dropped)
        for part, top in list(main.parts.items()):
            if top is not None and top.writes:
                new.put(part, top.seal())
                if part not in exchanged:
                    main.put(part, top.tree.continue_from(lsn, top))
            else:
                new.put(part, main.base_of(part))
        self._delete(UNDO)
        self.maps[UNDO] = new

    def _put_all(self, head: ViewEntry, source: ViewEntry, parts: Iterable[str], drop: Iterable[str], lsn: int) -> None:
        for part in drop:
            head.remove(part)
        for part in parts:
            head.put(part, self.trees[part].begin(lsn, source.base_of(part)))

    def _stand_on_promoted(self, branch: ViewEntry, parts: Iterable[str]) -> None:
        before = self.maps[UNDO]
        before.branch, before.stands_on = (branch.name, branch.lsn), dict(branch.stands_on)
        for part in parts:
            if part in branch.parts:
                branch.stands_on[part] = id_of(branch.base_of(part))
            else:
                branch.stands_on.pop(part, None)

    def _stand_as_before(self, before: ViewEntry) -> None:
        """What was promoted is the branch's alone again: it may be promoted once more."""
        name, lsn = before.branch or ("", 0)
        branch = self.maps.get(name)
        if branch is not None and branch.lsn == lsn:
            branch.stands_on = dict(before.stands_on)

    def _delete(self, name: str) -> None:
        if name in self.maps:
            self.maps.pop(name).leave()

    def _forget_trees(self) -> None:
        """Tables that no view has any more."""
        for name in [name for name, tree in self.trees.items() if tree.decision is not None and not tree.layers]:
            if not any(name in view.parts for view in self.maps.values()):
                del self.trees[name]

    def discard(self) -> None:
        """Give all memory back; the heads are not used again."""
        for tree in self.trees.values():
            tree.discard()

    def expect(self, frames: Iterable[Frame]) -> None:
        """These come next: open runs that are made for what they hold need not grow."""
        coming: Counter[tuple[str, int]] = Counter()
        for frame in frames:
            if frame.kind in (Kind.PUT, Kind.ROWS):
                part = keyspace_name(frame.table) if frame.kind == Kind.PUT else table_name(frame.table)
                coming[part, frame.layer] += frame.count
        for (part, number), count in coming.items():
            if part in self.trees and number in self.trees[part].layers:
                self.trees[part].layers[number].expect(count)

    # what a decision would mean

    def tables(self, view: ViewEntry) -> dict[str, str]:
        """Parts by the names of their tables."""
        trees = self.trees
        return {trees[part].decision["name"]: part for part in view.parts if trees[part].decision is not None}

    def label(self, part: str) -> str:
        """What users call it."""
        tree = self.trees[part]
        return tree.decision["name"] if tree.decision is not None else f"keyspace {tree.number}"

    def written(self, branch: ViewEntry) -> list[str]:
        """Parts that a branch wrote, created, cleared or dropped since it was cut or promoted."""
        gone = [part for part in branch.stands_on if part not in branch.parts]
        return [part for part in branch.parts if is_written(branch, part)] + [p for p in gone if p in self.trees]

    def in_the_way(self, head: ViewEntry, source: ViewEntry, parts: Iterable[str]) -> list[str]:
        """Tables of a head that have the name of one of the source's parts, and are others."""
        theirs, own = self.tables(head), {part: name for name, part in self.tables(source).items()}
        named = {part: theirs.get(own[part]) for part in parts if part in own}
        return [other for part, other in named.items() if other is not None and other != part]

    def writes_above(self, head: ViewEntry, part: str, base: int | None) -> int | None:
        """Records that a head wrote to a part since it stood on layer `base`; None if it stands on that no more."""
        top, count = head.parts.get(part), 0
        if part not in head.parts:
            return None
        for layer in top.down() if top is not None else ():
            if layer.id == base:
                return count
            count += layer.writes
        return count if base is None else None

    def writes_since(self, head: ViewEntry, part: str, lsn: int) -> int | None:
        """Records that a head wrote to a part since the frame `lsn` gave it a layer; None if that is gone."""
        top, count = head.parts.get(part), 0
        for layer in top.down() if top is not None else ():
            count += layer.writes
            if layer.id <= lsn:
                return count if layer.id == lsn else None
        return None

    def info(self, name: str) -> ViewInfo:
        view = self.maps[name]
        own = sum(layer.writes for part in view.parts for layer in self._own(view, part)) if view.is_head else 0
        return ViewInfo(name, view.kind, view.lsn, view.created, view.base, len(self.tables(view)), own)

    @staticmethod
    def _own(view: ViewEntry, part: str) -> Iterable[Layer]:
        top = view.parts[part]
        for layer in top.down() if top is not None else ():
            if layer.id < view.lsn or (layer.id == view.stands_on.get(part) and view.kind != MAIN):
                return
            yield layer

    def is_shared(self, part: str) -> bool:
        """Does another view than main hold anything of it?"""
        others = (view.parts.get(part) for view in self.maps.values() if view.name != MAIN)
        return any(top is not None and (top.writes or top.below is not None) for top in others)

    # what the catalog keeps

    def freeze_memtables(self) -> None:
        """Close all open runs, and make one of layers that nobody tells apart any more."""
        branches = [view for view in self.maps.values() if view.kind == "branch"]
        undone = self.maps[UNDO].lsn if UNDO in self.maps else None
        for tree in self.trees.values():
            tree.merge({undone, *(branch.stands_on.get(tree.name) for branch in branches)})
            for layer in tree.layers.values():
                layer.freeze()
            tree.invalidate_stacks()
        self.seals = 0

    def parts(self) -> dict[str, CollectionRecord]:
        """Every part that anything was ever done to."""
        return {name: collection_record(tree) for name, tree in self.trees.items() if not is_untouched(tree)}

    def views(self) -> dict[str, ViewRecord]:
        """Every view."""
        for view in self.maps.values():
            if view.is_head or view.kept is None:
                view.kept = view_record(view, self.trees)
        return {name: view.kept for name, view in self.maps.items()}

    def restore(self, state: Manifest) -> None:
        """As a state says."""
        for name, part in state.parts.items():
            self.maps[MAIN].remove(name)  # what a new store has
            self.trees[name] = self._new_tree(name, part.decision)
            self._restore_layers(self.trees[name], part)
        for name, view in state.views.items():
            self._restore_view(name, view)
        self.last_table, self.switches = state.last_table, state.switches

    def _restore_layers(self, tree: LayerTree, part: CollectionRecord) -> None:
        """Those below come first: they are older."""
        for kept in sorted(part.layers, key=lambda one: one.id):
            below = tree.layers[kept.below] if kept.below is not None else None
            layer = tree.begin(kept.id, below)
            layer.runs, layer.writes, layer.last_write, layer.sealed = kept.runs, kept.writes, kept.changed, True
        tree.skip_runs = {span.top: span for span in part.spans}

    def _restore_view(self, name: str, kept: ViewRecord) -> None:
        view = self.maps[name] = self.maps.get(name) or ViewEntry(
            name, kept.kind, kept.lsn, kept.created, kept.base, {}, dict(kept.stands_on), kept.exchanged, kept.dropped,
            kept.branch,
        )  # fmt: skip
        for part, id in kept.parts.items():
            layer = self.trees[part].layers[id] if id is not None else None
            view.put(part, layer)
            if layer is not None and view.is_head:
                layer.sealed = False
        for part in map(keyspace_name, range(KEYSPACES)):  # never written, so not kept
            view.parts.setdefault(part, None)

    def check(self) -> None:
        """Every invariant of trees and views."""
        assert self.maps[MAIN].kind == MAIN
        tops: dict[int, int] = {}
        for view in self.maps.values():
            for part, top in view.parts.items():
                assert top is None or (self.trees[part].layers[top.id] is top and top.sealed != view.is_head)
                assert top is not None or not view.is_head
                tops[id(top)] = tops.get(id(top), 0) + 1
        for tree in self.trees.values():
            tree.check()
            below = [layer.below for layer in tree.layers.values()]
            for layer in tree.layers.values():
                standing = tops.get(id(layer), 0) + sum(one is layer for one in below)
                assert layer.refs == standing + layer.shown, "references"


def is_written(branch: ViewEntry, part: str) -> bool:
    """Did a branch write to it since it was cut or promoted?"""
    top = branch.parts[part]
    assert top is not None
    return part not in branch.stands_on or top.writes > 0 or id_of(top.below) != branch.stands_on[part]


def is_untouched(tree: LayerTree) -> bool:
    """A keyspace as it is in a new store."""
    return tree.decision is None and list(tree.layers) == [0] and not tree.layers[0].writes


def collection_record(tree: LayerTree) -> CollectionRecord:
    layers = tuple(
        LayerRecord(layer.id, id_of(layer.below), layer.runs, layer.writes, layer.last_write)
        for layer in tree.layers.values()
    )
    return CollectionRecord(layers, tree.decision, tuple(tree.skip_runs.values()))


def view_record(view: ViewEntry, trees: dict[str, LayerTree]) -> ViewRecord:
    parts = {
        part: id_of(top)
        for part, top in view.parts.items()
        if not (is_untouched(trees[part]) or (top is None and trees[part].decision is None))
    }
    return ViewRecord(
        view.kind, view.lsn, view.created, view.base, parts, dict(view.stands_on), view.exchanged, view.dropped,
        view.branch,
    )  # fmt: skip
