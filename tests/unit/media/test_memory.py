"""What is particular to DRAM: it takes memory only where it is used, and says when there is none."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.errors import FullError
from pmkv.media.base import Granularity
from pmkv.media.memory import MemoryMedium


def test_a_pool_larger_than_memory_costs_nothing_until_it_is_used() -> None:
    medium = MemoryMedium(1 << 36)
    medium.data[1 << 35] = 7
    assert medium.data.size == 1 << 36 and medium.data[1 << 35] == 7
    assert medium.inline and medium.granularity is Granularity.BYTE


def test_no_memory_is_told_as_no_room() -> None:
    with pytest.raises(FullError, match="not to be had"):
        MemoryMedium(1 << 60)


def test_old_arrays_outlive_growing() -> None:
    medium = MemoryMedium(1 << 20)
    medium.data[:8] = np.arange(8)
    old = medium.data
    medium.grow(2 << 20)
    assert old[:8].tolist() == medium.data[:8].tolist() == list(range(8))
