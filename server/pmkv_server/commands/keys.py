"""Commands on keys whatever their value: DEL, EXISTS, SCAN, RENAME, COPY, FLUSHDB and the like."""

from __future__ import annotations

from collections.abc import Generator

from pmkv_server.commands.actions import DELETE, EXISTS, TYPE
from pmkv_server.commands.registry import (
    NO_SUCH_KEY,
    NOT_AN_INTEGER,
    SYNTAX,
    CommandError,
    Group,
    check_reply_size,
    parse_cursor,
    parse_int,
)
from pmkv_server.commands.strings import value_is_long
from pmkv_server.net.session import Session
from pmkv_server.resp import glob
from pmkv_server.resp.scan import NULL, OK, ONE, ZERO, Reply, array, bulk, bulks, integer, simple

group = Group("generic")
command = group.command

HEAVY_UNCOUNTED = 1 << 14  # counting more keys or rows than that takes milliseconds and runs in a worker
HEAVY_SCAN_KEYS = 1000  # larger COUNTs run in a worker
LOOK_KEYS = 2048  # that one look at the index visits
SCAN_BYTES = 16 << 20  # of keys, after which a SCAN returns before its COUNT
KEYSPACES = 16
NOT_INT32 = f"ERR value is out of range, value must between {-(1 << 31)} and {(1 << 31) - 1}"
DB_OUT_OF_RANGE = "ERR DB index is out of range"


def counts_much(session: Session, arguments: list[bytes]) -> bool:
    """Tell whether counting the keys takes long: after a restart or many writes it first looks up what was written."""
    return session.keyspace.uncounted > HEAVY_UNCOUNTED


@command("del", -2, "write", (1, -1, 1), action=(DELETE, 0))
def delete(session: Session, arguments: list[bytes]) -> Reply:
    """Delete keys and return how many existed."""
    keyspace, keys = session.keyspace, arguments[1:]
    return integer(keyspace.delete_many(keys))


command("unlink", -2, "write fast", (1, -1, 1), action=(DELETE, 0))(delete)


@command("exists", -2, "readonly fast", (1, -1, 1), action=(EXISTS, 0))
def exists(session: Session, arguments: list[bytes]) -> Reply:
    """Return how many of the keys exist; a key named twice counts twice."""
    return integer(sum(session.keyspace.contains_many(arguments[1:])))


command("touch", -2, "readonly fast", (1, -1, 1), action=(EXISTS, 0))(exists)


@command("type", 2, "readonly fast", (1, 1, 1), action=(TYPE, 0))
def type_(session: Session, arguments: list[bytes]) -> Reply:
    """Return the type of a key: string or none."""
    return simple(b"string" if arguments[1] in session.keyspace else b"none")


@command("dbsize", 1, "readonly fast", heavy=counts_much)
def dbsize(session: Session, arguments: list[bytes]) -> Reply:
    """Return the count of keys in this keyspace."""
    return integer(len(session.keyspace))


@command("keys", 2, "readonly", heavy=lambda session, arguments: True)
def keys(session: Session, arguments: list[bytes]) -> Reply:
    """Return all keys that match a pattern."""
    pattern = glob.Pattern(arguments[1])
    found: set[bytes] = set()
    size = 0
    for names in _pages(session, 0, None):
        selected = pattern.select(names)
        found.update(selected)
        size += sum(map(len, selected))
        check_reply_size(size)
    return bulks(found)


def _pages(session: Session, cursor: int, count: int | None) -> Generator[list[bytes], None, int]:
    """Yield keys from a cursor on, page by page, until there are `count`, or many bytes of them.

    Each page is a short look at the index, during which nobody writes. The generator returns the next cursor.
    """
    left, size = count or 0, 0
    while True:
        cursor, names = session.keyspace.keys(cursor, LOOK_KEYS if count is None else min(left, LOOK_KEYS))
        yield names
        left -= LOOK_KEYS
        size += sum(map(len, names))
        if not cursor or (count is not None and (left <= 0 or size > SCAN_BYTES)):
            return cursor


def _scans_much(session: Session, arguments: list[bytes]) -> bool:
    return _scan_options(arguments[2:])[0] > HEAVY_SCAN_KEYS


