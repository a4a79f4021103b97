"""Decode requests and encode replies of RESP2 and RESP3, without sockets.

One compiled loop, `scan`, reads the buffers of many connections in one call. It checks every header against the limits
before anything is allocated or waited for, and looks names up in a table that it is given: a row of the result is a
command with its number there, or OTHER.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numba import njit, types

from pmkv.runtime.jit import kernel

MAX_BULK = 512 << 20  # bytes
MAX_ARGUMENTS = 1 << 23  # an argument takes memory only once it has arrived
MAX_INLINE = 64 << 10  # bytes
UNAUTHENTICATED_BULK = 16 << 10  # bytes
UNAUTHENTICATED_ARGUMENTS = 10

ARRAY_BYTE = 42  # `*`, with which a command begins that is not a line
OTHER = 0  # the number of a command that the table of names does not have, or not with so many arguments
# numbers above it are those of commands for waves, numbers below those of other commands that are served together
NAME_BYTES = 15  # a longer name is in no table
ARGUMENTS_PER_STEP = 4096  # copied in one step, by a worker
VIEW_BYTES = 64 << 10  # an argument that is longer, of a command that is longer, is not copied on the loop

DONE, INCOMPLETE, AGAIN, INLINE = 0, 1, 2, 3  # why a scan stopped; from 10 on: protocol errors
BAD_COUNT, BAD_BULK, NO_DOLLAR, LONG_COUNT, LONG_BULK, EARLY_COUNT, EARLY_BULK, LONG_LINE = range(10, 18)

_MESSAGES = {
    BAD_COUNT: "invalid multibulk length",
    BAD_BULK: "invalid bulk length",
    LONG_COUNT: "too big mbulk count string",
    LONG_BULK: "too big bulk count string",
    EARLY_COUNT: "unauthenticated multibulk length",
    EARLY_BULK: "unauthenticated bulk length",
    LONG_LINE: "too big inline request",
}

U = np.uint64
_BYTES = types.Array(types.uint8, 1, "C", readonly=True)
_INTS = types.Array(types.int64, 1, "C")
_ROWS = types.Array(types.int64, 2, "C")


@njit
def _line_number(data, start, end):
    """Read the decimal from `start` to CR LF; return (value, offset after CR LF).

    Instead of the offset: 0 for an incomplete line, -1 if it is no number, -2 if the line is too long.
    """
    cr = start
    stop = min(end, start + MAX_INLINE + 1)
    while cr < stop and data[cr] != 13:
        cr += 1
    if cr >= stop:
        return 0, -2 if stop - start > MAX_INLINE else 0
    if cr + 1 >= end:
        return 0, 0
    first = start + 1 if data[start] == 45 else start
    digits = cr - first
    if digits < 1 or digits > 18 or (data[first] == 48 and cr - start > 1):
        return 0, -1
    value = 0
    for i in range(first, cr):
        if data[i] < 48 or data[i] > 57:
            return 0, -1
        value = value * 10 + np.int64(data[i]) - 48
    return -value if first > start else value, cr + 2


@njit
def _slot(low, high, slots):
    """Return the slot where the search for a name begins, which is given as two words."""
    mixed = (low ^ (high * U(0xC2B2AE3D27D4EB4F))) * U(0x9E3779B97F4A7C15)
    return np.int64(mixed >> U(40)) & (slots - 1)


@njit
def _folded(data, start, stop):
    """Return up to 15 bytes and their number as two words, with capital letters made small."""
    low, high = U(0), U(stop - start) << U(56)
    for i in range(stop - start):
        byte = U(data[start + i])
        if U(65) <= byte <= U(90):
            byte |= U(32)
        if i < 8:
            low |= byte << U(8 * i)
        else:
            high |= byte << U(8 * i - 64)
    return low, high


@njit
def _number_of(data, start, stop, argc, names):
    """Return the number of a command in a table of names, or OTHER.

    names: see `name_table`; argc: its arguments, the name included
    """
    if stop - start > NAME_BYTES:
        return OTHER
    low, high = _folded(data, start, stop)
    at = _slot(low, high, len(names))
    while names[at, 3] != OTHER:
        if U(names[at, 0]) == low and U(names[at, 1]) == high:
            arity = names[at, 2]
            return names[at, 3] if argc == arity or (arity < 0 and argc >= -arity) else OTHER
        at = (at + 1) & (len(names) - 1)
    return OTHER


@njit
def _command(data, pos, end, limited, bounds, first):
    """Read an array of bulk strings at `pos`; return (DONE, offset after it, arguments), or (status, detail, 0).

    limited: 1 if the client is not authenticated; bounds[first:]: receives where the arguments begin and end
    """
    begin = pos
    count, pos = _line_number(data, pos + 1, end)
    if pos <= 0:
        status = BAD_COUNT if pos == -1 else LONG_COUNT if pos == -2 else INCOMPLETE
        return status, end - begin + 1, 0
    if count > MAX_ARGUMENTS:
        return BAD_COUNT, 0, 0
    if limited and count > UNAUTHENTICATED_ARGUMENTS:
        return EARLY_COUNT, 0, 0
    if count <= 0:
        return DONE, pos, 0
    if first + count > len(bounds):
        if end - pos < 6 * count:  # an argument takes at least six bytes: reserve nothing before they arrived
            return INCOMPLETE, pos - begin + 6 * count, 0
        return AGAIN, count, 0
    for i in range(count):
        left = 6 * (count - i - 1)
        if pos >= end:
            return INCOMPLETE, pos - begin + 6 + left, 0
        if data[pos] != 36:
            return NO_DOLLAR, np.int64(data[pos]), 0
        size, after = _line_number(data, pos + 1, end)
        if after <= 0:
            status = BAD_BULK if after == -1 else LONG_BULK if after == -2 else INCOMPLETE
            return status, max(end + 1, pos + 6 + left) - begin, 0
        if size < 0 or size > MAX_BULK:
            return BAD_BULK, 0, 0
        if limited and size > UNAUTHENTICATED_BULK:
            return EARLY_BULK, 0, 0
        pos = after + size + 2
        if pos > end:
            return INCOMPLETE, pos - begin + left, 0
        bounds[first + i, 0] = after
        bounds[first + i, 1] = after + size
    return DONE, pos, count


@kernel(_BYTES, types.int64, types.int64, _ROWS, hold_gil=True)
def enter_name(name, arity, number, names):
    """Enter a command into a table of names, which has a free slot."""
    low, high = _folded(name, 0, len(name))
    at = _slot(low, high, len(names))
    while names[at, 3] != OTHER:
        at = (at + 1) & (len(names) - 1)
    names[at, 0], names[at, 1], names[at, 2], names[at, 3] = np.int64(low), np.int64(high), arity, number
    return at


@kernel(_BYTES, _INTS, _ROWS, _ROWS, _ROWS, _ROWS, hold_gil=True)
def scan(data, sizes, names, bounds, rows, states):
    """Scan the buffers of len(sizes) connections, one after the other in `data`.

    sizes:  bytes of each buffer; negative if the connection is not authenticated
    names:  see `name_table`
    bounds: receives where each argument begins and ends
    rows:   receive, per command, (offset after it, first argument, arguments, number in the table of names)
    states: receive, per connection, (end of its rows, offset after its last whole command, status, detail)

    Return the number of arguments, and whether all connections sent nothing but whole commands for waves.
    """
    are_known = True
    base = 0
    row = 0
    argument = 0
    for c in range(len(sizes)):
        limited = 1 if sizes[c] < 0 else 0
        end = base + abs(sizes[c])
        pos = base
        status = DONE
        detail = 0
        first_row = row
        while pos < end:
            if data[pos] != 42:
                status = INLINE
                break
            if row >= len(rows) or (limited and row > first_row):
                status = AGAIN
                break
            status, detail, argc = _command(data, pos, end, limited, bounds, argument)
            if status != DONE:
                break
            pos = detail
            detail = 0
            if argc == 0:
                continue
            name = bounds[argument, 0]
            number = _number_of(data, name, bounds[argument, 1], argc, names)
            rows[row, 0], rows[row, 1], rows[row, 2], rows[row, 3] = pos, argument, argc, number
            row += 1
            are_known = are_known and number > OTHER
            argument += argc
        states[c, 0] = row
        states[c, 1] = pos
        states[c, 2] = status
        states[c, 3] = detail
        are_known = are_known and status == DONE and row > first_row
        base = end
    return argument, are_known


def name_table(commands: Iterable[tuple[bytes, int, int]]) -> np.ndarray:
    """Return a hash table of commands, each given as (name, arity, number): a row is (the name as two words, the arity,
    the number, OTHER in a free row)."""
    commands = list(commands)
    names = np.zeros((1 << (4 * len(commands) + 1).bit_length(), 4), np.int64)
    for name, arity, number in commands:
        assert len(name) <= NAME_BYTES and number != OTHER, name
        enter_name(np.frombuffer(name, np.uint8), arity, number, names)
    return names


ScanSlice = tuple[Any, int, int, int, list[int]]  # an owner, its first row, its first byte, its end, its state


class Scan:
    """The result of one scan, valid until the next one. Offsets are into `data`.

    are_known: see `scan`
    """

    def __init__(self, data: bytes | memoryview, blob: np.ndarray, used: int, are_known: bool, *arrays: np.ndarray):
        """Wrap what `scan` returned, and the arrays that it filled: bounds, rows, states.

        blob: the data as an array
        """
        self.data, self.blob, self.are_known = data, blob, are_known
        self.bounds, self.rows, self._states = arrays[0][:used], arrays[1], arrays[2]

    @functools.cached_property
    def starts(self) -> list[int]:
        return self.bounds[:, 0].tolist()

    @functools.cached_property
    def ends(self) -> list[int]:
        return self.bounds[:, 1].tolist()

    @functools.cached_property
    def states(self) -> list[list[int]]:
        return self._states.tolist()

    @property
    def row_ends(self) -> np.ndarray:
        """Return where the rows of each connection end."""
        return self._states[:, 0]

    def number(self, row: int) -> int:
        """Return the number of a command in the table of names, or OTHER."""
        return int(self.rows[row, 3])

    def words(self, row: int) -> list[bytes]:
        """Return the arguments of the command in a row."""
        return self.arguments(*self.rows[row, 1:3].tolist())

    def arguments(self, first: int, count: int) -> list[bytes]:
        """Return the arguments of a command; long ones after the first two are views of the data, not copies."""
        data = self.data
        stop = first + count
        if self.ends[stop - 1] - self.starts[first] > VIEW_BYTES or not isinstance(data, bytes):
            return self._views(first, stop)
        return [data[a:b] for a, b in zip(self.starts[first:stop], self.ends[first:stop])]

    def word(self, at: int) -> bytes:
        """Return one argument; `arguments` would list the bounds of all of them."""
        start, end = self.bounds[at].tolist()
        return bytes(memoryview(self.data)[start:end])

    def later_arguments(self, first: int, count: int) -> Callable[[], list[bytes]]:
        """Return a function that returns what `arguments` would, also after the next scan, and on any thread."""
        bounds, data = self.bounds[first : first + count].copy(), self.data

        def arguments() -> list[bytes]:
            view, words = memoryview(data), []
            for at in range(0, count, ARGUMENTS_PER_STEP):  # other threads may run in between
                starts, ends = (bounds[at : at + ARGUMENTS_PER_STEP, i].tolist() for i in (0, 1))
                words += [view[a:b] if b - a > VIEW_BYTES else bytes(view[a:b]) for a, b in zip(starts, ends)]
            words[:2] = map(bytes, words[:2])
            return words

        return arguments

    def _views(self, first: int, stop: int) -> list:
        view = memoryview(self.data)
        spans = list(zip(self.starts[first:stop], self.ends[first:stop]))
        return [view[a:b] if i > 1 and b - a > VIEW_BYTES else bytes(view[a:b]) for i, (a, b) in enumerate(spans)]


def slices(owners: Sequence[Any], sizes: Sequence[int], found: Scan) -> Iterator[ScanSlice]:
    """Yield which rows and bytes of a scan each owner of a buffer sent; sizes: as given to the scan."""
    row = end = 0
    for owner, size, state in zip(owners, sizes, found.states):
        first, row = row, state[0]
        start, end = end, end + abs(size)
        yield owner, first, start, end, state


class Scanner:
    """Calls `scan` with arrays that are kept between calls."""

    def __init__(self, names: np.ndarray | None = None, arguments: int = 16384, rows: int = 8192) -> None:
        """names: see `name_table`"""
        self._names = name_table([]) if names is None else names
        self._bounds = np.empty((arguments, 2), np.int64)
        self._rows = np.empty((rows, 4), np.int64)
        self._states = np.empty((64, 4), np.int64)

    def scan(self, data: bytes | memoryview, sizes: Sequence[int]) -> Scan:
        """Scan the buffers of several connections; see the kernel `scan`."""
        count = len(sizes)
        if count > len(self._states):
            self._states = np.empty((2 * count, 4), np.int64)
        blob, arrays = np.frombuffer(data, np.uint8), (self._bounds, self._rows, self._states[:count])
        found = Scan(data, blob, *scan(blob, np.array(sizes, np.int64), self._names, *arrays), *arrays)
        if not found.are_known:
            self._grow(found.states)
        return found

    def _grow(self, states: list[list[int]]) -> None:
        """Enlarge the arrays for a command that has too many arguments for them; the next scan reads it."""
        wanted = max((detail for _, _, status, detail in states if status == AGAIN), default=0)
        if wanted > len(self._bounds):
            self._bounds = np.empty((wanted, 2), np.int64)


def protocol_error(status: int, detail: int) -> bytes:
    """Return the error reply for a status of `scan`."""
    if status == NO_DOLLAR:
        return error(b"ERR Protocol error: expected '$', got '" + bytes([detail]) + b"'")
    return error(b"ERR Protocol error: " + _MESSAGES[status].encode())


# ---- inline commands: what a person types into telnet ----

_ESCAPES = {ord("n"): 10, ord("r"): 13, ord("t"): 9, ord("b"): 8, ord("a"): 7}
_SPACE = b" \n\r\t\v\f\0"


def split_inline(line: bytes) -> list[bytes] | None:
    """Split a line into words by Redis' rules of quoting.

    Return None if a quotation is not closed, or not followed by a space.
    """
    words: list[bytes] = []
    at = 0
    while True:
        while at < len(line) and line[at] in _SPACE:
            at += 1
        if at >= len(line):
            return words
        word, at = _word(line, at)
        if word is None:
            return None
        words.append(word)


def _word(line: bytes, at: int) -> tuple[bytes | None, int]:
    """Return the word that begins at `at`, and the offset after it; None if its quotation is wrong."""
    word = bytearray()
    while at < len(line) and line[at] not in _SPACE:
        if line[at] not in b"\"'":
            word.append(line[at])
            at += 1
            continue
        part, at = _quoted(line, at + 1, line[at])
        if part is None or (at < len(line) and line[at] not in _SPACE):
            return None, at
        return bytes(word + part), at
    return bytes(word), at


def _quoted(line: bytes, at: int, quote: int) -> tuple[bytes | None, int]:
    """Return the quoted text that begins at `at`, and the offset after it; None if the quotation is not closed."""
    part = bytearray()
    while at < len(line):
        if line[at] == quote:
            return bytes(part), at + 1
        if line[at] == ord("\\") and at + 1 < len(line):
            at += _escaped(line, at, quote, part)
        else:
            part.append(line[at])
            at += 1
    return None, at


def _escaped(line: bytes, at: int, quote: int, part: bytearray) -> int:
    """Append the byte that the escape at `at` stands for; return the length of the escape."""
    following = line[at + 1]
    if quote == ord("'"):
        if following == quote:
            part.append(quote)
            return 2
        part.append(line[at])
        return 1
    digits = line[at + 2 : at + 4]
    if following == ord("x") and len(digits) == 2 and all(chr(d) in "0123456789abcdefABCDEF" for d in digits):
        part.append(int(digits, 16))
        return 4
    part.append(_ESCAPES.get(following, following))
    return 2


# ---- replies ----

Buffer = bytes | memoryview
Reply = bytes | list  # of buffers, so that long replies are not copied
IN_PLACE = 16 << 10  # up to which copying a value is cheaper than a buffer of its own

OK = b"+OK\r\n"
QUEUED = b"+QUEUED\r\n"
ZERO = b":0\r\n"
ONE = b":1\r\n"
EMPTY_ARRAY = b"*0\r\n"
NULL = {2: b"$-1\r\n", 3: b"_\r\n"}
NULL_ARRAY = {2: b"*-1\r\n", 3: b"_\r\n"}


def simple(text: bytes) -> bytes:
    return b"+%b\r\n" % text


def error(text: bytes | str) -> bytes:
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogateescape")  # bytes of the client, which need not be UTF-8
    return b"-%b\r\n" % text.replace(b"\r", b" ").replace(b"\n", b" ")


def integer(value: int) -> bytes:
    return b":%d\r\n" % value


def bulk(value: Buffer) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def blob(value: Buffer) -> Reply:
    """Encode a bulk string without copying a long value."""
    if len(value) <= IN_PLACE:
        return b"$%d\r\n%b\r\n" % (len(value), value)
    return [b"$%d\r\n" % len(value), value, b"\r\n"]


def blob_or_null(value: Buffer | None, protocol: int) -> Reply:
    return NULL[protocol] if value is None else blob(value)


def array(replies: Iterable[bytes]) -> bytes:
    replies = list(replies)
    return b"*%d\r\n%b" % (len(replies), b"".join(replies))


def bulks(values: Iterable[bytes]) -> bytes:
    return array(bulk(value) for value in values)


def a_set(replies: Sequence[bytes], protocol: int) -> bytes:
    return (b"~%d\r\n%b" if protocol == 3 else b"*%d\r\n%b") % (len(replies), b"".join(replies))


def a_map(pairs: Sequence[tuple[bytes, bytes]], protocol: int) -> bytes:
    """Encode a map of encoded keys and values; in RESP2 a flat array."""
    head = b"%%%d\r\n" % len(pairs) if protocol == 3 else b"*%d\r\n" % (2 * len(pairs))
    return head + b"".join(part for pair in pairs for part in pair)


def push(replies: Sequence[bytes]) -> bytes:
    """Encode a message between replies, for clients of RESP3."""
    return b">%d\r\n%b" % (len(replies), b"".join(replies))


def text(value: bytes, protocol: int) -> bytes:
    """Encode text for people: a verbatim string in RESP3."""
    return b"=%d\r\ntxt:%b\r\n" % (len(value) + 4, value) if protocol == 3 else bulk(value)


def chunks(reply: Reply) -> list:
    return reply if isinstance(reply, list) else [reply]


def joined(replies: Sequence[Reply]) -> Reply:
    """Encode an array of replies, some of which may be lists of buffers."""
    head = b"*%d\r\n" % len(replies)
    if all(isinstance(reply, bytes) for reply in replies):
        return head + b"".join(replies)
    return [head, *(part for reply in replies for part in chunks(reply))]
