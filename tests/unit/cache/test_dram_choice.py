"""How much DRAM rows may count on, as people write it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pmkv.cache.dram_choice import dram_choice, reserved_bytes
from pmkv.errors import InvalidError


@pytest.mark.parametrize(
    "written, choice",
    [
        (None, None), ("none", None), ("ALL", "all"), (4096, 4096), ("4096", 4096), ("64MiB", 64 << 20),
        (0.25, 0.25), ("0.25", 0.25), ("25%", 0.25), (1.0, 1.0), (np.int64(7), 7), (np.float32(0.5), 0.5),
        ("1.5MiB", 3 << 19), (".5", 0.5),
    ],
)  # fmt: skip
def test_what_is_written(written: Any, choice: Any) -> None:
    assert dram_choice(written) == choice and type(dram_choice(written)) is type(choice)


@pytest.mark.parametrize(
    "written", ["", "some", 0, -1, 0.0, 1.5, "150%", "0%", True, [1], 1 << 63, float("nan"), b"all"]
)
def test_what_means_nothing(written: Any) -> None:
    with pytest.raises(InvalidError, match="give 'all', bytes such as"):
        dram_choice(written)


def test_what_a_choice_reserves() -> None:
    assert [reserved_bytes(one, 1000, 300) for one in (None, "all", 50, 0.5, 5000)] == [0, 300, 50, 500, 1000]
