"""How much DRAM the rows of a table may count on: the choice of its owner, and what that means in bytes."""

from __future__ import annotations

import numbers
import re
from typing import Any

from ..errors import InvalidError
from ..runtime.sizes import parse_size

DramChoice = str | int | float | None  # "all", bytes, a share of the row cache's budget; None: no say
ALL = "all"


def dram_choice(value: Any) -> DramChoice:
    """Return the choice that a user wrote: "all", bytes (or "64MiB"), a share (0.25 or "25%"), None for none.

    InvalidError: it is none of these."""
    if value is None or (isinstance(value, str) and value.lower() == "none"):
        return None
    if isinstance(value, str) and value.lower() == ALL:
        return ALL
    try:
        return _amount(value)
    except (TypeError, ValueError):
        raise InvalidError(
            f"dram={value!r}: give 'all', bytes such as 1048576 or '64MiB', a share of the row cache such as 0.25 or "
            "'25%', or None"
        ) from None


def _amount(value: Any) -> int | float:
    """Return bytes as an int, or a share above 0 and up to 1 as a float. ValueError or TypeError: it is neither."""
    if isinstance(value, str) and value.strip().endswith("%"):
        share: Any = float(value.strip()[:-1]) / 100
    elif isinstance(value, str):
        try:
            share = float(value) if re.fullmatch(r"\s*[01]?\.\d+\s*", value) else parse_size(value)
        except InvalidError as error:
            raise ValueError from error
    else:
        share = value
    if isinstance(share, bool) or not isinstance(share, numbers.Real):
        raise TypeError
    if isinstance(share, numbers.Integral):
        if not 0 < share < 1 << 63:
            raise ValueError
        return int(share)
    if not 0 < share <= 1:
        raise ValueError
    return float(share)


def reserved_bytes(choice: DramChoice, budget: int, full: int) -> int:
    """Return the bytes that a choice reserves. budget: of the row cache; full: what all rows of the table take."""
    if choice is None:
        return 0
    wanted = full if choice == ALL else int(choice * budget) if isinstance(choice, float) else int(choice)
    return min(wanted, budget)
