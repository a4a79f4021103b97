"""Counters of lookups by key, shared by the keyspaces of all views."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LookupCounts:
    """Keys that somebody asked for since the store was opened. hits: found; misses: not found; expired: not found since
    they had expired, each counted once. Threads count without a lock, so a few may be lost."""

    hits: int = 0
    misses: int = 0
    expired: int = 0

    def reset(self) -> None:
        """Set all counters to zero."""
        self.hits = self.misses = self.expired = 0
