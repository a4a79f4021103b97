"""Errors of the system, named for people."""

from __future__ import annotations

import errno
import os

import pytest

from pmkv_server.system_errors import describe


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data/runs"),
            "No space left on device (ENOSPC): data/runs; make room on the disk",
        ),
        (
            OSError(errno.EMFILE, "Too many open files"),
            "Too many open files (EMFILE); raise the limit of open files (ulimit -n), or lower --max-clients",
        ),
        (OSError(errno.EISDIR, None, b"caf\xc3\xa9"), "Is a directory (EISDIR): café"),
        (OSError(9999, "odd"), "odd (9999)"),
        (OSError("no number"), "no number"),
        (OSError(), "OSError"),
    ],
)
def test_describe(error: OSError, text: str) -> None:
    assert describe(error) == text
