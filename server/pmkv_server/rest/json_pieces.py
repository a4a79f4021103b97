"""Long JSON in pieces: the parser and the encoder keep the interpreter to themselves for as long as one call takes.

A compiled loop that lets other threads run finds places to cut between the members of the object and the items of its
long lists; each piece is then parsed by itself. What it finds is only as good as the pieces' own syntax, which the
parser checks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
from numba import types

from pmkv.runtime.jit import kernel

JSON_PIECE_BYTES = 512 << 10  # parsed or encoded in one call
WHOLE_BYTES = 1 << 20  # shorter documents are parsed in one piece
MAX_CUTS = 4096
LIST_ITEMS = 1024  # of a list, encoded in one call
SPACE = b" \t\r\n"

_BYTES, _INTS = types.Array(types.uint8, 1, "C", readonly=True), types.int64[::1]


@kernel(_BYTES, types.int64, types.int64, types.int64, _INTS)
def find_commas(data, start, stop, spacing, places):
    """Find commas outside of strings and brackets in data[start:stop], at least `spacing` bytes apart.

    places: receives them. Return how many; -1 if a string or a bracket is not closed; -2 if there are more of them.
    """
    depth = 0
    in_string = False
    last = start - spacing
    count = 0
    i = start
    while i < stop:
        byte = data[i]
        if in_string:
            if byte == 92:
                i += 1
            elif byte == 34:
                in_string = False
        elif byte == 34:
            in_string = True
        elif byte == 91 or byte == 123:
            depth += 1
        elif byte == 93 or byte == 125:
            depth -= 1
            if depth < 0:
                return -1
        elif byte == 44 and depth == 0 and i - last >= spacing:
            if count == len(places):
                return -2
            places[count] = i
            count += 1
            last = i
        i += 1
    return -1 if in_string or depth else count


def loads(body: bytes) -> Any:
    """Parse JSON as orjson does; raises its JSONDecodeError.

    The members of a long object are parsed one by one, and the items of those that are long lists piece by piece. What
    cannot be read so is parsed in one piece, or refused with the parser's own words.
    """
    if len(body) >= WHOLE_BYTES:
        with contextlib.suppress(orjson.JSONDecodeError, _GapError):
            return _in_pieces(body)
    return orjson.loads(body)


class _GapError(Exception):
    """The document cannot be cut, or lacks a value between two commas."""


def _in_pieces(body: bytes) -> dict[str, Any]:
    text = np.frombuffer(body, np.uint8)
    found: dict[str, Any] = {}
    for first, last in _cut(text, *_inner(body, 0, len(body), b"{}"), 1):
        found |= _member(body, text, first, last)
    return found


def _member(body: bytes, text: np.ndarray, start: int, stop: int) -> dict[str, Any]:
    """Parse one member of an object, "name": value."""
    bracket = body.find(b"[", start, stop)
    if stop - start < WHOLE_BYTES or bracket < 0 or body[start:stop].rstrip(SPACE)[-1:] != b"]":
        member = orjson.loads(b"{%b}" % body[start:stop])
        if len(member) != 1:
            raise _GapError
        return member
    (name,) = orjson.loads(b"{%b[]}" % body[start:bracket])
    items: list[Any] = []
    for first, last in _cut(text, *_inner(body, bracket, stop, b"[]"), JSON_PIECE_BYTES):
        part = orjson.loads(b"[%b]" % body[first:last])
        if not part:
            raise _GapError
        items += part
    return {name: items}


def _inner(body: bytes, start: int, stop: int, brackets: bytes) -> tuple[int, int]:
    """Return where the contents of the object or list begin and end that body[start:stop] is."""
    first, last = body.find(brackets[:1], start, stop), body.rfind(brackets[1:], start, stop)
    if first < 0 or last < 0 or body[start:first].strip(SPACE) or body[last + 1 : stop].strip(SPACE):
        raise _GapError
    return first + 1, last


def _cut(text: np.ndarray, start: int, stop: int, spacing: int) -> list[tuple[int, int]]:
    """Return the pieces between commas."""
    places = np.empty(MAX_CUTS, np.int64)
    count = find_commas(text, start, stop, spacing, places)
    if count < 0:
        raise _GapError
    commas = places[:count].tolist()
    return list(zip([start, *(comma + 1 for comma in commas)], [*commas, stop], strict=True))


def dumps(value: Any, option: int) -> bytes:
    """Encode as orjson does. The long arrays and lists of an object are encoded piece by piece."""
    return b"".join(_encoded(value, option))


def _encoded(value: Any, option: int) -> Iterator[bytes]:
    if isinstance(value, dict):
        before = b"{"
        for name, item in value.items():
            yield before + orjson.dumps(name) + b":"
            yield from _encoded(item, option)
            before = b","
        yield b"}" if value else b"{}"
        return
    count = _items_of_a_piece(value)
    if not count or count >= len(value):
        yield orjson.dumps(value, option=option)
        return
    before = b"["
    for at in range(0, len(value), count):
        yield before + orjson.dumps(value[at : at + count], option=option)[1:-1]
        before = b","
    yield b"]"


def _items_of_a_piece(value: Any) -> int:
    """Return how many items of an array or a list to encode at once; 0 for another value."""
    if isinstance(value, np.ndarray) and value.ndim:
        return max(1, JSON_PIECE_BYTES // max(1, value.nbytes // max(1, len(value))))
    return LIST_ITEMS if isinstance(value, list) else 0
