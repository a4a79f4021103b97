"""Commands about the server: COMMAND, CONFIG, TIME, FUNCTION, SAVE, BGSAVE, LASTSAVE, SHUTDOWN."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pmkv.errors import PmkvError
from pmkv_server.bgsave import saved_at
from pmkv_server.commands.registry import COMMANDS, SYNTAX, Command, CommandError, Group, printable
from pmkv_server.config import is_loopback
from pmkv_server.net.session import Session
from pmkv_server.parsing import memory_size, strict_int
from pmkv_server.resp import glob
from pmkv_server.resp.scan import EMPTY_ARRAY, NULL, OK, Reply, a_map, a_set, array, bulk, bulks, integer, simple

if TYPE_CHECKING:
    from pmkv_server.server import Server

log = logging.getLogger("pmkv.server")
group = Group("server")
command = group.command

_REDIS_FLAGS = {"no_auth", "write", "readonly", "denyoom", "fast", "no_multi", "blocking"}


@command("time", 1, "fast loop")
def time_(session: Session, arguments: list[bytes]) -> Reply:
    """Return the unix time as seconds and microseconds."""
    seconds, micros = divmod(time.time_ns() // 1000, 1_000_000)
    return bulks((b"%d" % seconds, b"%d" % micros))


@command("command", -1, "loop")
def command_(session: Session, arguments: list[bytes]) -> Reply:
    """Return all commands with arity, flags and key positions."""
    return array(_described(entry, session.protocol) for entry in COMMANDS.values())


@command("command|count", 2, "loop")
def command_count(session: Session, arguments: list[bytes]) -> Reply:
    """Return the count of commands."""
    return integer(len(COMMANDS))


@command("command|list", -2, "loop")
def command_list(session: Session, arguments: list[bytes]) -> Reply:
    """Return the names of all commands, or of those that a filter selects.

    Syntax: COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]
    """
    words = arguments[2:]
    if not words:
        return bulks(COMMANDS)
    if len(words) != 3 or words[0].upper() != b"FILTERBY":
        raise CommandError(SYNTAX)
    kind, value = words[1].upper(), words[2]
    if kind == b"MODULE":
        return bulks(())
    if kind == b"ACLCAT":
        return bulks(name for name, entry in COMMANDS.items() if value.lower().decode("latin-1") in _categories(entry))
    if kind == b"PATTERN":
        return bulks(glob.Pattern(value.lower()).select(list(COMMANDS)))
    raise CommandError(SYNTAX)


_CATEGORIES = {"generic": "keyspace", "transactions": "transaction", "server": "admin"}  # Redis' names of groups


def _categories(entry: Command) -> set[str]:
    """Return the categories of a command as in Redis' access control lists, as far as its flags and group tell them."""
    found = {_CATEGORIES.get(entry.group, entry.group), "fast" if "fast" in entry.flags else "slow"}
    found |= {"write"} if "write" in entry.flags else set()
    return found | ({"read"} if "readonly" in entry.flags else set())


@command("command|info", -2, "loop")
def command_info(session: Session, arguments: list[bytes]) -> Reply:
    """Return arity, flags and key positions of the commands named."""
    names = [name.lower() for name in arguments[2:]] or list(COMMANDS)
    none = NULL[session.protocol]
    return array(_described(COMMANDS[name], session.protocol) if name in COMMANDS else none for name in names)


@command("command|docs", -2, "loop")
def command_docs(session: Session, arguments: list[bytes]) -> Reply:
    """Return a summary of the commands named."""
    names = [name.lower() for name in arguments[2:]] or list(COMMANDS)
    entries = [COMMANDS[name] for name in names if name in COMMANDS]
    return a_map(
        [(bulk(entry.name.encode()), _documented(entry, session.protocol)) for entry in entries], session.protocol
    )


def _documented(entry: Command, protocol: int) -> bytes:
    fields = {"summary": entry.summary, "since": "1.0.0", "group": entry.group}
    return a_map([(bulk(name.encode()), bulk(value.encode())) for name, value in fields.items()], protocol)


