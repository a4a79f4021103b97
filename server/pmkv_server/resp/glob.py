"""Match Redis' glob patterns (`* ? [a-z] [^a] \\x`) in linear time.

A pattern becomes a bit-parallel automaton (Shift-And): state j is "j characters of the pattern matched"; a byte
advances all states at once, and a `*` lets its state remain. A key of n bytes costs n steps of one 64-bit word for
every 64 characters of the pattern. There is no backtracking, so no pattern can stall the server.
"""

from __future__ import annotations

import numpy as np
from numba import types

from pmkv.runtime.jit import kernel

LONGEST_KEY_BYTES = 64 << 10

_U8 = types.Array(types.uint8, 1, "C", readonly=True)
_I8 = types.Array(types.int64, 1, "C")
_WORDS = types.Array(types.uint64, 1, "C")
_MOVES = types.Array(types.uint64, 2, "C")
_OUT = types.Array(types.boolean, 1, "C")


@kernel(_U8, _I8, _MOVES, _WORDS, types.int64, _WORDS, _OUT)
def match(data, ends, moves, stays, accept, states, out):
    """Set out[i] to whether the key that ends at ends[i] in `data` matches.

    moves[c]: the set of states that byte c advances; stays: the states in which every byte remains
    accept: the last state; states: scratch memory, as long as `stays`
    """
    words = len(stays)
    one = np.uint64(1)
    start = 0
    for i in range(len(ends)):
        states[:] = 0
        states[0] = one
        for at in range(start, ends[i]):
            row = data[at]
            carry = np.uint64(0)
            for w in range(words):
                moved = states[w] & moves[row, w]
                states[w] = (moved << one) | carry | (states[w] & stays[w])
                carry = moved >> np.uint64(63)
        out[i] = (states[accept >> 6] >> np.uint64(accept & 63)) & one != 0
        start = ends[i]


class Pattern:
    """A compiled pattern."""

    def __init__(self, pattern: bytes) -> None:
        characters, stars = _parse(pattern)
        self._matches_all = not characters and bool(stars)
        self._length = len(characters)
        self._possible = self._length <= LONGEST_KEY_BYTES  # a longer pattern matches no key
        if self._possible:
            self._moves, self._stays = _tables(characters, stars)

    def select(self, names: list[bytes]) -> list[bytes]:
        """Return the names that match."""
        if self._matches_all or not names:
            return names
        if not self._possible:
            return []
        ends = np.cumsum(np.fromiter(map(len, names), np.int64, len(names)))
        out = np.empty(len(names), np.bool_)
        data = np.frombuffer(b"".join(names), np.uint8)
        match(data, ends, self._moves, self._stays, self._length, np.empty_like(self._stays), out)
        return [names[i] for i in np.flatnonzero(out).tolist()]


def _tables(characters: list[set[int] | None], stars: set[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return `moves` and `stays` of `match`."""
    words = (len(characters) >> 6) + 1
    moves = np.zeros((256, words), np.uint64)
    stays = np.zeros(words, np.uint64)
    for j, allowed in enumerate(characters):
        rows = slice(None) if allowed is None else sorted(allowed)
        moves[rows, j >> 6] |= np.uint64(1 << (j & 63))
    for j in stars:
        stays[j >> 6] |= np.uint64(1 << (j & 63))
    return moves, stays


def _parse(pattern: bytes) -> tuple[list[set[int] | None], set[int]]:
    """Return which bytes each character stands for (None: any), and before which characters there is a star."""
    characters: list[set[int] | None] = []
    stars: set[int] = set()
    i = 0
    while i < len(pattern):
        sign = pattern[i : i + 1]
        if sign == b"*":
            stars.add(len(characters))
        elif sign == b"?":
            characters.append(None)
        elif sign == b"[":
            allowed, i = _class(pattern, i + 1)
            characters.append(allowed)
        else:
            if sign == b"\\" and i + 1 < len(pattern):
                i += 1
            characters.append({pattern[i]})
        i += 1
    return characters, stars


def _class(pattern: bytes, i: int) -> tuple[set[int], int]:
    """Return the bytes of the class `[...]` whose first character is at `i`, and the index of its `]`.

    A class that is not closed ends with the pattern.
    """
    negated = pattern[i : i + 1] == b"^"
    i += negated
    allowed: set[int] = set()
    while i < len(pattern) and pattern[i : i + 1] != b"]":
        if pattern[i : i + 1] == b"\\" and i + 1 < len(pattern):
            i += 1
            allowed.add(pattern[i])
        elif i + 2 < len(pattern) and pattern[i + 1 : i + 2] == b"-":
            low, high = sorted((pattern[i], pattern[i + 2]))
            allowed.update(range(low, high + 1))
            i += 2
        else:
            allowed.add(pattern[i])
        i += 1
    return (set(range(256)) - allowed if negated else allowed), i
