"""Commands on string values: GET, SET, INCR, APPEND and the like."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from pmkv import BytesArray
from pmkv_server.commands.actions import (
    ADD,
    APPEND,
    GET,
    GETDEL,
    GETEX,
    GETRANGE,
    GETSET,
    MGET,
    MSET,
    MSETNX,
    SET,
    SETEX,
    SETNX,
    SETRANGE,
    STRLEN,
)
from pmkv_server.commands.registry import (
    EXPIRY_LIMIT_MS,
    INT_MAX,
    INT_MIN,
    NOT_AN_INTEGER,
    SYNTAX,
    CommandError,
    Group,
    check_reply_size,
    parse_int,
    wrong_arity,
)
from pmkv_server.net.session import Session
from pmkv_server.parsing import strict_long_double
from pmkv_server.resp.replies import Replies
from pmkv_server.resp.scan import (
    IN_PLACE,
    MAX_BULK,
    NULL,
    OK,
    ONE,
    ZERO,
    Reply,
    blob,
    blob_or_null,
    bulk,
    integer,
    joined,
)

group = Group("string")
command = group.command

LONG_DOUBLE_CHARS = 5 << 10  # a number of as many characters or more is refused, as in Redis
LONG_VALUE_BYTES = 1 << 20  # longer values are handled in a worker
_UNITS = {b"EX": (1000, True), b"PX": (1, True), b"EXAT": (1000, False), b"PXAT": (1, False)}
TOO_LONG = "ERR string exceeds maximum allowed size (proto-max-bulk-len)"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def value_is_long(session: Session, arguments: list[bytes]) -> bool:
    """Tell whether the arguments, or the value stored under the first key, are too long for the event loop."""
    return sum(map(len, arguments)) > LONG_VALUE_BYTES or (session.keyspace.size(arguments[1]) or 0) > LONG_VALUE_BYTES


def some_value_is_long(session: Session, arguments: list[bytes]) -> bool:
    return any((size or 0) > LONG_VALUE_BYTES for size in session.keyspace.sizes(arguments[1:]))


def expiry_ms(word: bytes, unit: bytes, title: str) -> int:
    """Return the unix time in ms that the argument of EX, PX, EXAT or PXAT means."""
    factor, relative = _UNITS[unit]
    value = parse_int(word)
    at = value * factor + (now_ms() if relative else 0)
    if value <= 0 or value * factor > INT_MAX or at > INT_MAX:
        raise CommandError(f"ERR invalid expire time in '{title}' command")
    return min(at, EXPIRY_LIMIT_MS - 1)


class Options:
    """The options after a key or value: NX, XX, GET, KEEPTTL, PERSIST and one of the four expiries."""

    def __init__(self, words: list[bytes], allowed: frozenset[bytes]) -> None:
        self.flags: set[bytes] = set()
        self.expiry: tuple[bytes, bytes] | None = None  # unit, argument
        i = 0
        while i < len(words):
            word = words[i].upper()
            if word not in allowed:
                raise CommandError(SYNTAX)
            if word in _UNITS:
                i += 1
                if i >= len(words) or (self.expiry and self.expiry[0] != word):
                    raise CommandError(SYNTAX)
                self.expiry = (word, words[i])
            self.flags.add(word)
            i += 1
        exclusive = len(self.flags & {b"EX", b"PX", b"EXAT", b"PXAT", b"KEEPTTL", b"PERSIST"})
        if exclusive > 1 or {b"NX", b"XX"} <= self.flags:
            raise CommandError(SYNTAX)

    def expiry_ms(self, title: str) -> int:
        """Return the expiry as unix time in ms, 0 for none."""
        return expiry_ms(self.expiry[1], self.expiry[0], title) if self.expiry else 0


_SET_OPTIONS = frozenset((b"NX", b"XX", b"GET", b"KEEPTTL", *_UNITS))
_GETEX_OPTIONS = frozenset((b"PERSIST", *_UNITS))


@command("get", 2, "readonly fast", (1, 1, 1), value_is_long, action=(GET, 0))
def get(session: Session, arguments: list[bytes]) -> Reply:
    """Return the value of a key."""
    return blob_or_null(session.keyspace.get(arguments[1]), session.protocol)


@command("set", -3, "write denyoom", (1, 1, 1), values=slice(2, 3), action=(SET, 0))
def set_(session: Session, arguments: list[bytes]) -> Reply:
    """Set the value of a key, with options for its expiry and for whether the key exists."""
    key, value = arguments[1], arguments[2]
    if len(arguments) == 3:
        session.keyspace.put(key, value)
        return OK
    options = Options(arguments[3:], _SET_OPTIONS)
    expire_at = options.expiry_ms("set")
    with session.server.store.batch():
        return _set_with(session, key, value, options, expire_at)


def _set_with(session: Session, key: bytes, value: bytes, options: Options, expire_at: int) -> bytes:
    flags, keyspace = options.flags, session.keyspace
    old = keyspace.entry(key) if flags & {b"GET", b"KEEPTTL", b"NX", b"XX"} else None
    refused = (b"NX" in flags and old is not None) or (b"XX" in flags and old is None)
    if not refused:
        if b"KEEPTTL" in flags and old:
            expire_at = old[1]
        keyspace.put_entries([key], [value], [expire_at])
    if b"GET" in flags:
        return blob_or_null(old and old[0], session.protocol)
    return NULL[session.protocol] if refused else OK


@command("setnx", 3, "write denyoom fast", (1, 1, 1), values=slice(2, 3), action=(SETNX, 0))
def setnx(session: Session, arguments: list[bytes]) -> Reply:
    """Set the value of a key if the key does not exist."""
    _, key, value = arguments
    with session.server.store.batch():
        if key in session.keyspace:
            return ZERO
        session.keyspace.put(key, value)
        return ONE


@command("setex", 4, "write denyoom", (1, 1, 1), values=slice(3, 4), action=(SETEX, 1000))
def setex(session: Session, arguments: list[bytes]) -> Reply:
    """Set the value of a key and its time to live in seconds."""
    return _set_expiring(session, arguments, b"EX", "setex")


@command("psetex", 4, "write denyoom", (1, 1, 1), values=slice(3, 4), action=(SETEX, 1))
def psetex(session: Session, arguments: list[bytes]) -> Reply:
    """Set the value of a key and its time to live in milliseconds."""
    return _set_expiring(session, arguments, b"PX", "psetex")


def _set_expiring(session: Session, arguments: list[bytes], unit: bytes, title: str) -> Reply:
    _, key, time_to_live, value = arguments
    expire_at = expiry_ms(time_to_live, unit, title)
    session.keyspace.put_entries([key], [value], [expire_at])
    return OK


@command("getset", 3, "write denyoom fast", (1, 1, 1), value_is_long, values=slice(2, 3), action=(GETSET, 0))
def getset(session: Session, arguments: list[bytes]) -> Reply:
    """Set the value of a key and return the previous one."""
    _, key, value = arguments
    with session.server.store.batch():
        old = session.keyspace.get(key)
        session.keyspace.put(key, value)
    return blob_or_null(old, session.protocol)


@command("getdel", 2, "write fast", (1, 1, 1), value_is_long, action=(GETDEL, 0))
def getdel(session: Session, arguments: list[bytes]) -> Reply:
    """Delete a key and return its value."""
    key = arguments[1]
    with session.server.store.batch():
        old = session.keyspace.get(key)
        if old is not None:
            session.keyspace.delete(key)
    return blob_or_null(old, session.protocol)


@command("getex", -2, "write fast", (1, 1, 1), value_is_long, action=(GETEX, 0))
def getex(session: Session, arguments: list[bytes]) -> Reply:
    """Return the value of a key and set or remove its expiry."""
    key = arguments[1]
    options = Options(arguments[2:], _GETEX_OPTIONS)
    with session.server.store.batch():
        found = session.keyspace.entry(key)
        if found is None:
            return NULL[session.protocol]
        expire_at = options.expiry_ms("getex")
        if expire_at or (b"PERSIST" in options.flags and found[1]):
            session.keyspace.expire(key, expire_at)
    return blob(found[0])


@command("mget", -2, "readonly fast", (1, -1, 1), some_value_is_long, action=(MGET, 0))
def mget(session: Session, arguments: list[bytes]) -> Reply:
    """Return the values of several keys."""
    keys, protocol = arguments[1:], session.protocol
    values = session.keyspace.get_spans(keys)
    if values is None:
        check_reply_size(sum(size or 0 for size in session.keyspace.sizes(keys)))
        values = session.keyspace.get_many(keys)
    elif protocol == 2 or not values.absent:  # `bulks` has no null of RESP3
        return bulks(values)
    return joined([blob_or_null(value, protocol) for value in values])


def bulks(values: BytesArray) -> Reply:
    """Return an array of bulk strings."""
    head, replies = b"*%d\r\n" % len(values), Replies.bulks(values).data
    return [head, memoryview(replies)] if replies.size > IN_PLACE else head + replies.tobytes()


@command("mset", -3, "write denyoom", (1, -1, 2), values=slice(2, None, 2), action=(MSET, 0))
def mset(session: Session, arguments: list[bytes]) -> Reply:
    """Set the values of several keys."""
    session.keyspace.put_entries(*_entries(arguments, "mset"))
    return OK


@command("msetnx", -3, "write denyoom", (1, -1, 2), values=slice(2, None, 2), action=(MSETNX, 0))
def msetnx(session: Session, arguments: list[bytes]) -> Reply:
    """Set the values of several keys if none of them exists."""
    entries = _entries(arguments, "msetnx")
    with session.server.store.batch():
        if any(session.keyspace.contains_many(arguments[1::2])):
            return ZERO
        session.keyspace.put_entries(*entries)
    return ONE


def _entries(arguments: list[bytes], title: str) -> tuple[list[bytes], list[bytes], np.ndarray]:
    """Return the keys, values and expiries (none) of the arguments."""
    if len(arguments) % 2 == 0:
        raise CommandError(wrong_arity(title))
    keys = arguments[1::2]
    return keys, arguments[2::2], np.zeros(len(keys), np.int64)


@command("append", 3, "write denyoom fast", (1, 1, 1), value_is_long, values=slice(2, 3), action=(APPEND, 0))
def append(session: Session, arguments: list[bytes]) -> Reply:
    """Append bytes to a value and return its new length."""
    _, key, tail = arguments
    if (session.keyspace.size(key) or 0) + len(tail) > MAX_BULK:
        raise CommandError(TOO_LONG)
    return integer(len(_change(session, key, lambda value: b"".join((value, tail)))))


def _change(session: Session, key: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Replace the value of a key (empty if absent) by change(value), keep its expiry, and return the new value."""
    keyspace = session.keyspace
    with session.server.store.batch():
        old, expire_at = keyspace.entry(key) or (b"", 0)
        value = change(old)
        keyspace.put_entries([key], [value], [expire_at])
    return value


