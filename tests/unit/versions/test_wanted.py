"""What is looked for, in batches."""

from __future__ import annotations

import numpy as np

from pmkv.kernels.runs import places_of
from pmkv.versions.wanted import Ids, in_order


def test_notes_are_looked_for_in_the_order_of_places() -> None:
    seed = np.uint64(5)
    wanted = in_order([Ids(np.arange(i, i + 50)) for i in (0, 50, 100)], seed)
    assert sorted(wanted.ids.tolist()) == list(range(150))
    places_of(wanted.words, seed, places := np.empty(150, np.uint64))
    assert (places[:-1] < places[1:]).all()
