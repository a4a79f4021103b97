"""Received bytes that wait to be served."""

from __future__ import annotations

import pytest

from pmkv_server.net import inbox as module
from pmkv_server.net.inbox import Inbox


def filled(*chunks: bytes) -> Inbox:
    inbox = Inbox()
    for chunk in chunks:
        inbox.add(chunk)
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
    inbox.add(part)
    assert inbox.is_last(part) and not inbox.is_last(data[:2]) and not Inbox().is_last(part)
    inbox.replace_last(data)
    assert (inbox.size, b"".join(inbox.take())) == (7, b"abcdefg")
    inbox.clear()
    assert inbox.size == 0


def test_a_long_inbox_is_taken_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_BYTES", 4)
    inbox = filled(b"abc", b"defgh", b"i")
    assert inbox.window == 4
    assert [bytes(chunk) for chunk in inbox.take(inbox.window)] == [b"abc", b"d"]
    inbox.need = 3
    assert inbox.window == 5, "all that there is"
    inbox.need = 1
    assert [bytes(chunk) for chunk in inbox.take(4)] == [b"efgh"]
    assert (inbox.take(4), inbox.size) == ([b"i"], 0)


def test_much_is_put_back_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COPIED_BYTES", 3)
    inbox = filled()
    inbox.put_back(b"0123456", 1, 6)
    (chunk,) = inbox.take()
    assert isinstance(chunk, memoryview) and chunk == b"12345"


def test_the_window_follows_what_a_tick_has_time_for() -> None:
    inbox = filled(bytes(2 << 20))
    assert inbox.window == 1 << 20
    inbox.learn(100_000, is_all=False)
    assert inbox.window == 200_000
    inbox.learn(0, is_all=True)
    assert inbox.window == 400_000
    inbox.learn(10, is_all=False)
    assert inbox.window == 16 << 10
