"""Layers: who holds them, when two become one, when their memory goes."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.index.arena import Arena
from pmkv.index.location_cache import CacheBudget
from pmkv.index.lookup_batch import IdBatch
from pmkv.versions.index_stack import IndexStack
from pmkv.versions.layer import IndexMemory, Layer, LayerTree, SkipRun, replaced


class Forest:
    """A tree with a head, and snapshots of it."""

    def __init__(self) -> None:
        self.dram = IndexMemory(Arena(), CacheBudget(0))
        self.tree = LayerTree("table/1", self.dram, 7, 8)
        self.top, self.number = self.tree.begin(1).acquire(), 1

    def put(self, word: int) -> None:
        IndexStack(self.top).enter(IdBatch(np.array([word])), np.array([8 * word + 8], np.uint64), self.number)

    def seal(self) -> Layer:
        """The sealed layer, held as a snapshot holds it."""
        before, self.number = self.top.seal().acquire(), self.number + 1
        self.top = self.tree.begin(self.number, before).acquire()
        before.release()  # by the head
        return before

    def words(self, top: Layer | None = None) -> set[int]:
        return {int(word) for _, words, _ in IndexStack(top or self.top).walk() for word in words}


@pytest.fixture
def forest() -> Forest:
    return Forest()


def test_a_sealed_layer_stays_what_it_is(forest: Forest) -> None:
    forest.put(1)
    first = forest.seal()
    forest.put(2)
    assert forest.words(first) == {1} and forest.words() == {1, 2}
    forest.tree.check()


def test_layers_go_in_any_order_and_take_their_memory(forest: Forest) -> None:
    held = []
    for word in range(4):
        forest.put(word)
        held.append(forest.seal())
    held[2].release()
    held[0].release()
    assert forest.words() == {0, 1, 2, 3} and forest.words(held[1]) == {0, 1}
    forest.top.release()  # the head is cleared
    assert forest.words(held[3]) == {0, 1, 2, 3}
    held[3].release()
    assert set(forest.tree.layers.values()) == {held[0], held[1]}
    held[1].release()
    assert not forest.tree.layers and forest.dram.arena.used == 0


def test_two_become_one_when_nobody_tells_them_apart(forest: Forest) -> None:
    for word in range(4):
        forest.put(word)
        held = forest.seal() if word in (1, 3) else forest.seal().release()
    forest.tree.merge(set())
    assert held is not None and held.writes + held.merged_writes == 2 and forest.words(held) == {0, 1, 2, 3}
    assert len(forest.tree.layers) == 3, "the head's, and one of each snapshot"
    held.release()
    forest.tree.merge(set())
    assert len(forest.tree.layers) == 3, "an empty one is never merged: a snapshot names what is below it"
    forest.put(4)
    forest.tree.merge(set())
    assert len(forest.tree.layers) == 2, "the head's takes over what was the snapshot's"
    assert forest.words() == {0, 1, 2, 3, 4}
    assert (forest.top.writes, forest.top.merged_writes) == (1, 2), "its own writes are what they were"
    forest.tree.check()


def test_what_a_span_ends_at_must_be_there(forest: Forest) -> None:
    layers = []
    for word in range(3):
        forest.put(word)
        layers.append(forest.seal())
    forest.tree.skip_runs = {layers[2].id: SkipRun(None, layers[2].id, layers[0].id)}
    forest.tree.merge(set())
    assert forest.tree.skip_runs
    layers[0].release()
    forest.tree.merge(set())
    assert not forest.tree.skip_runs


def test_a_span_goes_with_the_layer_that_it_begins_at(forest: Forest) -> None:
    forest.put(1)
    held = forest.seal()
    top = forest.tree.begin(99, held).acquire()
    forest.tree.skip_runs = {99: SkipRun(None, 99, None)}
    top.release()
    assert not forest.tree.skip_runs


def test_only_consecutive_runs_are_replaced() -> None:
    a, b, c = runs = tuple(object() for _ in range(3))
    assert replaced(runs, (a, b), None) == (c,)
    with pytest.raises(AssertionError, match="not consecutive"):
        replaced(runs, (a, c), None)


def test_the_decision_that_would_create_the_table_as_it_is_now() -> None:
    made = {"op": "create_table", "id": 1, "dram": "all"}
    tree = LayerTree("table/1", IndexMemory(Arena(), CacheBudget(1 << 16)), 7, 8, made)
    assert tree.kept == "all" and tree.creation is made
    tree.kept = 0.5
    assert tree.creation == {"op": "create_table", "id": 1, "dram": 0.5}
    tree.kept = None
    assert tree.creation == {"op": "create_table", "id": 1}
