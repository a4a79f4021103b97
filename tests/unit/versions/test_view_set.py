"""Heads on their own: decisions carried out, kept as a state, and restored."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from pmkv.errors import CorruptionError
from pmkv.index.arena import Arena
from pmkv.index.location_cache import CacheBudget
from pmkv.index.lookup_batch import IdBatch
from pmkv.log.replay import LogEnd
from pmkv.versions.index_stack import IndexStack
from pmkv.versions.layer import IndexMemory, LayerTree
from pmkv.versions.manifest import Manifest
from pmkv.versions.view_set import MAIN, UNDO, ViewSet, id_of

END = LogEnd(lsn=9, previous=1, last=4224, position=4352, segments=[[0, 1]])


class Small:
    """Heads with one table, whose decisions take numbers as LSNs."""

    def __init__(self) -> None:
        self.view_set = new_heads()
        self.lsn = 0
        self.do(op="create_table", id=1, name="t")

    def do(self, **decision: Any) -> None:
        self.lsn += 1
        self.view_set.carry_out(decision, self.lsn, 1000 + self.lsn)
        self.view_set.check()

    def put(self, word: int, view: str = MAIN, part: str = "table/1") -> None:
        self.lsn += 1
        top = self.view_set.maps[view].tops[part]
        IndexStack(top).enter(IdBatch(np.array([word])), np.array([8 * word + 8], np.uint64), self.lsn)

    def words(self, view: str = MAIN, part: str = "table/1") -> list[int]:
        top = self.view_set.maps[view].tops[part]
        return (
            sorted({int(word) for _, words, _ in IndexStack(top).walk() for word in words}) if top is not None else []
        )


def new_heads() -> ViewSet:
    dram = IndexMemory(Arena(), CacheBudget(0))
    return ViewSet(lambda part, decision: LayerTree(part, dram, 7, 8 if decision else 0, decision))


@pytest.fixture
def small() -> Small:
    return Small()


def test_a_snapshot_seals_what_was_written_and_nothing_else(small: Small) -> None:
    small.put(1)
    small.do(op="snapshot", name="one")
    small.do(op="snapshot", name="two")
    assert len(small.view_set.trees["table/1"].layers) == 2, "nothing was written between the two"
    small.put(2)
    assert (small.words("one"), small.words("two"), small.words()) == ([1], [1], [1, 2])
    assert small.view_set.maps["one"].tops["keyspace/0"] is None


def test_a_promoted_branch_goes_on_from_what_it_promoted(small: Small) -> None:
    small.put(1)
    small.do(op="seal")
    small.do(op="branch", name="b", at=MAIN)
    small.put(2, "b")
    assert small.view_set.written(small.view_set.maps["b"]) == ["table/1"]
    small.do(op="seal", head="b")
    small.do(op="promote", name="b", parts=["table/1"], drop=[])
    assert small.words() == [1, 2] and small.words(UNDO) == [1] and small.view_set.main_changes == (1, small.lsn)
    assert small.view_set.written(small.view_set.maps["b"]) == []
    small.put(3, "b")
    assert small.words() == [1, 2] and small.words("b") == [1, 2, 3]


def test_an_undo_brings_back_only_what_was_exchanged(small: Small) -> None:
    small.do(op="create_table", id=2, name="u")
    small.put(1)
    small.do(op="snapshot", name="s")
    small.put(2)
    small.do(op="rollback", name="s", parts=["table/1"], drop=[])
    small.put(5, part="table/2")
    small.do(op="undo", name=UNDO, parts=["table/1"], drop=[])
    assert small.words() == [1, 2] and small.words(part="table/2") == [5] and UNDO not in small.view_set.maps


def test_dropped_tables_live_in_old_views_and_go_with_the_last(small: Small) -> None:
    small.put(1)
    small.do(op="snapshot", name="s")
    small.do(op="drop_table", id=1)
    small.do(op="create_table", id=2, name="t")
    small.do(op="snapshot", name="later")
    assert small.words("s") == [1] and small.view_set.tables(small.view_set.maps["later"]) == {"t": "table/2"}
    assert small.view_set.in_the_way(small.view_set.maps[MAIN], small.view_set.maps["s"], ["table/1"]) == ["table/2"]
    small.do(op="delete_view", name="s")
    assert "table/1" not in small.view_set.trees


def test_writes_are_counted_since_a_branch_was_cut(small: Small) -> None:
    small.put(1)
    small.do(op="seal")
    small.do(op="branch", name="b", at=MAIN)
    base = small.view_set.maps["b"].bases["table/1"]
    small.put(2)
    small.do(op="snapshot", name="between")
    small.put(3)
    main = small.view_set.maps[MAIN]
    assert small.view_set.writes_above(main, "table/1", base) == 2
    small.do(op="clear", keyspaces=[0])
    assert small.view_set.writes_above(main, "keyspace/0", 77) is None


def test_a_state_is_restored_as_it_was(small: Small) -> None:
    small.put(1)
    small.do(op="seal")
    small.do(op="branch", name="b", at=MAIN)
    small.do(op="create_table", id=2, name="mine", head="b")
    small.do(op="seal", head="b")
    small.do(op="promote", name="b", parts=["table/2"], drop=[])
    small.do(op="snapshot", name="s")
    small.do(op="drop_table", id=1)
    view_set = small.view_set
    state = Manifest(
        END, view_set.last_table, view_set.collection_records(), view_set.view_records(), view_set.main_changes
    )
    records = orjson.loads(orjson.dumps(state.to_records()))
    again = new_heads()
    again.restore(Manifest.from_records(records, lambda info: None))
    again.check()
    assert (
        again.view_records() == view_set.view_records() and again.collection_records() == view_set.collection_records()
    )
    assert (again.main_changes, again.last_table) == (view_set.main_changes, view_set.last_table)
    for name, view in view_set.maps.items():
        other = again.maps[name]
        assert {p: id_of(top) for p, top in view.tops.items()} == {p: id_of(top) for p, top in other.tops.items()}
        assert again.info(name) == view_set.info(name)


def test_what_nobody_knows_is_damage(small: Small) -> None:
    with pytest.raises(CorruptionError, match="does not know"):
        small.do(op="conquer")


def test_the_head_that_writes_to_a_layer_is_found(small: Small) -> None:
    small.put(1)
    small.do(op="snapshot", name="s")
    small.do(op="branch", name="b", at="s")
    view_set = small.view_set
    main, branch, sealed = (view_set.maps[name].tops["table/1"] for name in (MAIN, "b", "s"))
    assert view_set.head_of_layer("table/1", main.id) is view_set.maps[MAIN]
    assert view_set.head_of_layer("table/1", branch.id) is view_set.maps["b"]
    assert view_set.head_of_layer("table/1", sealed.id) is None, "nothing is written to a sealed layer"
    assert view_set.head_of_layer("table/1", 999) is None and view_set.head_of_layer("table/9", main.id) is None
    small.do(op="delete_view", name="b")
    small.do(op="branch", name="b", at="s")
    assert view_set.head_of_layer("table/1", branch.id) is None, "it was another branch's of this name"
    small.do(op="promote", name="b", parts=["table/1"], drop=[])
    assert view_set.head_of_layer("table/1", main.id) is None
    assert view_set.head_of_layer("table/1", view_set.maps[MAIN].tops["table/1"].id) is view_set.maps[MAIN]
