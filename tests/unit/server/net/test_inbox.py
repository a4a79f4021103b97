"""Received bytes that wait to be served."""

from __future__ import annotations

from pmkv_server.net.inbox import Inbox


def filled(*chunks: bytes) -> Inbox:
    inbox = Inbox()
    inbox.chunks, inbox.size = list(chunks), sum(map(len, chunks))
    return inbox


def test_it_has_work_when_the_first_command_may_be_complete() -> None:
    inbox = filled(b"abc")
    assert inbox.has_work and not Inbox().has_work
    inbox.need = 4
    assert not inbox.has_work


def test_what_was_not_served_comes_first_again() -> None:
    inbox = filled(b"later")
    inbox.put_back(b"..first..", 2, 7)
    inbox.put_back(b"..", 1, 1)
    assert (inbox.size, inbox.take(), inbox.size, inbox.take()) == (10, [b"first", b"later"], 0, [])


def test_the_last_chunk_may_grow() -> None:
    inbox, data = filled(b"abc"), memoryview(b"defg")
    part = data[:2]
    inbox.chunks.append(part)
    inbox.size += len(part)
    assert inbox.is_last(part) and not inbox.is_last(data[:2]) and not Inbox().is_last(part)
    inbox.replace_last(data)
    assert (inbox.size, b"".join(inbox.take())) == (7, b"abcdefg")
    inbox.clear()
    assert inbox.size == 0
