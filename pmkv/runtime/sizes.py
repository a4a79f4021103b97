"""Parse sizes as people write them."""

from __future__ import annotations

import re
from decimal import Decimal

from ..errors import InvalidError

MAX_SIZE = (1 << 63) - 1
UNITS = {
    "": 1,
    "b": 1,
    "k": 1 << 10,
    "m": 1 << 20,
    "g": 1 << 30,
    "t": 1 << 40,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}


def parse_size(size: int | str) -> int:
    """Return bytes from 4096, "64MiB", "1.5g", "10GB"."""
    if isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= MAX_SIZE:
        return size
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", str(size).lower(), re.ASCII)
    if not match or match[2] not in UNITS:
        raise InvalidError(f"{size!r} is no size: write bytes, or a number with KiB, MiB, GiB or TiB")
    number = Decimal(match[1]) * UNITS[match[2]]
    if number > MAX_SIZE:
        raise InvalidError(f"{size!r:.80} is more than a file can have")
    return int(number)
