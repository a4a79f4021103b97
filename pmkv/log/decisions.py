"""CONTROL frames: decisions about tables, keyspaces and views, as JSON.

They carry the outcome of a decision, so that replay applies it without deciding again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from .format import FRAME_HEADER, Frame, Kind
from .log import Log
from .segments import Reserve

# A full pool has no room for these operations; all others release something and may use reserved segments.
SPACE_TAKING_OPERATIONS = ("create_table", "snapshot", "branch")


def purpose_of(decision: dict[str, Any]) -> Reserve:
    """Return the purpose for which a decision takes room."""
    return Reserve.WRITE if decision["op"] in SPACE_TAKING_OPERATIONS else Reserve.DELETE


def reserve_controls(log: Log, decisions: Sequence[dict[str, Any]]) -> None:
    """Prepare room for decisions of one batch, before the first of them is appended: a batch in which a later one finds
    no room would be taken back. The caller holds `locks.append`."""
    log.reserve([len(orjson.dumps(decision)) for decision in decisions], purpose_of(decisions[-1]))


def append_control(log: Log, decision: dict[str, Any]) -> tuple[int, int]:
    """Append a decision; return its LSN and its time in unix milliseconds.

    The LSN is also the number of the layer that the decision opens. The caller holds `locks.append` and
    `locks.state`."""
    body = orjson.dumps(decision)
    purpose = purpose_of(decision)
    log.reserve([len(body)], purpose)
    at = log.begin(Kind.CONTROL, len(body), purpose=purpose)
    log.data[at : at + len(body)] = memoryview(body)
    time = int(log.data[at - FRAME_HEADER.itemsize : at].view(FRAME_HEADER)["time"][0])
    return log.end(), time


def read_control(log_data: memoryview, frame: Frame) -> dict[str, Any]:
    """Return the decision in a CONTROL frame."""
    return orjson.loads(log_data[frame.body : frame.body + frame.length])
