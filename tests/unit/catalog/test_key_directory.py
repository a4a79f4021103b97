"""The directory of keys: entries, their order, and batches of them."""

from __future__ import annotations

import random

import pytest

from pmkv.catalog.key_directory import CHUNK, LONG_ENTRY_BYTES, Batch, entry, span
from pmkv.errors import InvalidError
from pmkv.runtime.scheduling import GilYielder


def test_an_entry_fits_and_no_two_short_keys_share_one() -> None:
    keys = [b"", b"\0", b"k" * 500, b"k" * 501, b"k" * 65536]
    assert [len(entry(7, key, 1)) for key in keys] == [1, 2, 501, LONG_ENTRY_BYTES, LONG_ENTRY_BYTES]
    assert entry(7, b"k" * 501, 1) != entry(7, b"k" * 501, 2)


def test_a_keyspace_ends_where_the_next_begins() -> None:
    first, stop = span(3, b"", None)
    assert first <= entry(3, b"", 0) < entry(3, b"\xff" * 700, 2**64 - 1) < stop <= entry(4, b"", 0)


@pytest.mark.parametrize("keyspace", [-1, 255])
def test_a_keyspace_beyond_the_directory_is_refused(keyspace: int) -> None:
    with pytest.raises(InvalidError, match=f"keyspace {keyspace}"):
        entry(keyspace, b"k", 0)


@pytest.mark.parametrize("count", [0, 1, CHUNK, CHUNK * 5 + 3])
def test_a_batch_gives_every_entry_sorted_by_what_follows_their_common_beginning(count: int) -> None:
    keys = [b"a common beginning:%08d" % one for one in range(count)]
    shuffled = random.Random(1).sample(keys, count)
    batch = Batch(((0, key, 0) for key in shuffled), GilYielder())
    for _ in range(2):
        assert [one for chunk in batch for one in chunk] == [entry(0, key, 0) for key in keys]
    batch.free()
    assert list(batch) == []
