"""A kernel that looks for frames after the point where the log seems to end."""

from __future__ import annotations

import numpy as np

from ..runtime.jit import BYTES, I64, INT, WORD, kernel
from .memory import load64


@kernel(BYTES, INT, INT, INT, WORD, I64)
def find_magic(data, start, stop, step, magic, found):
    """Collect the offsets in [start, stop), in steps, where the second word begins with the 16-bit magic.

    Return how many there are, at most found.size."""
    count = 0
    for at in range(start, stop - 63, step):
        if load64(data, at + 8) & np.uint64(0xFFFF) == magic:
            found[count] = at
            count += 1
            if count == found.size:
                break
    return count