@command("strlen", 2, "readonly fast", (1, 1, 1), action=(STRLEN, 0))
def strlen(session: Session, arguments: list[bytes]) -> Reply:
    """Return the length of a value in bytes."""
    return integer(session.keyspace.size(arguments[1]) or 0)


@command("getrange", 4, "readonly", (1, 1, 1), value_is_long, action=(GETRANGE, 0))
def getrange(session: Session, arguments: list[bytes]) -> Reply:
    """Return a part of a value; negative offsets count from its end."""
    start, end = parse_int(arguments[2]), parse_int(arguments[3])
    value = memoryview(session.keyspace.get(arguments[1]) or b"")
    if start < 0 and end < 0 and start > end:
        return bulk(b"")
    start = max(start + len(value), 0) if start < 0 else start
    end = max(end + len(value), 0) if end < 0 else end
    return blob(value[start : end + 1])


command("substr", 4, "readonly", (1, 1, 1), value_is_long, action=(GETRANGE, 0))(getrange)


def _setrange_is_heavy(session: Session, arguments: list[bytes]) -> bool:
    """Tell whether the value is long, or becomes long because the offset has more than six digits."""
    return value_is_long(session, arguments) or len(arguments[2]) > 6


@command("setrange", 4, "write denyoom", (1, 1, 1), _setrange_is_heavy, values=slice(3, 4), action=(SETRANGE, 0))
def setrange(session: Session, arguments: list[bytes]) -> Reply:
    """Overwrite a part of a value, which is first padded with zeros if it is too short."""
    _, key, offset, part = arguments
    at = parse_int(offset)
    if at < 0:
        raise CommandError("ERR offset is out of range")
    if not part:
        return integer(session.keyspace.size(key) or 0)
    if at + len(part) > MAX_BULK:
        raise CommandError(TOO_LONG)

    def overwritten(value: bytes) -> bytes:
        head, tail = memoryview(value)[:at], memoryview(value)[at + len(part) :]
        return b"".join((head, bytes(at - len(head)), part, tail))

    return integer(len(_change(session, key, overwritten)))


