"""The views of a store: which layers each has, and what snapshot, branch, promote, rollback and undo do to them.

A *head* (`main` and every branch) has a layer of its own on top of each collection, which it writes to; a snapshot has
sealed layers only. A decision is carried out the same way when it is made and when it is replayed: it depends on
nothing but earlier decisions and writes, so nothing is decided again. No frame begins two layers of one collection, so
a frame of its own seals a head before a branch is cut from it or it is promoted.

The caller holds locks.state, and has made sure that the decision is allowed (see `pmkv/engine/version_plan.py`).
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
RELEASING = ("drop_table", "clear", "promote", "rollback", "undo", "delete_view")
NAMING = ("snapshot", "branch", "promote", "rollback", "undo", "delete_view")  # decisions about a named view
KEYSPACES = 16


@dataclass(frozen=True)
class ViewInfo:
    """Tells the facts about a view. kind: "main", "branch", "snapshot" or "undo"; lsn, created (unix ms): when it was
    cut; base: the view that it was cut from; tables: how many; writes: records written to it since, in layers of
    its own."""

    name: str
    kind: str
    lsn: int
    created: int
    base: str
    tables: int
    writes: int

    def asdict(self) -> dict[str, Any]:
        """Return the facts as plain Python."""
        return asdict(self)


@dataclass
class ViewEntry:
    """Holds a view in memory. tops: the top layer of each collection; None for one that was never written, in a
    snapshot. The other attributes are those of `ViewRecord`."""

    name: str
    kind: str
    lsn: int = 0
    created: int = 0
    base: str = ""
    tops: dict[str, Layer | None] = field(default_factory=dict)
    bases: dict[str, int | None] = field(default_factory=dict)
    restored: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    promoted: tuple[str, int] | None = None
    cuts: dict[str, int | None] = field(default_factory=dict)
    rebased: dict[str, tuple[int, dict[str, int | None]]] = field(default_factory=dict)
    record: ViewRecord | None = None  # of a snapshot or `undo`, which never change

    @property
    def is_head(self) -> bool:
        """Return whether the view is written to."""
        return self.kind in (MAIN, "branch")

    def put(self, name: str, layer: Layer | None) -> None:
        """Make `layer` the top of a collection."""
        if layer is not None:
            layer.acquire()
            layer.head = self.name if self.is_head else layer.head
        self.remove(name)
        self.tops[name] = layer

    def remove(self, name: str) -> None:
        """Remove a collection, if the view has it."""
        before = self.tops.pop(name, None)
        if before is not None:
            before.release()

    def clear(self) -> None:
        """Remove all collections: the view was deleted."""
        for name in list(self.tops):
            self.remove(name)

    def base_of(self, name: str) -> Layer | None:
        """Return the newest sealed layer of a collection; of a head that was just sealed, what it has written."""
        top = self.tops[name]
        return top.below if self.is_head and top is not None else top


def id_of(layer: Layer | None) -> int | None:
    """Return the id of a layer, None for none."""
    return layer.id if layer is not None else None


def keyspace_name(number: int) -> str:
    """Return the collection name of a keyspace."""
    return f"keyspace/{number}"


def table_name(number: int) -> str:
    """Return the collection name of a table, given its id."""
    return f"table/{number}"


class ViewSet:
    """Holds all views and all layer trees of a store. new_tree: makes the tree of a collection, given its name and the
    decision that created it (None for a keyspace)."""

    def __init__(self, new_tree: Callable[[str, dict[str, Any] | None], LayerTree]) -> None:
        self._new_tree = new_tree
        self.trees = {name: new_tree(name, None) for name in map(keyspace_name, range(KEYSPACES))}
        self.maps = {MAIN: ViewEntry(MAIN, MAIN)}  # the views by name
        for name, tree in self.trees.items():
            self.maps[MAIN].put(name, tree.begin(0))
        self.last_table = 0  # table ids are never used again
        self.main_changes = 0, 0  # how often `main` was promoted, rolled back or undone, and the LSN of the last time
        self.releases = 0  # decisions since the last freeze that may have released something
        self.seals = 0  # sealing decisions since the last freeze: each may have left one more memtable to probe

    # carrying out

    def carry_out(self, decision: dict[str, Any], lsn: int, time: int) -> set[str]:
        """Carry out what was decided in the frame `lsn`. Return the names of the views that may have changed."""
        self.seals += decision["op"] in SEALING
        self.releases += decision["op"] in RELEASING
        head = self.maps[decision.get("head", MAIN)]
        match decision:
            case {"op": "create_table", "id": number}:
                tree = self.trees[table_name(number)] = self._new_tree(table_name(number), decision)
                head.put(tree.name, tree.begin(lsn))
                self.last_table = max(self.last_table, number)
            case {"op": "drop_table", "id": number}:
                head.remove(table_name(number))
            case {"op": "set_dram", "id": number, "dram": choice}:
                self.trees[table_name(number)].kept = choice
                return {MAIN}
            case {"op": "clear", "keyspaces": numbers}:
                for name in map(keyspace_name, numbers):
                    head.put(name, self.trees[name].begin(lsn))
            case {"op": "seal"}:
                self._seal(head, lsn)
            case {"op": "snapshot", "name": name}:
                self._snapshot(ViewEntry(name, "snapshot", lsn, time, head.name), head, lsn)
            case {"op": "branch", "name": name, "at": at}:
                self._branch(ViewEntry(name, "branch", lsn, time, at), self.maps[at], lsn)
            case {"op": "promote", "name": name, "parts": collections, "drop": drop}:
                self._exchange(head, self.maps[name], collections, drop, lsn, time)
                self._rebase_promoted(self.maps[name], [*collections, *drop])
            case {"op": "rollback", "name": name, "parts": collections, "drop": drop}:
                self._exchange(head, self.maps[name], collections, drop, lsn, time)
            case {"op": "undo", "parts": collections, "drop": drop}:
                self._put_all(head, self.maps[UNDO], collections, drop, lsn)
                restore_bases(self.maps)
                self._delete(UNDO)
                self.main_changes = self.main_changes[0] + 1, lsn
            case {"op": "delete_view", "name": name}:
                self._delete(name)
            case {"op": "expired", "keyspace": number, "records": records}:
                self.trees[keyspace_name(number)].expired.add(records, lsn)
                return set()
            case _:
                raise CorruptionError(f"control frame {lsn} holds {decision!r}, which this version does not know")
        self._remove_unused_trees()
        return {head.name, decision["name"], UNDO} if decision["op"] in NAMING else {head.name}

    def _seal(self, head: ViewEntry, lsn: int) -> None:
        """Begin new layers over those of the head that were written to."""
        for name, top in list(head.tops.items()):
            if top is not None and top.writes:
                head.put(name, top.tree.continue_from(lsn, top))

    def _snapshot(self, new: ViewEntry, head: ViewEntry, lsn: int) -> None:
        self._seal(head, lsn)
        for name in head.tops:
            new.put(name, head.base_of(name))
        self.maps[new.name] = new

    def _branch(self, new: ViewEntry, source: ViewEntry, lsn: int) -> None:
        for name in source.tops:
            base = source.base_of(name)
            new.put(name, self.trees[name].begin(lsn, base))
            new.bases[name] = id_of(base)
        self.maps[new.name] = new

    def _exchange(
        self, head: ViewEntry, source: ViewEntry, names: Iterable[str], drop: Iterable[str], lsn: int, time: int
    ) -> None:
        """Give a head the source's state of some collections. What `main` was before is kept as `undo`."""
        if head.name == MAIN:
            self._save_undo(head, (*names, *drop), tuple(drop), lsn, time)
            self.main_changes = self.main_changes[0] + 1, lsn
        self._put_all(head, source, names, drop, lsn)
        if head.name == MAIN:
            self._rebase_lost(source, (*names, *drop))

    def _save_undo(
        self, main: ViewEntry, restored: tuple[str, ...], removed: tuple[str, ...], lsn: int, time: int
    ) -> None:
        """Seal `main` into a new `undo`. Restored collections get no new layer here: `_put_all` begins it."""
        new = ViewEntry(UNDO, UNDO, lsn, time, MAIN, restored=restored, removed=removed)
        for name, top in list(main.tops.items()):
            if top is not None and top.writes:
                new.put(name, top.seal())
                if name not in restored:
                    main.put(name, top.tree.continue_from(lsn, top))
            else:
                new.put(name, main.base_of(name))
        self._delete(UNDO)
        self.maps[UNDO] = new

    def _put_all(self, head: ViewEntry, source: ViewEntry, names: Iterable[str], drop: Iterable[str], lsn: int) -> None:
        """Begin layers of the head over the source's, and remove the collections to drop."""
        for name in drop:
            head.remove(name)
        for name in names:
            head.put(name, self.trees[name].begin(lsn, source.base_of(name)))

    def _rebase_promoted(self, branch: ViewEntry, names: Iterable[str]) -> None:
        """Note that `main` has what a branch wrote to these collections, and keep the branch's former bases."""
        undo = self.maps[UNDO]
        undo.promoted, undo.bases = (branch.name, branch.lsn), dict(branch.bases)
        branch.cuts = branch.cuts or dict(branch.bases)
        for name in names:
            if name in branch.tops:
                branch.bases[name] = id_of(branch.base_of(name))
            else:
                branch.bases.pop(name, None)

    def _rebase_lost(self, source: ViewEntry, names: Iterable[str]) -> None:
        """Let branches other than the source stand, in these collections, where they were cut, if `main` has no more
        what they had been promoted with: they may be promoted again. `undo` keeps their bases."""
        main, undo = self.maps[MAIN], self.maps[UNDO]
        for branch in self.maps.values():
            if branch.kind != "branch" or branch is source or not branch.cuts:
                continue
            lost = [name for name in names if was_promoted(branch, name) and not has_promoted(main, branch, name)]
            if lost:
                undo.rebased[branch.name] = branch.lsn, dict(branch.bases)
            for name in lost:
                branch.bases.pop(name, None)
                if name in branch.cuts:
                    branch.bases[name] = branch.cuts[name]

    def _delete(self, name: str) -> None:
        if name in self.maps:
            self.maps.pop(name).clear()

    def _remove_unused_trees(self) -> None:
        """Remove the trees of tables that no view has any more."""
        for name in [name for name, tree in self.trees.items() if tree.decision is not None and not tree.layers]:
            if not any(name in view.tops for view in self.maps.values()):
                del self.trees[name]

    def discard(self) -> None:
        """Let go of all layers, so that their arena goes with the last who reads it."""
        for tree in self.trees.values():
            tree.discard()

    # replaying

    def expect(self, frames: Iterable[Frame]) -> None:
        """Size the next memtables for what these frames hold, so that they need not grow."""
        coming: Counter[tuple[str, int]] = Counter()
        for frame in frames:
            if frame.kind in (Kind.PUT, Kind.ROWS):
                name = keyspace_name(frame.table) if frame.kind == Kind.PUT else table_name(frame.table)
                coming[name, frame.layer] += frame.count
        for (name, number), count in coming.items():
            if name in self.trees and number in self.trees[name].layers:
                self.trees[name].layers[number].expect(count)

    def head_of_layer(self, name: str, layer_id: int) -> ViewEntry | None:
        """Return the head that writes to this layer of a collection; None if there is none. Takes constant time, for
        each replayed frame."""
        tree = self.trees.get(name)
        layer = tree.layers.get(layer_id) if tree is not None else None
        view = self.maps.get(layer.head) if layer is not None else None
        return view if view is not None and view.is_head and view.tops.get(name) is layer else None

    # questions that decide what a decision is to say

    def tables(self, view: ViewEntry) -> dict[str, str]:
        """Return the collection names of a view's tables, by the names that users gave them."""
        trees = self.trees
        return {trees[name].decision["name"]: name for name in view.tops if trees[name].decision is not None}

    def label(self, name: str) -> str:
        """Return what users call a collection."""
        tree = self.trees[name]
        return tree.decision["name"] if tree.decision is not None else f"keyspace {tree.number}"

    def written(self, branch: ViewEntry) -> list[str]:
        """Return the collections that a branch wrote, created, cleared or dropped since it was cut or promoted."""
        gone = [name for name in branch.bases if name not in branch.tops]
        return [name for name in branch.tops if is_written(branch, name)] + [p for p in gone if p in self.trees]

    def in_the_way(self, head: ViewEntry, source: ViewEntry, names: Iterable[str]) -> list[str]:
        """Return the head's tables that have a user's name of one of the source's collections, and are not the same."""
        theirs, own = self.tables(head), {name: label for label, name in self.tables(source).items()}
        named = {name: theirs.get(own[name]) for name in names if name in own}
        return [other for name, other in named.items() if other is not None and other != name]

    def writes_above(self, head: ViewEntry, name: str, base: int | None) -> int | None:
        """Return how many records a head wrote to a collection above layer `base`; None if it is not above that."""
        top, count = head.tops.get(name), 0
        if name not in head.tops:
            return None
        for layer in top.down() if top is not None else ():
            if layer.id == base:
                return count
            count += layer.writes + layer.merged_writes
        return count if base is None else None

    def writes_since(self, head: ViewEntry, name: str, lsn: int) -> int | None:
        """Return how many records a head wrote to a collection since the frame `lsn` began a layer of it; None if that
        layer is gone."""
        top, count = head.tops.get(name), 0
        for layer in top.down() if top is not None else ():
            count += layer.writes
            if layer.id <= lsn:
                return count if layer.id == lsn else None
            count += layer.merged_writes
        return None

    def info(self, name: str) -> ViewInfo:
        """Return the facts about a view."""
        view = self.maps[name]
        layers = [layer for collection in view.tops for layer in own_layers(view, collection)] if view.is_head else []
        own = sum(layer.writes + layer.merged_writes for layer in layers)
        return ViewInfo(name, view.kind, view.lsn, view.created, view.base, len(self.tables(view)), own)

    def is_shared(self, name: str) -> bool:
        """Return whether another view than `main` holds anything of a collection."""
        others = (view.tops.get(name) for view in self.maps.values() if view.name != MAIN)
        return any(top is not None and (top.writes or top.below is not None) for top in others)

    # what the catalog keeps

    def freeze_memtables(self) -> None:
        """Freeze all memtables, and merge layers that nothing tells apart any more."""
        branches = [view for view in self.maps.values() if view.kind == "branch"]
        undo_lsn, bases = None, [some for branch in branches for some in (branch.bases, branch.cuts)]
        if UNDO in self.maps:
            undo_lsn = self.maps[UNDO].lsn
            bases += [some for _, some in self.maps[UNDO].rebased.values()]
        for tree in self.trees.values():
            tree.merge({undo_lsn, *(some.get(tree.name) for some in bases)})
            for layer in tree.layers.values():
                layer.freeze()
            tree.invalidate_stacks()
        self.seals = self.releases = 0

    def collection_records(self) -> dict[str, CollectionRecord]:
        """Return a record of every collection that anything was ever done to."""
        return {name: collection_record(tree) for name, tree in self.trees.items() if not is_untouched(tree)}

    def view_records(self) -> dict[str, ViewRecord]:
        """Return a record of every view."""
        for view in self.maps.values():
            if view.is_head or view.record is None:
                view.record = view_record(view, self.trees)
        return {name: view.record for name, view in self.maps.items()}

    def restore(self, manifest: Manifest) -> None:
        """Rebuild trees and views from a manifest. Nothing but what a new store has may be there."""
        for name, collection in manifest.collections.items():
            self.maps[MAIN].remove(name)
            self.trees[name] = self._new_tree(name, collection.decision)
            self.trees[name].kept = collection.dram
            self._restore_layers(self.trees[name], collection)
        for name, record in manifest.views.items():
            self._restore_view(name, record)
        self.last_table, self.main_changes = manifest.last_table, manifest.main_changes

    def _restore_layers(self, tree: LayerTree, collection: CollectionRecord) -> None:
        """Rebuild the layers from the oldest on: those below have lower ids."""
        for record in sorted(collection.layers, key=lambda one: one.id):
            below = tree.layers[record.below] if record.below is not None else None
            layer = tree.begin(record.id, below)
            layer.runs, layer.writes, layer.merged_writes = record.runs, record.writes, record.merged_writes
            layer.last_write, layer.sealed = record.last_write, True
        tree.skip_runs = {skip.top: skip for skip in collection.skip_runs}
        tree.expired.add((location, expiry) for location, expiry in collection.expired)

    def _restore_view(self, name: str, record: ViewRecord) -> None:
        view = self.maps[name] = self.maps.get(name) or ViewEntry(
            name, record.kind, record.lsn, record.created, record.base, {}, dict(record.bases), record.restored,
            record.removed, record.promoted, dict(record.cuts), dict(record.rebased),
        )  # fmt: skip
        for collection, id in record.tops.items():
            layer = self.trees[collection].layers[id] if id is not None else None
            view.put(collection, layer)
            if layer is not None and view.is_head:
                layer.sealed = False
        for collection in map(keyspace_name, range(KEYSPACES)):  # never written, so not recorded
            view.tops.setdefault(collection, None)

    def check(self) -> None:
        """Assert every invariant of trees and views."""
        assert self.maps[MAIN].kind == MAIN
        tops: dict[int, int] = {}
        for view in self.maps.values():
            for name, top in view.tops.items():
                assert top is None or (self.trees[name].layers[top.id] is top and top.sealed != view.is_head)
                assert top is not None or not view.is_head
                assert top is None or not view.is_head or self.head_of_layer(name, top.id) is view
                tops[id(top)] = tops.get(id(top), 0) + 1
        for tree in self.trees.values():
            tree.check()
            below = [layer.below for layer in tree.layers.values()]
            for layer in tree.layers.values():
                references = tops.get(id(layer), 0) + sum(one is layer for one in below)
                assert layer.refs == references + layer.shown, "references"


