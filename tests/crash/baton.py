"""Threads of which exactly one runs at any time: whoever holds the baton, which a scheduler hands out.

An *actor* is a real thread running real code. It stops only where it calls `pause` (the locks and queues here do), and
goes on when the scheduler says so: what threads do between two pauses is one step, and a schedule is a list of steps.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

PATIENCE = 30  # seconds of a real clock that a step may take: longer is a deadlock


class Abandoned(BaseException):
    """The schedule is over: let go of everything."""


def taken() -> threading.Lock:
    """A lock that somebody else will release: the fastest signal from thread to thread."""
    lock = threading.Lock()
    lock.acquire()
    return lock


class Actor:
    """One thread. `ready` says whether what it waits for is there; `may_time_out`: it does not wait for ever."""

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        self.name, self.work = name, work
        self.go = taken()
        self.ready: Callable[[], bool] = lambda: True
        self.may_time_out = self.timed_out = self.is_done = False
        self.error: BaseException | None = None
        self.thread: threading.Thread | None = None

    def can_go(self) -> bool:
        return not self.is_done and self.ready()


class Baton:
    """The scheduler's side is `actors` and `step`, the actors' side `pause`."""

    def __init__(self) -> None:
        self.actors: list[Actor] = []
        self.actor: Actor | None = None  # who runs; None: the scheduler
        self._back = taken()
        self._abandoned = False

    def spawn(self, name: str, work: Callable[[], object]) -> Actor:
        """A new actor, which waits for its first step."""
        actor = Actor(name, work)
        actor.thread = threading.Thread(target=self._run, args=(actor,), daemon=True)
        self.actors.append(actor)
        actor.thread.start()
        return actor

    def _run(self, actor: Actor) -> None:
        actor.go.acquire()
        try:
            if not self._abandoned:
                actor.work()
        except BaseException as error:
            actor.error = error
        actor.is_done = True
        self._back.release()

    def step(self, actor: Actor, timed_out: bool = False) -> None:
        """Let it run to its next pause, or its end. Raises what it raised."""
        actor.timed_out = timed_out
        self.actor = actor
        actor.go.release()
        assert self._back.acquire(timeout=PATIENCE), f"{actor.name} waits for what nobody will do: a deadlock"
        self.actor = None
        if actor.is_done:
            self.actors.remove(actor)
        if actor.error is not None and not self._abandoned:
            raise actor.error

    def pause(self, ready: Callable[[], bool] = lambda: True, may_time_out: bool = False) -> bool:
        """Let others run; go on once `ready`, and then give True, or (where that may be) before, and give False."""
        actor = self.actor
        if actor is None:
            assert ready(), "what is called while nothing else runs would wait for ever"
            return True
        if self._abandoned:  # on its way out already
            raise Abandoned
        actor.ready, actor.may_time_out = ready, may_time_out
        self._back.release()
        actor.go.acquire()
        if self._abandoned:
            raise Abandoned
        actor.ready, actor.may_time_out = lambda: True, False
        return not actor.timed_out

    def abandon(self) -> None:
        """End all actors where they are."""
        self._abandoned = True
        for actor in list(self.actors):
            self.step(actor)


class BatonLock:
    """A lock whose taking is a step."""

    def __init__(self, baton: Baton) -> None:
        self._baton, self._held = baton, False
        self.owner: Actor | None = None

    def is_mine(self) -> bool:
        """Does the actor that runs hold it?"""
        return self._held and self.owner is self._baton.actor is not None

    def __enter__(self) -> None:
        self._baton.pause(lambda: not self._held)
        self._held, self.owner = True, self._baton.actor

    def __exit__(self, *_: object) -> None:
        self._held, self.owner = False, None

    def acquire(self, blocking: bool = True) -> bool:
        """As of a lock; without waiting, False if somebody holds it."""
        if not blocking and self._held:
            return False
        self.__enter__()
        return True

    def release(self) -> None:
        self.__exit__()


class BatonRLock(BatonLock):
    """The same for whoever has it already."""

    def __init__(self, baton: Baton) -> None:
        super().__init__(baton)
        self._depth = 0

    @property
    def is_held(self) -> bool:
        return self._held and self.owner is self._baton.actor

    def assert_held(self) -> None:
        assert self.is_held

    def __enter__(self) -> None:
        if not self.is_held:
            super().__enter__()
        self._depth += 1

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if not self._depth:
            super().__exit__(*error)

    def acquire(self, blocking: bool = True) -> bool:
        """As of a lock; without waiting, False if another actor holds it."""
        if not blocking and self._held and not self.is_held:
            return False
        self.__enter__()
        return True

    def release(self) -> None:
        self.__exit__()


class BatonQueue:
    """Stands for a SimpleQueue; taking from it is a step, and waiting in vain for a while another one."""

    def __init__(self, baton: Baton) -> None:
        self._baton = baton
        self._items: deque[Any] = deque()

    def put(self, item: Any) -> None:
        self._items.append(item)

    def get(self, timeout: float | None = None) -> Any:
        if not self._baton.pause(lambda: bool(self._items), timeout is not None):
            raise queue.Empty
        return self._items.popleft()
