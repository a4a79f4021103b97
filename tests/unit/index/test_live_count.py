"""The live counter: new keys are recorded, and counted once, a batch at a time."""

from __future__ import annotations

import numpy as np

from pmkv.index.live_count import CountResult, LiveCounter
from pmkv.index.lookup_batch import IdBatch


def test_notes_are_settled_once_a_portion_at_a_time() -> None:
    tally = LiveCounter()
    assert tally.portion() is None
    for size in (5, 4, 2):
        tally.note(IdBatch(np.arange(size)))
    first = tally.portion(most=6)
    assert [note.words.size for note in first.notes] == [5, 4] and tally.uncounted == 11
    tally.settle(first, CountResult(2, [70, 60]))
    tally.settle(first, CountResult(2, [70, 60]))  # whoever counted at the same time
    assert (tally.covered, tally.uncounted, sorted(tally.gone.values())) == (2, 2, [60, 70])
    last = tally.portion(most=6)
    assert [note.words.size for note in last.notes] == [2] and not tally.is_unknown
    tally.give_up(last)
    tally.settle(last, CountResult(2, []))
    assert tally.portion() is None and (tally.covered, tally.uncounted, tally.is_unknown) == (2, 0, True)
