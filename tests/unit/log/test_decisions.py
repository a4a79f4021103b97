"""Control frames carry a decision, whole, as JSON."""

from __future__ import annotations

import pytest

from pmkv.errors import InvalidError
from pmkv.log.decisions import append_control, read_control
from pmkv.log.format import Kind
from tests.engines import frames, small_engine


def test_a_decision_is_read_as_it_was_written() -> None:
    engine = small_engine()
    decision = {"op": "create_table", "id": 1, "name": "ümlaut", "descr": ["<f4", [2]], "rows": None}
    with engine.log.locks.append, engine.log.locks.state:
        lsn, time = append_control(engine.log, decision)
    engine.log.flush(lsn)
    frame = frames(engine.pool.medium)[-1]
    assert (frame.kind, frame.lsn, frame.time) == (Kind.CONTROL, lsn, time)
    assert read_control(memoryview(engine.log.data), frame) == decision


def test_a_decision_that_fits_in_no_frame_is_refused() -> None:
    engine = small_engine()
    before = engine.log.lsn
    with engine.log.locks.append, engine.log.locks.state, pytest.raises(InvalidError, match="do not fit in one frame"):
        append_control(engine.log, {"op": "x" * (20 << 10)})
    assert engine.log.lsn == before