@command("scan", -2, "readonly", heavy=_scans_much)
def scan(session: Session, arguments: list[bytes]) -> Reply:
    """Return the next cursor (0 at the end) and some keys, about COUNT if there are as many.

    A key that exists from the first call to the last is returned at least once; one that never exists is not returned.
    """
    cursor = parse_cursor(arguments[1])
    count, pattern, kind = _scan_options(arguments[2:])
    names: list[bytes] = []
    pages = _pages(session, cursor, count)
    while True:
        try:
            page = next(pages)
        except StopIteration as end:
            return array([bulk(b"%d" % end.value), bulks(names)])
        if kind in (None, b"string"):
            names += pattern.select(page) if pattern else page


def _scan_options(words: list[bytes]) -> tuple[int, glob.Pattern | None, bytes | None]:
    count, pattern, kind = 10, None, None
    for i in range(0, len(words), 2):
        option = words[i].upper()
        if i + 1 >= len(words) or option not in (b"COUNT", b"MATCH", b"TYPE"):
            raise CommandError(SYNTAX)
        if option == b"COUNT":
            count = parse_int(words[i + 1], NOT_AN_INTEGER)
            if count < 1:
                raise CommandError(SYNTAX)
        elif option == b"MATCH":
            pattern = glob.Pattern(words[i + 1])
        else:
            kind = words[i + 1].lower()
    return min(count, 1 << 20), pattern, kind


@command("randomkey", 1, "readonly", heavy=lambda session, arguments: True)
def randomkey(session: Session, arguments: list[bytes]) -> Reply:
    """Return a random key."""
    key = session.keyspace.random_key()
    return NULL[session.protocol] if key is None else bulk(key)


@command("rename", 3, "write", (1, 2, 1), value_is_long)
def rename(session: Session, arguments: list[bytes]) -> Reply:
    """Rename a key, replacing the value of the new name."""
    _move(session, arguments, replace=True)
    return OK


@command("renamenx", 3, "write fast", (1, 2, 1), value_is_long)
def renamenx(session: Session, arguments: list[bytes]) -> Reply:
    """Rename a key if the new name does not exist."""
    return ONE if _move(session, arguments, replace=False) else ZERO


def _move(session: Session, arguments: list[bytes], replace: bool) -> bool:
    _, source, target = arguments
    keyspace = session.keyspace
    with session.server.store.batch():
        found = keyspace.entry(source)
        if found is None:
            raise CommandError(NO_SUCH_KEY)
        if source == target:
            return replace
        if not replace and target in keyspace:
            return False
        keyspace.put(target, found[0], expire_at=found[1] or None)
        keyspace.delete(source)
        return True


@command("copy", -3, "write denyoom", (1, 2, 1), value_is_long)
def copy(session: Session, arguments: list[bytes]) -> Reply:
    """Copy a value to another key, also of another keyspace."""
    _, source, target, *words = arguments
    replace, db = _copy_options(words, session.db)
    if source == target and db == session.db:
        raise CommandError("ERR source and destination objects are the same")
    destination = session.view.keyspace(db)
    with session.server.store.batch():
        found = session.keyspace.entry(source)
        if found is None or (not replace and target in destination):
            return ZERO
        destination.put(target, found[0], expire_at=found[1] or None)
        return ONE


def _copy_options(words: list[bytes], db: int) -> tuple[bool, int]:
    replace, i = False, 0
    while i < len(words):
        option = words[i].upper()
        if option == b"REPLACE":
            replace = True
        elif option == b"DB" and i + 1 < len(words):
            i += 1
            db = parse_db(words[i])
        else:
            raise CommandError(SYNTAX)
        i += 1
    return replace, db


def parse_db(word: bytes) -> int:
    """Return the number of a keyspace; numbers beyond 32 bits get the error text of Redis."""
    db = parse_int(word, NOT_AN_INTEGER)
    if not -(1 << 31) <= db < 1 << 31:
        raise CommandError(NOT_INT32)
    if not 0 <= db < KEYSPACES:
        raise CommandError(DB_OUT_OF_RANGE)
    return db


@command("flushdb", -1, "write")
def flushdb(session: Session, arguments: list[bytes]) -> Reply:
    """Delete all keys of this keyspace; tables stay."""
    _check_flush_mode(arguments)
    session.keyspace.clear()
    return OK


@command("flushall", -1, "write")
def flushall(session: Session, arguments: list[bytes]) -> Reply:
    """Delete all keys of all keyspaces; tables stay."""
    _check_flush_mode(arguments)
    session.view.flush_all()
    return OK


def _check_flush_mode(arguments: list[bytes]) -> None:
    if len(arguments) > 2 or (len(arguments) == 2 and arguments[1].upper() not in (b"SYNC", b"ASYNC")):
        raise CommandError(SYNTAX)
