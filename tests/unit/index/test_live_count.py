"""The live counter: new keys are recorded, and counted once, a batch at a time."""

from __future__ import annotations

import numpy as np

from pmkv.index.live_count import CountResult, LiveCounter
from pmkv.index.lookup_batch import IdBatch


def test_results_are_applied_once_a_batch_at_a_time() -> None:
    counter = LiveCounter()
    assert counter.next_batch() is None
    for size in (5, 4, 2):
        counter.record(IdBatch(np.arange(size)))
    first = counter.next_batch(most=6)
    assert [note.key64s.size for note in first.batches] == [5, 4] and counter.uncounted == 11
    counter.apply(first, CountResult(2, [70, 60]))
    counter.apply(first, CountResult(2, [70, 60]))  # whoever counted at the same time
    assert (counter.covered, counter.uncounted, sorted(counter.gone.values())) == (2, 2, [60, 70])
    last = counter.next_batch(most=6)
    assert [note.key64s.size for note in last.batches] == [2] and not counter.is_unknown
    counter.give_up(last)
    counter.apply(last, CountResult(2, []))
    assert counter.next_batch() is None and (counter.covered, counter.uncounted, counter.is_unknown) == (2, 0, True)
