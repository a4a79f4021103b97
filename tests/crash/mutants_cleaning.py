"""Mutants of the cleaner, of what keeps readers and crashes from what it frees, and of growing. `mutants` says what one
is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

from pmkv.index.run import RunInfo
from pmkv.log import segments as segments_module
from pmkv.log.appender import LogAppender
from pmkv.log.group_commit import GroupCommit
from pmkv.log.leases import ReadLeases
from pmkv.log.moving import MoveWriter
from pmkv.log.segments import Pool
from pmkv.maintenance import cleaning as cleaning_module
from pmkv.maintenance import compaction_policy
from pmkv.maintenance.committed import CommittedState
from pmkv.versions.layer import replaced
from pmkv.versions.manifest import Manifest
from tests.crash.mutants import MUTANTS, Patch, mutant

without, commit, grow = RunInfo.without, CommittedState.commit, GroupCommit.grow
others = set(MUTANTS)


@mutant("moved records are committed before they are durable")
def _() -> list[Patch]:
    return [(MoveWriter, "sync", lambda self: None)]


@mutant("emptied segments are freed before the manifest without them is committed")
def _() -> list[Patch]:
    def hasty(self: CommittedState, manifest: Manifest, *names: Any) -> None:
        pool, left = self.log.pool, {index for index, _ in manifest.end.segments}
        for index in {index for index, _ in self.manifest.end.segments} - left if self.manifest else ():
            pool.medium.discard(pool.start(index), pool.stop(index))
        commit(self, manifest, *names)

    return [(CommittedState, "commit", hasty)]


@mutant("emptied segments are used again while readers look at them")
def _() -> list[Patch]:
    def released(self: ReadLeases) -> tuple[int, ...]:
        gone, self.retired = tuple(self.retired), []
        self._waiting.clear()
        return gone

    return [(ReadLeases, "released", released)]


@mutant("segments are used again in their old generation")
def _() -> list[Patch]:
    def same(pool: Pool, some: Any) -> dict[int, int]:
        return {index: pool.generations[index] for index in some}

    return [(segments_module, "next_uses", same), (cleaning_module, "next_uses", same)]


@mutant("entries that point into emptied segments count on")
def _() -> list[Patch]:
    def trusting(self: RunInfo, segments: set[int]) -> RunInfo:
        return replace(without(self, segments), emptied=())

    return [(RunInfo, "without", trusting)]


@mutant("what was moved lies below the runs that named it before")
def _() -> list[Patch]:
    def below(runs: tuple[Any, ...], inputs: tuple[Any, ...], run: Any, kept: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        return replaced(runs, inputs, *((kept[0], (*kept[1:], run)) if kept and run is not None else (run, kept)))

    return [(compaction_policy, "replaced", below)]


@mutant("growing drops what was appended and not flushed")
def _() -> list[Patch]:
    def hasty(self: GroupCommit, capacity: int) -> None:
        with self.locks.append, self.locks.state:
            self.pool.grow(capacity)
            self.appender.map_medium()

    return [(GroupCommit, "grow", hasty)]


@mutant("after growing, appends go to the mapping of before")
def _() -> list[Patch]:
    def grown(self: GroupCommit, capacity: int) -> None:
        with patch.object(LogAppender, "map_medium", lambda _: None):
            grow(self, capacity)

    return [(GroupCommit, "grow", grown)]


@mutant("what growing has made durable is not known to be")
def _() -> list[Patch]:
    def hasty(self: GroupCommit, capacity: int) -> None:
        durable = self.durable
        grow(self, capacity)
        self.durable = durable

    return [(GroupCommit, "grow", hasty)]


CLEANING = set(MUTANTS) - others
