"""Equal keys in a batch, against a dict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmkv.engine.byte_batch import join
from pmkv.kernels.waves import number_keys

keys_of_few = st.lists(st.sampled_from([b"", b"a", b"b", b"12345678", b"123456789", b"123456780", b"\0"]), max_size=40)


def numbered(keys: list[bytes], words: np.ndarray) -> tuple[list[int], list[int]]:
    blob, bounds = join(keys)
    numbers, firsts = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    table = np.zeros(1 << (2 * len(keys)).bit_length(), np.int64)
    count = number_keys(blob, bounds, words, table, numbers, firsts)
    return numbers.tolist(), firsts[:count].tolist()


@given(keys_of_few, st.sampled_from([1, 3, 1 << 64]))
def test_equal_keys_have_one_number(keys: list[bytes], hashes: int) -> None:
    """Few different hashes: the keys themselves are compared."""
    words = np.array([hash(key) % hashes for key in keys], np.uint64)
    order = list(dict.fromkeys(keys))
    assert numbered(keys, words) == ([order.index(key) for key in keys], [keys.index(key) for key in order])


@pytest.mark.parametrize("count", [1, 2, 600])
def test_many_different_keys(count: int) -> None:
    keys = [b"%d" % i for i in range(count)]
    assert numbered(keys, np.arange(count, dtype=np.uint64)) == (list(range(count)), list(range(count)))
