"""Arguments of pooled reads: bags, weights, and the dtype of the result."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.engine.engine import Engine
from pmkv.engine.pooling import bag_starts, bags_of, pooled_dtype
from pmkv.errors import InvalidError
from tests.engines import small_engine


@pytest.fixture
def engine() -> Engine:
    return small_engine(segments=32)


def test_bags_hold_what_a_kernel_takes(engine: Engine) -> None:
    table = engine.create_table("t", ("f2", (2, 3)))
    bags = bags_of(table, [1, 2, 3], [0, 2], [1, 2, 3], "sum")
    assert bags.ids.tolist() == [1, 2, 3] and bags.starts.tolist() == [0, 2] and bags.elements == 6
    assert bags.weights.dtype == bags.real == np.float32 and bags.zeros().shape == (2, 6)
    assert bags_of(table, [], [], None, "max").zeros().shape == (0, 6)


@pytest.mark.parametrize("dtype, real", [("f2", "f4"), ("f4", "f4"), ("f8", "f8"), ("i1", "f8"), ("?", "f8")])
def test_the_dtype_of_a_result(engine: Engine, dtype: str, real: str) -> None:
    assert pooled_dtype(engine.create_table("t", dtype), "sum") == np.dtype(real)


@pytest.mark.parametrize("offsets", [[1], [0, 4], [0, 2, 1], [[0]], [0.0], []])
def test_offsets_that_are_no_bags(offsets: list) -> None:
    with pytest.raises(InvalidError, match="offsets"):
        bag_starts(offsets, np.arange(3))


@pytest.mark.parametrize(
    "how, why",
    [
        (([[1, 2]], [0], None, "sum"), "one dimension"),
        (([1, 2], [0], [1.0], "sum"), "weights must be 2 numbers"),
        (([1, 2], [0], ["a", "b"], "sum"), "weights must be 2 numbers"),
        (([1, 2], [0], [1.0, 2.0], "mean"), "weights go with mode='sum' only"),
        (([1, 2], [0], None, "median"), "choose one of sum, mean, max"),
    ],
)
def test_what_does_not_fit_is_refused(engine: Engine, how: tuple, why: str) -> None:
    table = engine.create_table("t", "f4")
    with pytest.raises(InvalidError, match=why):
        bags_of(table, *how)


def test_rows_that_are_no_numbers_are_refused(engine: Engine) -> None:
    with pytest.raises(InvalidError, match="only numbers can be pooled"):
        bags_of(engine.create_table("t", "S4"), [1], [0], None, "sum")