def own_layers(view: ViewEntry, name: str) -> Iterable[Layer]:
    """Yield the layers of a collection that only this head has."""
    top = view.tops[name]
    for layer in top.down() if top is not None else ():
        if layer.id < view.lsn or (layer.id == view.bases.get(name) and view.kind != MAIN):
            return
        yield layer


def is_written(branch: ViewEntry, name: str) -> bool:
    """Return whether a branch wrote to a collection since it was cut or promoted."""
    top = branch.tops[name]
    assert top is not None
    return name not in branch.bases or top.writes > 0 or id_of(top.below) != branch.bases[name]


def restore_bases(views: dict[str, ViewEntry]) -> None:
    """Give branches the bases that `undo` keeps: one whose promote is undone may be promoted once more, and those whose
    promoted writes `main` gets back need not be."""
    undo = views[UNDO]
    former = dict(undo.rebased)
    if undo.promoted is not None:
        name, lsn = undo.promoted
        former[name] = lsn, undo.bases
    for name, (lsn, bases) in former.items():
        branch = views.get(name)
        if branch is not None and branch.lsn == lsn:
            branch.bases = dict(bases)


def was_promoted(branch: ViewEntry, name: str) -> bool:
    """Return whether a branch was promoted with a collection that it had written, created or dropped."""
    return (name in branch.bases) != (name in branch.cuts) or branch.bases.get(name) != branch.cuts.get(name)


