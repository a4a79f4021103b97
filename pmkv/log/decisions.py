"""Control frames: decisions about tables and keyspaces, as JSON. They carry what was decided, so that replay
decides nothing again."""

from __future__ import annotations

from typing import Any

import orjson

from .format import FRAME_HEADER, Frame, Kind
from .log import Log
from .segments import Reserve

# for which a full pool has no room: other decisions give something up
ADDING = ("create_table", "snapshot", "branch")


def append_control(log: Log, decision: dict[str, Any]) -> tuple[int, int]:
    """Append a decision; returns its LSN, which is also the number of the layer that it opens, and its time, unix ms.
    Under the log's lock."""
    body = orjson.dumps(decision)
    purpose = Reserve.WRITE if decision["op"] in ADDING else Reserve.DELETE
    log.reserve([len(body)], purpose)
    at = log.begin(Kind.CONTROL, len(body), purpose=purpose)
    log.data[at : at + len(body)] = memoryview(body)
    time = int(log.data[at - FRAME_HEADER.itemsize : at].view(FRAME_HEADER)["time"][0])
    return log.end(), time


def read_control(log_data: memoryview, frame: Frame) -> dict[str, Any]:
    """The decision in a control frame."""
    return orjson.loads(log_data[frame.body : frame.body + frame.length])
