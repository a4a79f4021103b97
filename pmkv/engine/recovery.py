"""Recovery: rebuild an engine's memory from its manifest and its log, at opening, after a failed flush, and after a
write that an exception interrupted.

All start from the manifest that the catalog committed last (or from nothing) and replay the log from there. After a
failed flush replay ends at the durable LSN, so that memory holds exactly what is known to be on the medium; after an
interrupted write, before that write.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from ..errors import CorruptionError
from ..log.decisions import read_control
from ..log.format import Frame, Kind
from ..log.replay import LogEnd, Replay
from ..versions.view_set import keyspace_name, table_name
from .open_view import OpenView

if TYPE_CHECKING:
    from .engine import Engine

LOOKAHEAD_FRAMES = 4096  # frames read before the first of them is applied, so that memtables can be sized
# Cost of replay, measured on two slow cores. It decides when a checkpoint is due.
SECONDS_PER_FRAME, SECONDS_PER_RECORD, SECONDS_PER_BYTE = 18e-6, 0.25e-6, 0.3e-9

Appended = tuple[int, int, int]  # frames, records and bytes that a log has appended


@dataclass(frozen=True)
class RecoveryReport:
    """Report what opening took: frames and records replayed, seconds, and bytes that were made durable again."""

    frames: int
    records: int
    seconds: float
    rewritten: int


def replay_seconds(checkpointed: Appended, appended: Appended) -> float:
    """Estimate the seconds that replay from the last checkpoint to the end of the log would take."""
    frames, records, length = (now - before for now, before in zip(appended, checkpointed, strict=True))
    return frames * SECONDS_PER_FRAME + records * SECONDS_PER_RECORD + length * SECONDS_PER_BYTE


class Replayer:
    """Applies frames of the log to the memory of one engine. reached: how far memory is, None before the first frame
    of the log; where nobody writes, as that is told by the log itself otherwise."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.reached: LogEnd | None = None

    def recover(self) -> RecoveryReport:
        """Rebuild memory when the store is opened, and let the log continue where replay ended."""
        engine, start = self._engine, time.perf_counter()
        replay, frames, records, length = Replay(engine.pool, start=self._restore()), 0, 0, 0
        remaining = iter(replay)
        while upcoming := list(islice(remaining, LOOKAHEAD_FRAMES)):
            engine.view_set.expect(upcoming)
            for frame in upcoming:
                self.apply(frame)
                frames, records, length = frames + 1, records + frame.count, length + frame.length
        self.stand_at(replay)
        if engine.maintenance:
            engine.maintenance.complete_to = -frames, -records, -length
        rewritten = sum(stop - start for start, stop in replay.undurable)
        return RecoveryReport(frames, records, time.perf_counter() - start, rewritten)

    def stand_at(self, replay: Replay) -> None:
        """Let the log go on where a replay ended, whose frames are in memory."""
        moved = replay.moved
        self._engine.pool.adopt(replay.segments, [index for index, *_ in moved.segments], dict(moved.reused))
        self._engine.log.resume(replay)
        self.reached = replay.end() if replay.lsn else None

    def go_back(self, last: int) -> None:
        """Rebuild memory from the log up to the LSN `last`, after a failed flush or an interrupted write.

        Tables and keyspaces that users hold stay the same objects. The caller holds locks.state."""
        self._rebuild(lambda start: Replay(self._engine.pool, last=last, start=start))

    def begin_anew(self, is_live: bool) -> None:
        """Rebuild memory from the committed manifest up to the end of the log, which another process writes.

        is_live: as of `Replay`. The caller holds all locks."""
        self.stand_at(self._rebuild(lambda start: Replay(self._engine.pool, start=start, is_live=is_live)))

    def _rebuild(self, replay_from: Callable[[LogEnd | None], Replay]) -> Replay:
        engine = self._engine
        previous = engine.reset_views()
        replay = replay_from(self._restore())
        for frame in replay:
            self.apply(frame)
        engine.adopt_open_views(replay.lsn)
        if engine.maintenance:
            engine.maintenance.is_ahead = False
        previous.discard()
        return replay

    def _restore(self) -> LogEnd | None:
        """Rebuild the views from the committed manifest; return where in the log it ends, None without a manifest."""
        engine = self._engine
        manifest = engine.maintenance.manifest if engine.maintenance else None
        if manifest is not None:
            engine.view_set.restore(manifest)
        engine.follow(engine.view_set.maps)
        return manifest.end if manifest is not None else None

    def apply(self, frame: Frame) -> None:
        """Apply one frame to memory. CorruptionError: no version of pmkv could have written it here."""
        match frame.kind:
            case Kind.PUT:
                head = self._head_written_by(frame, keyspace_name(frame.table))
                head.keyspaces[frame.table].replay(frame)
            case Kind.ROWS:
                self._head_written_by(frame, table_name(frame.table)).by_id(frame.table).replay(frame)
            case Kind.CONTROL:
                decision = read_control(memoryview(self._engine.pool.medium.data), frame)
                self._engine.carry_out(decision, frame.lsn, frame.time)
            case Kind.PART | Kind.OPEN | Kind.MARK | Kind.NEXT:  # MOVE frames stand beside the log
                pass
            case _:
                raise unknown_frame(frame)

    def _head_written_by(self, frame: Frame, collection: str) -> OpenView:
        """Return the head whose open layer of `collection` the frame names."""
        head = self._engine.view_set.head_of_layer(collection, frame.layer)
        if head is None:
            raise unknown_frame(frame)
        return self._engine.open_views[head.name]


def unknown_frame(frame: Frame) -> CorruptionError:
    """Return the error for a frame that belongs to no open layer, or is of an unknown kind."""
    return CorruptionError(
        f"frame {frame.lsn} at offset {frame.offset:,} has kind {frame.kind}, table {frame.table} and layer "
        f"{frame.layer}: not written by this version, or damaged"
    )