def _described(entry: Command, protocol: int) -> bytes:
    flags = a_set([simple(flag.encode()) for flag in sorted(entry.flags & _REDIS_FLAGS)], protocol)
    children = array(_described(child, protocol) for child in entry.subcommands.values())
    numbers = [integer(n) for n in entry.keys]
    tail = [a_set([], protocol), EMPTY_ARRAY, EMPTY_ARRAY, children]
    return array([bulk(entry.name.encode()), integer(entry.arity), flags, *numbers, *tail])


group.add_help("command", __name__)
group.container("config")
group.add_help("config", __name__)


@command("config|get", -3, "loop")
def config_get(session: Session, arguments: list[bytes]) -> Reply:
    """Return the parameters whose names match a pattern."""
    names = [name.encode() for name in session.server.parameters()]
    matching = {name for word in arguments[2:] for name in glob.Pattern(word.lower()).select(names)}
    values = session.server.parameters()
    pairs = [(bulk(name), _shown(values[name.decode()])) for name in names if name in matching]
    return a_map(pairs, session.protocol)


def _shown(value: object) -> bytes:
    return bulk(str(value).encode("utf-8", "surrogateescape"))


def _grows(session: Session, arguments: list[bytes]) -> bool:
    return b"maxmemory" in [word.lower() for word in arguments[2::2]]


@command("config|set", -4, "loop", heavy=_grows)
def config_set(session: Session, arguments: list[bytes]) -> Reply:
    """Set requirepass, timeout, maxclients, a buffer limit or a larger maxmemory."""
    if len(arguments) % 2:
        raise CommandError(SYNTAX)
    pairs = list(zip(arguments[2::2], arguments[3::2], strict=True))
    values = session.server.parameters()
    for word, _ in pairs:
        if printable(word).lower() not in values:
            raise CommandError(f"ERR Unknown option or number of arguments for CONFIG SET - '{printable(word)}'")
    for word, value in pairs:
        _set_parameter(session, printable(word).lower(), value, values)
    return OK


def _set_parameter(session: Session, name: str, value: bytes, values: dict[str, object]) -> None:
    try:
        if name in _SETTERS:
            _SETTERS[name](session.server, value)
        elif value.decode("latin-1") != str(values[name]):
            raise ValueError("can't set immutable config")
    except ValueError as problem:
        raise CommandError(f"ERR CONFIG SET failed (possibly related to argument '{name}') - {problem}") from None


def _set_password(server: Server, value: bytes) -> None:
    host = server.config.host
    if not value and not is_loopback(host):
        raise ValueError(
            f"the server listens on {host or 'all addresses'}, which other machines can reach, so that it needs a "
            "password; restart it with --host 127.0.0.1 to do without"
        )
    server.config.password = value.decode("utf-8", "surrogateescape")


def _set_output_limit(server: Server, value: bytes) -> None:
    server.limits.set_output(value.decode("latin-1"))
    server.output_limit_changed()


def _set_query_limit(server: Server, value: bytes) -> None:
    server.limits.set_query(value.decode("latin-1"))


def _set_capacity(server: Server, value: bytes) -> None:
    """Make the pool as large as `maxmemory` says; refuse to make it smaller."""
    size, store = memory_size(value.decode("latin-1")), server.store
    if size is None:
        raise ValueError("argument must be a memory value")
    if size < store.capacity:
        raise ValueError(
            f"the pool has {store.capacity} bytes and cannot shrink: nothing is evicted, and a full pool refuses writes"
        )
    store.grow(size)


def _set_timeout(server: Server, value: bytes) -> None:
    server.heartbeat.timeout = _number(value, 0, (1 << 31) - 1)


def _set_max_clients(server: Server, value: bytes) -> None:
    server.set_max_clients(_number(value, 1, (1 << 32) - 1))


