"""Recovery: memory from a log, frames that nobody can have written, and the way back after a failed flush."""

from __future__ import annotations

import pytest

from pmkv.engine.recovery import replay_seconds
from pmkv.errors import CorruptionError, FlushError, UnknownNameError
from pmkv.log.format import Frame, Kind
from tests.engines import contents, eio, failing_engine, reopen, small_engine


def test_the_report_counts_frames_and_records() -> None:
    engine = small_engine()
    engine.create_table("t", "i8").put([1, 2, 3], [1, 2, 3])
    engine.keyspaces[3].put_many({b"a": b"1", b"b": b"2"})
    again = reopen(engine)
    assert again.recovery.records >= 5 and again.recovery.frames >= 3 and again.recovery.seconds > 0
    assert contents(again) == contents(engine)


@pytest.mark.parametrize("kind", [Kind.PUT, Kind.ROWS, 99])
def test_a_frame_of_no_open_layer_is_damage(kind: int) -> None:
    engine = small_engine()
    frame = Frame(0, kind, 0, 0, 1, 64, 12345, 7, 6, 0, 0, 4096)
    with pytest.raises(CorruptionError, match=r"frame 7 at offset 4,096 .* layer 12345: not written by this version"):
        engine.replayer.apply(frame)


def test_users_keep_their_objects_when_memory_goes_back() -> None:
    engine, medium = failing_engine()
    table = engine.create_table("t", "i8")
    table.put([1], [10])
    medium.flush_error = eio()
    with engine.log.deferred():
        table.put([1], [20])
        doomed = engine.create_table("doomed", "i8")
    with pytest.raises(FlushError):
        engine.log.flush(engine.log.lsn)
    assert engine.table("t") is table and table.get([1]).tolist() == [10]
    with pytest.raises(UnknownNameError):
        doomed.get([1])
    engine.check()


def test_replay_takes_longer_the_more_was_appended_since_the_checkpoint() -> None:
    assert replay_seconds((5, 50, 500), (5, 50, 500)) == 0
    costs = [replay_seconds((0, 0, 0), appended) for appended in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    assert all(cost > 0 for cost in costs) and replay_seconds((-1, -1, -1), (0, 0, 0)) == pytest.approx(sum(costs))