def has_promoted(main: ViewEntry, branch: ViewEntry, name: str) -> bool:
    """Return whether `main` has what a branch was promoted with: the layer on which the branch stands since, or nothing
    where that was nothing."""
    if name not in branch.bases or name not in main.tops:
        return name not in branch.bases and name not in main.tops
    top, base = main.tops[name], branch.bases[name]
    assert top is not None
    return top.below is None if base is None else any(layer.id == base for layer in top.down())


def is_untouched(tree: LayerTree) -> bool:
    """Return whether this is a keyspace as it is in a new store."""
    return tree.decision is None and list(tree.layers) == [0] and not tree.layers[0].writes


def collection_record(tree: LayerTree) -> CollectionRecord:
    """Return what the catalog keeps of a tree, apart from its memtables."""
    layers = tuple(
        LayerRecord(layer.id, id_of(layer.below), layer.runs, layer.writes, layer.last_write, layer.merged_writes)
        for layer in tree.layers.values()
    )
    return CollectionRecord(layers, tree.decision, tuple(tree.skip_runs.values()), tree.expired.to_record(), tree.kept)


def view_record(view: ViewEntry, trees: dict[str, LayerTree]) -> ViewRecord:
    """Return what the catalog keeps of a view, without keyspaces that were never written."""
    tops = {
        name: id_of(top)
        for name, top in view.tops.items()
        if not (is_untouched(trees[name]) or (top is None and trees[name].decision is None))
    }
    return ViewRecord(
        view.kind, view.lsn, view.created, view.base, tops, dict(view.bases), view.restored, view.removed,
        view.promoted, dict(view.cuts), dict(view.rebased),
    )  # fmt: skip
