"""Mutants of what makes an interrupted write harmless; interrupted histories must notice each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pmkv.engine.recovery import Replayer
from pmkv.log.appender import LogAppender
from pmkv.log.atomic_writes import AtomicWrites
from pmkv.log.durability import DurabilityGate, DurabilityWait
from pmkv.log.segments import Pool
from pmkv.maintenance.committed import CommittedState

Patch = tuple[Any, str, Any]
INTERRUPT: dict[str, Callable[[], list[Patch]]] = {}


def mutant(name: str) -> Callable[[Callable[[], list[Patch]]], Callable[[], list[Patch]]]:
    def register(make: Callable[[], list[Patch]]) -> Callable[[], list[Patch]]:
        INTERRUPT[name] = make
        return make

    return register


def leave_it(self: AtomicWrites, *_: Any) -> None:
    self._access.interrupted = False
    self._appender.finish_batch()
    self._appender.commit()


@mutant("an exception leaves what was appended before it")
def _() -> list[Patch]:
    return [(AtomicWrites, "_take_back", leave_it)]


@mutant("an interrupted write stays in memory")
def _() -> list[Patch]:
    return [(Replayer, "go_back", lambda self, last: None)]


@mutant("an interrupted write stays in the log")
def _() -> list[Patch]:
    def forget(self: LogAppender) -> None:
        if self._filling:
            self.position = self.committed.position
        self._filling = False
        self.finish_batch()

    return [(LogAppender, "cut", forget)]


@mutant("the LSNs of an interrupted write are given out again")
def _() -> list[Patch]:
    def same(self: LogAppender) -> None:
        self.lsn = self.committed.lsn

    return [(LogAppender, "begin_epoch", same)]


@mutant("an abort that was interrupted itself is not finished")
def _() -> list[Patch]:
    def forget(self: AtomicWrites) -> None:
        if not self._is_taking_back:
            self._access.interrupted = False

    return [(AtomicWrites, "_finish_abort", forget)]


@mutant("the segments of an interrupted write are not given back")
def _() -> list[Patch]:
    return [(Pool, "give_back", lambda self, kept: None)]


@mutant("an exception leaves the waits of a thread put off")
def _() -> list[Patch]:
    def deferring(self: DurabilityGate, body: Callable[[], Any], min_lsn: int = 0) -> tuple[Any, int]:
        outer = self.thread.durability_wait
        self.thread.durability_wait = inner = DurabilityWait(max(self.thread.min_lsn, min_lsn))
        result = body()
        self.thread.durability_wait = outer
        return result, inner.lsn

    return [(DurabilityGate, "deferring", deferring)]


@mutant("a checkpoint that is interrupted while memory follows it goes on with half of it")
def _() -> list[Patch]:
    return [(AtomicWrites, "change_memory", lambda self, body: body())]


@mutant("memory that was rebuilt beside a checkpoint stays on the manifest before")
def _() -> list[Patch]:
    def adopt(self: CommittedState, change: Callable[[], None], _: object) -> None:
        change()
        self.is_ahead = False

    return [(CommittedState, "_adopt", adopt)]


@mutant("an exception between a commit and memory is forgotten")
def _() -> list[Patch]:
    commit = CommittedState.commit

    def forgetting(self: CommittedState, *how: Any) -> None:
        commit(self, *how)
        self.is_ahead = False

    return [(CommittedState, "commit", forgetting)]
