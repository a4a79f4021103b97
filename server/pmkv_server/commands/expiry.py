"""Commands on the expiry of keys, which the store keeps as unix time in milliseconds."""

from __future__ import annotations

from pmkv_server.commands.actions import EXPIRE, PERSIST, TTL
from pmkv_server.commands.registry import EXPIRY_LIMIT_MS, INT_MAX, INT_MIN, CommandError, Group, parse_int, printable
from pmkv_server.commands.strings import now_ms
from pmkv_server.net.session import Session
from pmkv_server.resp.scan import ONE, ZERO, Reply, integer

group = Group("generic")
command = group.command

_NO_KEY, _NO_EXPIRY = integer(-2), integer(-1)


@command("expire", -3, "write fast", (1, 1, 1), action=(EXPIRE, 1000))
def expire(session: Session, arguments: list[bytes]) -> Reply:
    """Set the time to live of a key in seconds."""
    return _expire(session, arguments, 1000, now_ms())


@command("pexpire", -3, "write fast", (1, 1, 1), action=(EXPIRE, 1))
def pexpire(session: Session, arguments: list[bytes]) -> Reply:
    """Set the time to live of a key in milliseconds."""
    return _expire(session, arguments, 1, now_ms())


@command("expireat", -3, "write fast", (1, 1, 1), action=(EXPIRE, -1000))
def expireat(session: Session, arguments: list[bytes]) -> Reply:
    """Set the expiry of a key as unix time in seconds."""
    return _expire(session, arguments, 1000, 0)


@command("pexpireat", -3, "write fast", (1, 1, 1), action=(EXPIRE, -1))
def pexpireat(session: Session, arguments: list[bytes]) -> Reply:
    """Set the expiry of a key as unix time in milliseconds."""
    return _expire(session, arguments, 1, 0)


def _expire(session: Session, arguments: list[bytes], factor: int, base: int) -> bytes:
    flags = _conditions(arguments[3:])
    at = parse_int(arguments[2]) * factor
    if not INT_MIN <= at <= INT_MAX - base:
        raise CommandError(f"ERR invalid expire time in '{arguments[0].decode().lower()}' command")
    at = min(at + base, EXPIRY_LIMIT_MS - 1)
    key, keyspace = arguments[1], session.keyspace
    with session.server.store.batch():
        current = keyspace.expiry(key)
        if current is None or not _allowed(flags, at, current):
            return ZERO
        if at <= now_ms():
            keyspace.delete(key)
        else:
            keyspace.expire(key, at)
        return ONE


def _conditions(words: list[bytes]) -> set[bytes]:
    flags = {word.upper() for word in words}
    for word in words:
        if word.upper() not in (b"NX", b"XX", b"GT", b"LT"):
            raise CommandError(f"ERR Unsupported option {printable(word, len(word))}")
    if b"NX" in flags and len(flags) > 1:
        raise CommandError("ERR NX and XX, GT or LT options at the same time are not compatible")
    if {b"GT", b"LT"} <= flags:
        raise CommandError("ERR GT and LT options at the same time are not compatible")
    return flags


def _allowed(flags: set[bytes], at: int, current: int) -> bool:
    """Tell whether the flags allow to move the expiry from `current` (0: none, later than any other) to `at`."""
    if (b"NX" in flags and current) or (b"XX" in flags and not current):
        return False
    if b"GT" in flags and (not current or at <= current):
        return False
    return not (b"LT" in flags and current and at >= current)


@command("persist", 2, "write fast", (1, 1, 1), action=(PERSIST, 0))
def persist(session: Session, arguments: list[bytes]) -> Reply:
    """Remove the expiry of a key."""
    key = arguments[1]
    with session.server.store.batch():
        if not session.keyspace.expiry(key):
            return ZERO
        session.keyspace.expire(key, 0)
        return ONE


def _when(session: Session, key: bytes, reply) -> bytes:
    at = session.keyspace.expiry(key)
    if at is None:
        return _NO_KEY
    return integer(reply(at)) if at else _NO_EXPIRY


@command("ttl", 2, "readonly fast", (1, 1, 1), action=(TTL, 1000))
def ttl(session: Session, arguments: list[bytes]) -> Reply:
    """Return the time to live of a key in seconds; -1: no expiry, -2: no such key."""
    return _when(session, arguments[1], lambda at: (max(at - now_ms(), 0) + 500) // 1000)


@command("pttl", 2, "readonly fast", (1, 1, 1), action=(TTL, 1))
def pttl(session: Session, arguments: list[bytes]) -> Reply:
    """Return the time to live of a key in milliseconds; -1: no expiry, -2: no such key."""
    return _when(session, arguments[1], lambda at: max(at - now_ms(), 0))


@command("expiretime", 2, "readonly fast", (1, 1, 1), action=(TTL, -1000))
def expiretime(session: Session, arguments: list[bytes]) -> Reply:
    """Return the expiry of a key as unix time in s; -1: none, -2: no such key."""
    return _when(session, arguments[1], lambda at: (at + 500) // 1000)


@command("pexpiretime", 2, "readonly fast", (1, 1, 1), action=(TTL, -1))
def pexpiretime(session: Session, arguments: list[bytes]) -> Reply:
    """Return the expiry of a key as unix time in ms; -1: none, -2: no such key."""
    return _when(session, arguments[1], lambda at: at)
