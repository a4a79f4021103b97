"""Keys in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pmkv.index.key_order import KeyOrder, after_prefix


@given(st.sets(st.binary(max_size=4)), st.lists(st.binary(max_size=4)), st.binary(max_size=4), st.binary(max_size=4))
def test_chunks_are_slices_of_the_sorted_keys(first: set[bytes], later: list[bytes], low: bytes, high: bytes) -> None:
    order = KeyOrder(first)
    order.add(later)
    within = sorted(key for key in first | set(later) if low <= key < high)
    assert order.chunk(low, high, False, 3) == within[:3]
    assert order.chunk(low, high, True, 3) == within[::-1][:3]
    order.discard([*within[:1], b"never there"])
    assert order.chunk(low, high, False, 1000) == within[1:]
    order.check()


@given(st.binary(max_size=3), st.binary(max_size=4))
def test_after_prefix_bounds_exactly_what_begins_with_it(prefix: bytes, key: bytes) -> None:
    stop = after_prefix(prefix)
    assert key.startswith(prefix) == (key >= prefix and (stop is None or key < stop))
