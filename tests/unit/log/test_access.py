"""Access to a log that is closed or read-only."""

from __future__ import annotations

import pytest

from pmkv.errors import ClosedError, ReadOnlyError
from tests.engines import (
    PAGE_SEGMENT,
    make_log,
)

SEGMENT = PAGE_SEGMENT


def test_closed_and_readonly_logs_say_so() -> None:
    log = make_log()
    log.readonly = "it was opened readonly"
    log.guard_read()
    with pytest.raises(ReadOnlyError, match="it was opened readonly"):
        log.guard_write()
    log.closed = "it is closed"
    for guard in (log.guard_read, log.guard_write):
        with pytest.raises(ClosedError, match="it is closed"):
            guard()
