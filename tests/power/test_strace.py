"""No acknowledgement leaves a served process before the sync of its group, as the system saw it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.served import served

pytestmark = pytest.mark.power

CALLS = "fdatasync,pwrite64,sendto,write,writev,sendmsg"
WRITES = 20


def unproved(trace: str) -> tuple[int, int]:
    """(acknowledgements, those of them with no pwrite64 and then a completed fdatasync since the one before)."""
    acknowledged = early = 0
    written = synced = False
    for line in trace.splitlines():
        if "pmkvsegm" in line or '"\\0\\0\\0\\0\\0\\0' in line:
            continue  # a segment made ready in the background
        if "pwrite64(" in line and "/pool" in line:
            written, synced = True, False
        elif re.search(r"fdatasync.*\)\s+= 0$", line):
            synced = written
        elif re.search(r"(sendto|write|writev|sendmsg)\(", line) and '"+OK\\r\\n' in line:
            acknowledged += 1
            early += not synced
            written = synced = False
    return acknowledged, early


def traced(strace: str, folder: Path, durability: str) -> tuple[int, int]:
    trace = folder / "trace"
    wrapper = (strace, "-f", "-y", "-s", "64", "-e", f"trace={CALLS}", "-o", str(trace))
    options = ("--data", str(folder / "data"), "--capacity", "64MiB", "--durability", durability)
    with served(*options, wrapper=wrapper, wait=40) as server:
        raw = server.raw()
        for i in range(WRITES):
            assert raw("SET", f"k{i}", "v") == ("+", b"OK")
        raw("SHUTDOWN", "FOO")
        raw.send(b"*1\r\n$8\r\nSHUTDOWN\r\n")
        server.process.wait(15)
    return unproved(trace.read_text())


def test_no_acknowledgement_before_the_sync(needs_strace: str, tmp_path: Path) -> None:
    assert traced(needs_strace, tmp_path, "commit") == (WRITES, 0)


def test_the_trace_would_show_it(needs_strace: str, tmp_path: Path) -> None:
    acknowledged, early = traced(needs_strace, tmp_path, "none")
    assert acknowledged == WRITES
    assert early > 0