@command("incr", 2, "write denyoom fast", (1, 1, 1), action=(ADD, 1))
def incr(session: Session, arguments: list[bytes]) -> Reply:
    """Add one to an integer."""
    return _add(session, arguments, 1)


@command("decr", 2, "write denyoom fast", (1, 1, 1), action=(ADD, -1))
def decr(session: Session, arguments: list[bytes]) -> Reply:
    """Subtract one from an integer."""
    return _add(session, arguments, -1)


@command("incrby", 3, "write denyoom fast", (1, 1, 1), action=(ADD, 1))
def incrby(session: Session, arguments: list[bytes]) -> Reply:
    """Add an integer to an integer."""
    return _add(session, arguments, parse_int(arguments[2]))


@command("decrby", 3, "write denyoom fast", (1, 1, 1), action=(ADD, -1))
def decrby(session: Session, arguments: list[bytes]) -> Reply:
    """Subtract an integer from an integer."""
    amount = parse_int(arguments[2])
    if amount == INT_MIN:
        raise CommandError("ERR decrement would overflow")
    return _add(session, arguments, -amount)


def _add(session: Session, arguments: list[bytes], amount: int) -> bytes:
    def added(value: bytes) -> bytes:
        total = (parse_int(value, NOT_AN_INTEGER) if value else _zero(session, arguments[1])) + amount
        if not INT_MIN <= total <= INT_MAX:
            raise CommandError("ERR increment or decrement would overflow")
        return b"%d" % total

    return b":" + _change(session, arguments[1], added) + b"\r\n"


def _zero(session: Session, key: bytes) -> int:
    """Return 0 for an absent key, and refuse an empty value that is stored."""
    if key in session.keyspace:
        raise CommandError(NOT_AN_INTEGER)
    return 0


@command("incrbyfloat", 3, "write denyoom fast", (1, 1, 1))
def incrbyfloat(session: Session, arguments: list[bytes]) -> Reply:
    """Add a floating-point number to a number."""
    amount = long_double(arguments[2])

    def added(value: bytes) -> bytes:
        with np.errstate(all="ignore"):
            total = (long_double(value) if value or arguments[1] in session.keyspace else np.longdouble(0)) + amount
        if not np.isfinite(total):
            raise CommandError("ERR increment would produce NaN or Infinity")
        return np.format_float_positional(total + 0.0, precision=17, unique=False, trim="-").encode()

    return bulk(_change(session, arguments[1], added))


def long_double(word: bytes) -> np.longdouble:
    """Parse a number as C's long double, so that sums are the same as in Redis."""
    value = strict_long_double(str(word, "latin-1")) if len(word) < LONG_DOUBLE_CHARS else None
    if value is None:
        raise CommandError("ERR value is not a valid float")
    return value
