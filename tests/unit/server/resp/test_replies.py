"""Replies in one array: the bulk strings that `resp.bulk` would make one by one, and how they are dealt out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmkv import BytesArray
from pmkv.engine.byte_batch import join
from pmkv_server.resp.replies import Replies
from pmkv_server.resp.scan import NULL, bulk


def spans_of(values: list[bytes | None]) -> BytesArray:
    blob, bounds = join([value or b"" for value in values])
    bounds[[value is None for value in values]] = -1
    return BytesArray(blob, bounds)


@given(st.lists(st.one_of(st.none(), st.binary(max_size=120)), min_size=1, max_size=20))
def test_bulk_strings_are_those_of_the_plain_encoder(values: list[bytes | None]) -> None:
    wanted = [NULL[2] if value is None else bulk(value) for value in values]
    replies = Replies.bulks(spans_of(values))
    assert replies.data.tobytes() == b"".join(wanted)
    assert replies.sizes.tolist() == list(map(len, wanted))


@pytest.mark.parametrize("length", [0, 9, 10, 99, 100, 999, 1000, 65_535, 1_000_000])
def test_lengths_of_every_number_of_digits(length: int) -> None:
    assert Replies.bulks(spans_of([bytes(length)])).data.tobytes() == bulk(bytes(length))


@given(st.lists(st.binary(max_size=5), max_size=6))
def test_replies_that_are_bytes(owned: list[bytes]) -> None:
    replies = Replies.of(owned)
    assert (replies.data.tobytes() or b"\0", replies.sizes.tolist()) == (
        b"".join(owned) or b"\0",
        list(map(len, owned)),
    )
