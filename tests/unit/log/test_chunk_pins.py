"""Which segments stay because of chunks that no run lists yet."""

from __future__ import annotations

from types import SimpleNamespace

from pmkv.log.chunk_pins import ChunkPins


def pins(*taken: int) -> ChunkPins:
    return ChunkPins(SimpleNamespace(taken=list(taken)))  # type: ignore[arg-type]


def test_a_value_being_written_pins_the_log_from_its_beginning_on() -> None:
    one = pins(4, 2)
    with one.writing():
        one._pool.taken += [7]
        with one.writing():
            assert one.pinned == {2, 7}
        assert one.pinned == {2, 7}
    assert one.pinned == set()


def test_what_was_being_written_at_a_checkpoint_stays_pinned_until_the_next_one() -> None:
    one = pins(4)
    with one.writing():
        kept = one.freeze()
        one._pool.taken += [5]
    one.committed(kept)
    assert one.pinned == {4}, "the record came after the checkpoint"
    one.committed(one.freeze())
    assert one.pinned == set()


def test_a_copied_list_pins_its_chunks_until_a_checkpoint_of_after_is_committed() -> None:
    one = pins(1, 2, 3)
    one.name([1])
    first = one.freeze()
    one.name([2])
    assert one.pinned == {1, 2}
    one.committed(first)
    assert one.pinned == {2}
    one.freeze()  # this one fails
    assert one.pinned == {2}
