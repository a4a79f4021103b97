"""Replies that leave in order, none before it is durable."""

from __future__ import annotations

from pmkv_server.net.outbox import Outbox


def outbox(*ticks: tuple[bytes, int]) -> Outbox:
    """Return one with held replies of these ticks."""
    made = Outbox()
    for data, lsn in ticks:
        made.add(data, 1, lsn)
        assert made.end_tick(0) == ([], 0)
    return made


def test_what_depends_on_nothing_leaves_with_its_tick() -> None:
    made = Outbox()
    made.add(b"+OK\r\n", 1, 0)
    made.add([b"$1\r\n", memoryview(b"a"), b"\r\n"], 1, 7)
    assert (made.count, made.size, made.newest_lsn) == (2, 12, 7)
    assert made.end_tick(7) == ([b"+OK\r\n", b"$1\r\n", b"a", b"\r\n"], 12)
    assert (made.buffers, made.size, made.count, made.lsn, made.newest_lsn) == ([], 0, 0, 0, 7)


def test_replies_are_held_and_taken_in_order() -> None:
    made = outbox((b"1", 10), (b"2", 0), (b"3", 20))
    assert made.held_size == 3
    assert made.take_durable(9, None) == ([], 0)
    assert made.take_durable(10, None) == ([b"1", b"2"], 2)
    assert made.take_durable(20, None) == ([b"3"], 1)
    assert (made.held_size, len(made.held)) == (0, 0)


def test_a_failed_flush_gives_each_reply_an_error() -> None:
    made = outbox((b"1", 10))
    made.add(b"23", 2, 20)
    made.end_tick(0)
    assert made.take_durable(10, b"-E") == ([b"1", b"-E-E"], 3)


def test_what_is_discarded_is_gone() -> None:
    made = outbox((b"1", 10))
    made.add(b"2", 1, 0)
    made.discard_tick()
    assert (made.buffers, made.size, made.count, made.held_size) == ([], 0, 0, 1)
    made.discard_held()
    assert made.take_durable(99, None) == ([], 0)