def _set_events(server: Server, value: bytes) -> None:
    if value:
        raise ValueError("there is no pub/sub to send keyspace events by: only the empty value is possible")


def _number(value: bytes, low: int, high: int) -> int:
    number = strict_int(str(value, "latin-1"))
    if number is None:
        raise ValueError("argument couldn't be parsed into an integer")
    if not low <= number <= high:
        raise ValueError(f"argument must be between {low} and {high} inclusive")
    return number


_SETTERS: dict[str, Callable[[Server, bytes], None]] = {
    "requirepass": _set_password,
    "maxmemory": _set_capacity,
    "timeout": _set_timeout,
    "maxclients": _set_max_clients,
    "notify-keyspace-events": _set_events,
    "client-output-buffer-limit": _set_output_limit,
    "client-query-buffer-limit": _set_query_limit,
}


@command("config|resetstat", 2, "loop")
def config_resetstat(session: Session, arguments: list[bytes]) -> Reply:
    """Set the counters of INFO to zero."""
    session.server.stats.reset()
    session.server.store.lookups.reset()
    return OK


group.container("function")
group.add_help("function", __name__)


@command("function|flush", -2, "loop")
def function_flush(session: Session, arguments: list[bytes]) -> Reply:
    """Do nothing: there are no functions. Test suites call it."""
    if len(arguments) > 3:
        shown = printable(arguments[1])
        raise CommandError(f"ERR unknown subcommand or wrong number of arguments for '{shown}'. Try FUNCTION HELP.")
    if len(arguments) == 3 and arguments[2].upper() not in (b"SYNC", b"ASYNC"):
        raise CommandError("ERR FUNCTION FLUSH only supports SYNC|ASYNC option")
    return OK


_SAVING = "ERR Background save already in progress"


@command("save", 1, "no_multi", heavy=lambda session, arguments: True)
def save(session: Session, arguments: list[bytes]) -> Reply:
    """Take a checkpoint and reply when it is complete."""
    if not session.server.bgsave.save(session.server.store):
        raise CommandError(_SAVING)
    return OK


@command("bgsave", -1, "loop")
def bgsave(session: Session, arguments: list[bytes]) -> Reply:
    """Begin a checkpoint in the background."""
    if [word.upper() for word in arguments[1:]] not in ([], [b"SCHEDULE"]):
        raise CommandError(SYNTAX)
    if not session.server.bgsave.begin(session.server.store):
        raise CommandError(_SAVING)
    return simple(b"Background saving started")


@command("lastsave", 1, "fast loop")
def lastsave(session: Session, arguments: list[bytes]) -> Reply:
    """Return the unix time in seconds of the last checkpoint, or else of the start."""
    return integer(saved_at(session.server))


def _saves_first(session: Session, arguments: list[bytes]) -> bool:
    return b"SAVE" in [word.upper() for word in arguments[1:]]


@command("shutdown", -1, "loop no_multi", heavy=_saves_first)
def shutdown(session: Session, arguments: list[bytes]) -> Reply:
    """Stop the server. SAVE: take a checkpoint; NOSAVE: none; default: a short one only."""
    words = {word.upper() for word in arguments[1:]}
    if words - {b"SAVE", b"NOSAVE", b"NOW", b"FORCE", b"ABORT"} or {b"SAVE", b"NOSAVE"} <= words:
        raise CommandError(SYNTAX)
    if b"ABORT" in words:
        raise CommandError(SYNTAX if len(words) > 1 else "ERR No shutdown in progress.")
    if b"SAVE" in words:
        _save_at_end(session, b"FORCE" in words)
    session.closing = True
    session.server.stop(checkpoint=b"NOSAVE" not in words)
    return b""


def _save_at_end(session: Session, force: bool) -> None:
    try:
        session.server.store.checkpoint()
    except (PmkvError, OSError) as error:
        log.error("SHUTDOWN SAVE: the checkpoint failed: %s", error)
        if not force:
            raise CommandError("ERR Errors trying to SHUTDOWN. Check logs.") from error
