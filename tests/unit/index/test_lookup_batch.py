"""What is looked for, in batches."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.index.lookup_batch import PIECE, IdBatch, new_keys, picked, pieces, sorted_by_slot
from pmkv.kernels.hashing import place_of
from pmkv.runtime.jit import FEW_ELEMENTS


def test_notes_are_looked_for_in_the_order_of_places() -> None:
    seed = np.uint64(5)
    wanted = sorted_by_slot([IdBatch(np.arange(i, i + 50)) for i in (0, 50, 100)], seed)
    assert sorted(wanted.ids.tolist()) == list(range(150))
    places = [int(place_of(word, seed)) >> 52 for word in wanted.key64s]
    assert places == sorted(places)


@pytest.mark.parametrize("count", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_pieces_are_everything_once(count: int) -> None:
    assert [i for some in pieces(count) for i in range(count)[some]] == list(range(count))


def test_a_note_is_of_what_is_new_and_copies_what_a_caller_may_change() -> None:
    ids, locations = np.array([3, 4, 5]), np.array([30, 40, 50], np.uint64)
    ids.flags.writeable = False  # as what came over the network
    note = new_keys(IdBatch(ids), locations, np.array([0, 7, 0], np.uint64))
    assert isinstance(note, IdBatch) and note.ids.tolist() == [3, 5] and not np.shares_memory(note.ids, ids)
    assert new_keys(IdBatch(ids), locations, locations) is None


@pytest.mark.parametrize("count", [0, 1, FEW_ELEMENTS, FEW_ELEMENTS + 1])
def test_few_and_many_are_picked_alike(count: int) -> None:
    which = np.random.default_rng(count).integers(0, 1000, count)
    bounds = np.arange(2000).reshape(-1, 2)
    assert picked(bounds, which).tolist() == [[2 * i, 2 * i + 1] for i in which.tolist()]
    assert picked(bounds[:, 1], which).tolist() == [2 * i + 1 for i in which.tolist()]
