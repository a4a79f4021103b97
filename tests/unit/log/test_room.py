"""Writes that find the pool full: how often they are tried, and when they give up."""

from __future__ import annotations

import pytest

from pmkv.errors import FullError, InvalidError
from pmkv.log import room
from pmkv.log.appender import LogHooks
from pmkv.log.room import with_room


class FakeLog:
    """A log whose cleaner makes room after so many moments; None: it never does."""

    def __init__(self, moments: int | None = 2, may_await_space: bool = True) -> None:
        self.moments, self.may_await_space, self.asked = moments, may_await_space, list[bool]()
        self.caller_holds_lock, self.hooks = False, LogHooks(what_pins_most=lambda: ". A view pins most")

    def await_space(self, frees: bool) -> bool:
        self.asked.append(frees)
        return self.moments is not None

    def write(self) -> str:
        if self.moments is None or len(self.asked) < self.moments:
            raise FullError("full")
        return "written"


@pytest.mark.parametrize("frees", [False, True])
def test_a_write_is_tried_again_until_there_is_room(frees: bool) -> None:
    log = FakeLog(moments=2)
    assert with_room(log, log.write, frees) == "written" and log.asked == [frees, frees]


def test_a_write_that_finds_room_waits_for_nothing() -> None:
    log = FakeLog(moments=0)
    assert with_room(log, log.write) == "written" and log.asked == []


def test_without_hope_a_write_is_refused_at_once() -> None:
    log = FakeLog(moments=None)
    with pytest.raises(FullError, match=r"^full\. A view pins most$"):
        with_room(log, log.write)
    assert log.asked == [False]


@pytest.mark.parametrize("holds_lock", [False, True])
def test_who_holds_a_lock_or_has_put_its_waits_off_does_not_wait(holds_lock: bool) -> None:
    log = FakeLog(may_await_space=False)
    log.caller_holds_lock = holds_lock
    with pytest.raises(FullError, match="^full$" if holds_lock else "pins most$"):
        with_room(log, log.write)
    assert log.asked == []


def test_after_a_while_a_write_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "FULL_WAIT_S", -1.0)
    log = FakeLog(moments=5)
    with pytest.raises(FullError):
        with_room(log, log.write)
    assert log.asked == []


def test_other_errors_are_not_waited_for() -> None:
    def write() -> None:
        raise InvalidError("wrong")

    with pytest.raises(InvalidError):
        with_room(FakeLog(), write)
