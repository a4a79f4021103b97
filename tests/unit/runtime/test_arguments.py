"""Checks of arguments: the right ones pass as they are, the others are refused with words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pmkv.errors import InvalidError
from pmkv.runtime.arguments import (
    check_bytes,
    check_mapping,
    check_text,
    columns_of_pairs,
    encode_advice,
    place_of,
    whole_number,
)


@pytest.mark.parametrize("given", [3, np.int8(3), np.uint64(3)])
def test_integers_of_python_and_numpy_are_whole_numbers(given: Any) -> None:
    assert whole_number(given, "n") == 3 and type(whole_number(given, "n")) is int


@pytest.mark.parametrize("given", [True, np.True_, 3.0, "3", None, np.array(3), [3]])
def test_nothing_else_is_a_whole_number(given: Any) -> None:
    with pytest.raises(InvalidError, match="n must be an integer, not "):
        whole_number(given, "n")


def test_text_bytes_and_mappings_are_told_apart() -> None:
    check_text("a", "it"), check_bytes(b"a", "it"), check_mapping({}, "it must be a mapping")
    for check, wrong in ((check_text, b"a"), (check_bytes, "a"), (check_mapping, [("a", 1)])):
        with pytest.raises(InvalidError, match=r"^it.* not (bytes|str|list)"):
            check(wrong, "it")
    assert encode_advice(str) and not encode_advice(int)


def test_pairs_come_from_mappings_and_iterables() -> None:
    for items in ({b"a": 1, b"b": 2}, [(b"a", 1), (b"b", 2)], iter([[b"a", 1], [b"b", 2]])):
        assert columns_of_pairs(items) == ([b"a", b"b"], [1, 2])
    for items in (5, None, [b"a"], [1], [(1, 2, 3)]):
        with pytest.raises(InvalidError, match="items must be a mapping, or pairs"):
            columns_of_pairs(items)


def test_an_iterable_that_fails_fails_with_its_own_error() -> None:
    with pytest.raises(ZeroDivisionError):
        columns_of_pairs((key, 1 // 0) for key in [b"a"])


def test_places_are_paths_that_a_file_can_have() -> None:
    assert place_of("a/b", "it") == place_of(Path("a/b"), "it") == "a/b"
    for wrong in (1, None, b"a", "", "a\0b", "\ud800"):
        with pytest.raises(InvalidError, match=r"^it"):
            place_of(wrong, "it")
