"""What is looked for, in batches."""

from __future__ import annotations

import numpy as np

from pmkv.versions.wanted import LOOKED_UP, Ids, portions


def test_what_is_looked_up_at_once_is_bounded() -> None:
    sizes = [LOOKED_UP - 1, 5, 7, 2 * LOOKED_UP, 1]
    noted = [Ids(np.empty(size, np.int64)) for size in sizes]
    found = list(portions(noted))
    assert [[one.words.size for one in some] for some in found] == [sizes[:2], sizes[2:4], sizes[4:]]
    assert list(portions([])) == []
