"""Waves: commands of many connections on one keyspace that are carried out together.

A wave has, in each connection's order, the commands up to the first that is not for waves (`commands.actions` has what
is), and connections one after the other: they are concurrent, so any order between them is legal. It is planned
(`wave_plan`); all its keys are looked up in one call; it is carried out in one (`wave_effects`); and what it writes is
appended as one batch. What raises on the way has written nothing, and leaves the commands to their functions.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pmkv import BytesArray, WaveFound, WaveRecords, run_wave
from pmkv_server.commands import COMMANDS, execution
from pmkv_server.commands.registry import Command
from pmkv_server.dispatch.gathered_rows import NAMES
from pmkv_server.dispatch.wave_effects import (
    CARRIED_OUT,
    CURSOR_PLACES,
    HITS,
    MISSES,
    OWNER_COLUMNS,
    PROTOCOL,
    PUTS,
    REPLIES,
    ROOM,
    STATE_COLUMNS,
    carry_out_wave,
)  # fmt: skip
from pmkv_server.dispatch.wave_plan import ARGUMENT, ARGUMENTS, MOST_BYTES, ONLY_BLIND, PLAN_COLUMNS, plan_wave
from pmkv_server.resp.scan import Scan, name_table

if TYPE_CHECKING:
    from pmkv_server.server import Server

MOST_COMMANDS = 2048  # of one wave
MOST_KEYS = 8192
SPACE_BYTES = 8 << 20  # half of it for replies, half for values
_NO_NUMBERS, _NO_ROWS = np.empty(0, np.int64), np.empty((0, 4), np.int64)


def is_enabled() -> bool:
    """Return whether the environment leaves waves on."""
    return os.environ.get("PMKV_WAVES") != "off"


def entries_of_waves() -> list[Command]:
    """Return the commands that have an action; their numbers in scans are their places, from 1 on."""
    return [entry for entry in COMMANDS.values() if entry.action is not None] if is_enabled() else []


def specs_of(entries: Sequence[Command]) -> np.ndarray:
    """Return what plans ask of each command: its action, the parameter, its first and last key and the step, and
    whether it writes. Row 0 stands for none."""
    rows = [(*entry.action, *entry.keys, entry.writes) for entry in entries if entry.action is not None]
    return np.array([(0,) * 6, *rows], np.int64)


class Plan(NamedTuple):
    """The commands of a wave, as `plan_wave` has made them. counts: of each connection.

    It is valid until the next one is made; `kept` gives one that stays."""

    blob: np.ndarray
    bounds: np.ndarray
    commands: np.ndarray
    keys: BytesArray
    reads: np.ndarray
    may_write: bool
    counts: list[int]

    def kept(self) -> Plan:
        commands, keys = self.commands.copy(), BytesArray(self.blob, self.keys.bounds.copy())
        return self._replace(bounds=self.bounds.copy(), commands=commands, keys=keys, reads=self.reads.copy())

    def words(self, number: int) -> list[bytes]:
        """Return the arguments of the command of this number."""
        first, count = self.commands[number, [ARGUMENT, ARGUMENTS]].tolist()
        return list(BytesArray(self.blob, self.bounds[first : first + count]))


class Share(NamedTuple):
    """The result of a wave for one connection.

    done: how many were carried out. start, stop: where their replies are. lsn: on which these depend. has_left: the
    next command is to be run by its function. last: the name of the last one."""

    done: int
    start: int
    stop: int
    lsn: int
    has_left: bool
    last: str


class Outcome(NamedTuple):
    """The result of a wave.

    replies: all, one after the other, valid until the next wave. owners: a row for each connection, with the columns
    of `wave_effects`. read, written: LSNs on which replies depend. commands: how many were carried out. wrote: it may
    have written. names: of commands by their numbers."""

    replies: np.ndarray
    owners: np.ndarray
    read: int
    written: int
    commands: int
    wrote: bool
    names: list[str]

    def shares(self) -> list[Share]:
        """Return what became of each connection's commands."""
        shares, stop = [], 0
        for _, _, done, size, depends, has_left, last in self.owners.tolist():
            start, stop = stop, stop + size
            lsn = self.written if depends else self.read
            shares.append(Share(done, start, stop, lsn, bool(has_left), self.names[last]))
        return shares


class Buffers:
    """The arrays that waves of one thread fill. They are kept, as fresh pages cost a fault each."""

    def __init__(self, commands: int) -> None:
        self.space = np.empty(SPACE_BYTES, np.uint8)
        self.cursor, self.calls = np.zeros(CURSOR_PLACES, np.int64), np.zeros(commands + 1, np.int64)
        self.keys, self.places = np.empty(MOST_KEYS, np.int64), np.empty((MOST_KEYS, 2), np.int64)
        self.expiries, self.kinds = np.empty(MOST_KEYS, np.int64), np.empty(MOST_KEYS, np.int64)
        self.state = np.empty((MOST_KEYS, STATE_COLUMNS), np.int64)


