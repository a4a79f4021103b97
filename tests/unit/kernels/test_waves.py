"""Equal keys in a batch, against a dict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmkv.engine.byte_batch import join
from pmkv.kernels.probe import hash_keys
from pmkv.kernels.waves import number_keys

keys_of_few = st.lists(
    st.tuples(st.sampled_from([b"", b"a", b"b", b"12345678", b"123456789", b"123456780", b"\0"]), st.booleans()),
    max_size=40,
)
SEED = np.uint64(1), np.uint64(2)


def numbered(keys: list[bytes], reads: list[bool]) -> tuple[list[int], list[bytes], int]:
    """The number of each key, those that are read, and how many there are; hashes are checked."""
    blob, bounds = join(keys)
    words, read_words, expected = (np.empty(len(keys), np.uint64) for _ in range(3))
    numbers, firsts = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    read_bounds, table = np.empty((len(keys), 2), np.int64), np.zeros(1 << (2 * len(keys)).bit_length(), np.int64)
    arrays = np.array(reads, bool), words, table, numbers, firsts, read_words, read_bounds
    read, count = number_keys(blob, bounds, *SEED, *arrays)
    hash_keys(blob, bounds, *SEED, expected)
    assert words.tolist() == expected.tolist()
    hash_keys(blob, read_bounds[:read], *SEED, expected[:read])
    assert read_words[:read].tolist() == expected[:read].tolist()
    return numbers.tolist(), [blob[start:stop].tobytes() for start, stop in read_bounds[:read].tolist()], count


@given(keys_of_few)
def test_equal_keys_have_one_number_and_those_that_are_read_the_first(asked: list[tuple[bytes, bool]]) -> None:
    keys, reads = [key for key, _ in asked], [is_read for _, is_read in asked]
    read = list(dict.fromkeys(key for key, is_read in asked if is_read))
    order = list(dict.fromkeys([*read, *keys]))
    assert numbered(keys, reads) == ([order.index(key) for key in keys], read, len(order))


@pytest.mark.parametrize("count", [1, 2, 600])
def test_many_different_keys(count: int) -> None:
    keys = [b"%d" % i for i in range(count)]
    assert numbered(keys, [True] * count) == (list(range(count)), keys, count)
