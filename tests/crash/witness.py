"""What is durable, moment by moment: the log of the crash image, replayed batch by batch beside the engine under test.

A *moment* is the state after one whole batch; its *steps* are the states between the records of it. A reply is
justified by a moment that is durable when it leaves: not older than what was known to whoever asked, nor than the
moment of its connection's reply before.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pmkv.engine.engine import Engine
from pmkv.kernels.records import FLAG_DELETE, FLAG_PARTS
from pmkv.log.format import Flag, Kind
from pmkv.log.replay import Replay
from pmkv.media.simulated import SimulatedMedium
from tests.crash.explore import NOW, Violation

KEYS = (b"a", b"b", b"c", b"d")
COUNTERS = (b"n", b"m")
TABLE = "rows"
IDS = (1, 2, 3)
EMPTY = b"empty"  # a snapshot, of the beginning


@dataclass(frozen=True)
class State:
    """All that clients can write."""

    keys: dict[bytes, tuple[bytes, int]]  # value and expiry
    rows: dict[int, bytes]


@dataclass(frozen=True)
class Moment:
    lsn: int
    state: State
    written: bytes  # the bodies of the batch's frames
    steps: tuple[Moment, ...] = ()  # states before it, in which commands of its batch have found the keys

    def value(self, key: bytes) -> bytes | None:
        return self.state.keys.get(key, (None, 0))[0]

    def expiry(self, key: bytes) -> int:
        return self.state.keys.get(key, (None, 0))[1]

    def row(self, id_: int) -> bytes | None:
        return self.state.rows.get(id_)


RECORD = struct.Struct("<IIQ")  # the head of a record: bytes of its value; of its key, and flags; its expiry
Justifies = Callable[[list[Moment], int], bool]  # would this moment of them justify a reply?


def durable_image(medium: SimulatedMedium) -> SimulatedMedium:
    """The least that a power cut leaves: of what is at risk, nothing has reached the medium."""
    point = medium.point()
    return point.medium(np.zeros(len(point.units), bool))


def keys_of(engine: Engine) -> dict[bytes, tuple[bytes, int]]:
    keyspace = engine.keyspaces[0]
    found = {key: entry for key in KEYS + COUNTERS if (entry := keyspace.entry(key))}
    assert len(found) == len(keyspace)
    return found


def rows_of(engine: Engine) -> dict[int, bytes]:
    table = engine.table(TABLE)
    rows, found = table.get(IDS, return_found=True)
    assert found.sum() == len(table)
    return {id_: row.tobytes() for id_, row, is_there in zip(IDS, rows, found) if is_there}


def state_of(engine: Engine) -> State:
    return State(keys_of(engine), rows_of(engine))


class Witness:
    """Follows one medium. `end`: the last moment that a reply may show; behind a failed flush it moves no more."""

    def __init__(self, medium: SimulatedMedium) -> None:
        self._medium = medium
        self._engine = Engine.on_medium(durable_image(medium), readonly=True, now=lambda: NOW)
        self.moments = [Moment(self._engine.log.lsn, state_of(self._engine), b"")]
        self.pairs: list[tuple[bytes, bytes]] = []  # values that belong together, and were not seen yet
        self.unfinished: set[bytes] = set()  # values after which a transaction writes more, in the same frame
        self.shown = 0  # the last moment that some reply has shown
        self.end = 0
        self.recoveries = 0
        self._failed = False

    def look(self) -> None:
        """More may be durable."""
        self._engine.pool.medium.data[:] = durable_image(self._medium).data
        written, kinds = [], set()
        for frame in Replay(self._engine.pool):
            if frame.lsn <= self.moments[-1].lsn:
                continue
            self._engine.replayer.apply(frame)
            self._engine.log.lsn = self._engine.log.durable = frame.lsn
            kinds.add(frame.kind)
            written.append(bytes(self._engine.log.data[frame.body : frame.body + frame.length]))
            if not frame.flags & Flag.MORE:
                steps = self._steps(frame.lsn, written[0]) if kinds == {Kind.PUT} and len(written) == 1 else ()
                self._add(Moment(frame.lsn, self._state(kinds), b"".join(written), steps))
                written, kinds = [], set()
        if not self._failed:
            self.end = len(self.moments) - 1

    def _steps(self, lsn: int, body: bytes) -> tuple[Moment, ...]:
        """The states between the records of one frame. A wave of commands is one frame, and each command has found what
        the ones before it left. A state with half of what belongs together was never shown to anyone."""
        keys, steps, at = dict(self.moments[-1].state.keys), [], 0
        while (after := at + RECORD.size) < len(body):
            size, key_and_flags, expiry = RECORD.unpack_from(body, at)
            length, flags = key_and_flags & 0xFFFFFF, key_and_flags >> 24
            key, value = body[after : after + length], body[after + length : after + length + size]
            if flags & FLAG_PARTS:
                return ()
            keys.pop(key, None)
            if not flags & FLAG_DELETE:
                keys[key] = value, expiry
            at = after + -(-(length + size) // 8) * 8
            if value in self.unfinished:
                self.unfinished.discard(value)
                continue
            halves = any((one in body[:at]) != (other in body[:at]) for one, other in self.pairs)
            if at < len(body) and not halves:
                steps.append(Moment(lsn, State(dict(keys), self.moments[-1].state.rows), body[:at]))
        return tuple(steps)

    def _state(self, kinds: set[int]) -> State:
        """The state, of which frames of these kinds may have changed something."""
        last = self.moments[-1].state
        keys = keys_of(self._engine) if kinds & {Kind.PUT, Kind.CONTROL} else last.keys
        return State(keys, rows_of(self._engine) if kinds & {Kind.ROWS, Kind.CONTROL} else last.rows)

    def _add(self, moment: Moment) -> None:
        for pair in list(self.pairs):
            one, other = (value in moment.written for value in pair)
            if one and other:
                self.pairs.remove(pair)  # from now on each may be written again: with another expiry
            elif one or other:
                raise Violation(f"batch {moment.lsn} has one of {pair}, which belong together")
        self.unfinished = {value for value in self.unfinished if value not in moment.written}
        self.moments.append(moment)

    def fail(self, durable: int) -> None:
        """A flush failed: what is beyond this LSN may be on the medium, but nobody may see it."""
        if not self._failed:
            self.look()
            self._failed = True
            self.end = max(i for i, moment in enumerate(self.moments) if moment.lsn <= durable)
            if self.shown > self.end:
                raise Violation(f"LSN {self.moments[self.shown].lsn} was shown, and only {durable} is there now")

    def justify(self, justifies: Justifies, since: int) -> int | None:
        """The first moment from `since` on that justifies a reply."""
        for i in range(since, self.end + 1):
            sequence = [*self.moments[:i], *self.moments[i].steps, self.moments[i]]
            if any(justifies(sequence, k) for k in range(i, len(sequence))):
                self.shown = max(self.shown, i)
                return i
        return None

    def recover(self) -> None:
        """The next process, if the power failed now, finds the last moment."""
        engine = Engine.on_medium(durable_image(self._medium), now=lambda: NOW)
        found = state_of(engine)
        self.recoveries += 1
        if found != self.moments[-1].state:
            raise Violation(f"recovered {found}\nafter {self.moments[-1].state}")