class Waves:
    """Plans waves on the loop's thread, and carries them out there or in a worker."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._entries = entries_of_waves()
        self._names = ["NULL", *(entry.name for entry in self._entries)]
        self._specs = specs_of(self._entries)
        self._buffers = Buffers(len(self._entries))
        self._commands = np.empty((MOST_COMMANDS, PLAN_COLUMNS), np.int64)
        self._limits = np.array([MOST_COMMANDS, MOST_KEYS, 0, 0], np.int64)
        self._keys, self._reads = np.empty((MOST_KEYS, 2), np.int64), np.empty(MOST_KEYS, np.bool_)

    def name_table(self) -> np.ndarray:
        """Return the table by which a scan numbers the commands."""
        numbered = [(entry.name.encode(), entry.arity, number) for number, entry in enumerate(self._entries, 1)]
        numbered += [(name.encode(), COMMANDS[name.encode()].arity, number) for number, name in NAMES.items()]
        return name_table(numbered)

    def plan(self, found: Scan, ranges: np.ndarray, only_blind: bool = False) -> Plan:
        """Plan a wave of the commands in these rows of a scan, given as (first, end) for each connection.

        only_blind: up to the first that looks anything up"""
        self._limits[ONLY_BLIND], self._limits[MOST_BYTES] = only_blind, execution.HEAVY_BYTES
        counts = np.empty(len(ranges), np.int64)
        arrays = found.bounds, found.rows, ranges, self._specs, self._limits, self._commands, self._keys, self._reads
        commands, keys, may_write = plan_wave(found.blob, *arrays, counts)
        spans = BytesArray(found.blob, self._keys[:keys])
        reads, planned = self._reads[:keys], self._commands[:commands]
        return Plan(found.blob, found.bounds, planned, spans, reads, bool(may_write), counts.tolist())

    def carry_out(self, plan: Plan, keyspace: Any, protocols: Sequence[int], rooms: int | Sequence[int]) -> Outcome:
        """Carry out a wave on the loop's thread. What raises has written nothing.

        protocols: the version of RESP of each connection; rooms: about how many bytes the replies to each may take"""
        return self._carry_out(plan, keyspace, protocols, rooms, self._buffers)

    def carry_out_in_worker(
        self, plan: Plan, keyspace: Any, protocols: Sequence[int], rooms: int | Sequence[int]
    ) -> Outcome:
        """Do the same on any thread, with a plan that is kept."""
        return self._carry_out(plan, keyspace, protocols, rooms, Buffers(len(self._entries)))

    def _carry_out(
        self, plan: Plan, keyspace: Any, protocols: Sequence[int], rooms: int | Sequence[int], buffers: Buffers
    ) -> Outcome:
        began = perf_counter_ns()
        owners = np.zeros((len(plan.counts), OWNER_COLUMNS), np.int64)
        owners[:, PROTOCOL], owners[:, ROOM] = protocols if 3 in protocols else 2, rooms
        some = buffers.state, owners, buffers.space, buffers.cursor
        spans = buffers.keys, buffers.places, buffers.expiries, buffers.kinds

        def decide(found: WaveFound) -> WaveRecords | None:
            arrays = plan.blob, plan.bounds, plan.commands, found.numbers, found.rows, *some
            count = carry_out_wave(found.data, *arrays, found.now, found.longest, *spans, buffers.calls)
            if not count:
                return None
            keys, places, expiries, kinds = [column[:count] for column in spans]
            values, are_deletes = BytesArray(buffers.space, places), not buffers.cursor[PUTS]
            return WaveRecords(keys, values, expiries, kinds, are_deletes)

        if len(plan.reads):
            read, written = run_wave(keyspace, plan.keys, plan.reads, plan.may_write, decide)
        else:
            read = written = 0
            decide(WaveFound(plan.blob, _NO_NUMBERS, _NO_ROWS, 0, 0))
        cursor, lookups = buffers.cursor.tolist(), self._server.store.lookups
        lookups.hits += cursor[HITS]
        lookups.misses += cursor[MISSES]
        commands = cursor[CARRIED_OUT]
        self._count(buffers.calls, commands, perf_counter_ns() - began)
        lsns = read, max(read, written)
        return Outcome(buffers.space[: cursor[REPLIES]], owners, *lsns, commands, plan.may_write, self._names)

    def _count(self, calls: np.ndarray, commands: int, nanoseconds: int) -> None:
        """Count the commands of a wave, each with its part of the time."""
        for number in calls.nonzero()[0].tolist():
            count = int(calls[number])
            self._server.stats.count(self._names[number], count, nanoseconds * count // commands)
