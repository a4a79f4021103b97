"""The ids of the row cache on file, so that a store is warm soon after a restart: a file that may be missing or damaged
without harm.

It is a list of tables, each a word with its number, one with the count of ids, and the ids, all int64, behind a header
of a magic number and a CRC-32 of all that follows.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from pathlib import Path

import numpy as np

MAGIC = 0x53444957524B4D50  # "PMKRWIDS"
HEADER_WORDS = 2
KEEP_EVERY_S = 60.0  # the ids are written at a checkpoint so often at most, and when the store is closed


class KeptIds:
    """The file of ids at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written_at = -KEEP_EVERY_S  # monotonic clock

    @property
    def is_due(self) -> bool:
        """Return whether the last ids were written long enough ago."""
        return time.monotonic() - self._written_at >= KEEP_EVERY_S

    def write(self, tables: dict[int, np.ndarray]) -> None:
        """Replace the file. tables: ids by number of the table. An error leaves the former one, or none."""
        words = [np.array([number, ids.size], np.int64) for number, ids in tables.items()]
        body = np.concatenate([np.empty(0, np.int64), *(part for pair in zip(words, tables.values()) for part in pair)])
        header = np.array([MAGIC, zlib.crc32(body.view(np.uint8).data)], np.int64)
        new = self.path.with_suffix(".new")
        with contextlib.suppress(OSError):
            with open(new, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(header.tobytes())
                file.write(body.data)
            os.replace(new, self.path)
        self._written_at = time.monotonic()

    def read(self) -> dict[int, np.ndarray]:
        """Return the ids by number of the table; none if the file is missing or damaged."""
        try:
            raw = self.path.read_bytes()
        except OSError:
            return {}
        if len(raw) % 8 or len(raw) < 8 * HEADER_WORDS:
            return {}
        words = np.frombuffer(raw, np.int64)
        if words[0] != MAGIC or words[1] != zlib.crc32(words[HEADER_WORDS:].view(np.uint8).data):
            return {}
        tables, at = {}, HEADER_WORDS
        while at + 2 <= words.size:
            number, count = words[at : at + 2].tolist()
            tables[number] = words[at + 2 : at + 2 + count]
            at += 2 + count
        return tables
