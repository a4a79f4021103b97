"""Keys and values on their way in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmkv.engine import byte_batch
from pmkv.engine.byte_batch import BytesArray, as_values, check_keys, join, merge_sorted
from pmkv.errors import InvalidError
from pmkv.log.format import MAX_KEY

KEYS = st.lists(st.binary(max_size=2), max_size=12).map(lambda keys: sorted(set(keys)))


@given(st.lists(st.binary(max_size=9)))
def test_joined_and_cut_again(items: list[bytes]) -> None:
    blob, bounds = join(items)
    assert [blob[a:b].tobytes() for a, b in bounds.tolist()] == items and bounds.dtype == np.int64


@pytest.mark.parametrize(("keys", "message"), [
    ([b"a", "b"], "a key must be bytes, not str"),
    ([bytes(MAX_KEY + 1)], "a key of 65,537 bytes is too long: at most 65,536"),
])  # fmt: skip
def test_what_is_no_key(keys: list, message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        check_keys(keys)


def test_whatever_holds_bytes_is_a_value() -> None:
    assert as_values([bytearray(b"a"), memoryview(b"b"), np.arange(2, dtype="u1"), b"c"])[0] == [
        b"a",
        b"b",
        b"\0\1",
        b"c",
    ]
    with pytest.raises(InvalidError, match="a value must be bytes, not int"):
        as_values([1])


@given(KEYS, KEYS, st.integers(1, 5), st.booleans())
def test_two_orders_as_one(some: list[bytes], others: list[bytes], count: int, reverse: bool) -> None:
    """Each shows `count` keys at most; what is behind the end of one that is cut may be missing in it."""
    shown = [sorted(keys, reverse=reverse)[:count] for keys in (some, others)]
    merged = merge_sorted(*shown, reverse, count)
    assert merged == sorted({*some, *others}, reverse=reverse)[: len(merged)]
    assert len(merged) >= min(count, len({*some, *others}))


def test_spans_are_a_sequence_that_was_never_cut() -> None:
    spans = BytesArray(np.frombuffer(b"abcdef", np.uint8), np.array([[0, 2], [-1, -1], [2, 2], [1, 6]]))
    assert (len(spans), list(spans)) == (4, [b"ab", None, b"", b"bcdef"])
    assert (spans[0], spans[1], spans[-1], list(spans[2:])) == (b"ab", None, b"bcdef", [b"", b"bcdef"])
    assert (spans[:2].absent, spans[2:].absent) == (1, 0)
    blob, bounds = join(spans)
    assert (blob is spans.blob, bounds is spans.bounds) == (True, True)


def test_spans_are_checked_like_others() -> None:
    blob = np.zeros(MAX_KEY + 1, np.uint8)
    check_keys(BytesArray(blob, np.array([[0, MAX_KEY]])))
    with pytest.raises(InvalidError, match="a key of 65,537 bytes is too long"):
        check_keys(BytesArray(blob, np.array([[0, 1], [0, MAX_KEY + 1]])))
    values = BytesArray(blob, np.array([[0, MAX_KEY + 1]]))
    assert as_values(values)[0] is values


@pytest.mark.parametrize("length", [9, 10, 11])
def test_values_above_a_limit_are_told(length: int) -> None:
    array = BytesArray(np.zeros(2 * length, np.uint8), np.array([[0, 1], [0, length], [-1, -1]]), 1)
    for values in (array, [b"", bytes(length)]):
        assert as_values(values, 10)[1] == (length > 10)
    assert not as_values([], 10)[1]


def test_many_items_are_joined_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_batch, "STEP_ITEMS", 3)
    items = [b"%d" % (i * i) for i in range(8)]
    blob, bounds = join(items)
    assert (
        blob.tobytes() == b"0149162536" + b"49" and [len(one) for one in BytesArray(blob, bounds)] == [1] * 4 + [2] * 4
    )
    assert list(BytesArray(blob, bounds)) == items
    with pytest.raises(InvalidError, match="a key must be bytes, not str"):
        check_keys([*items, "text"])
