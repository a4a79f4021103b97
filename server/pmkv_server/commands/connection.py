"""Commands about the connection itself: authentication, protocol, keyspace, name."""

from __future__ import annotations

import hmac
import time
from itertools import chain

from pmkv_server import REDIS_VERSION
from pmkv_server.commands.actions import ECHO, PING
from pmkv_server.commands.keys import parse_db
from pmkv_server.commands.registry import SYNTAX, CommandError, Group, parse_int, printable
from pmkv_server.net.session import Session
from pmkv_server.resp.scan import EMPTY_ARRAY, NULL, OK, Reply, a_map, bulk, integer, text

group = Group("connection")
command = group.command

_WRONG_PASSWORD = "WRONGPASS invalid username-password pair or user is disabled."
_NO_PASSWORD = (
    "ERR AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)
_HELLO_FIRST = (
    "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> "
    "option can be used to authenticate the client and select the RESP protocol version at the same time"
)
_BAD_NAME = "ERR Client names cannot contain spaces, newlines or special characters."


@command("ping", -1, "fast", action=(PING, 0))
def ping(session: Session, arguments: list[bytes]) -> Reply:
    """Return PONG, or the argument."""
    if len(arguments) > 2:
        raise CommandError("ERR wrong number of arguments for 'ping' command")
    if failed := session.server.store.failed:  # as Redis: who asks whether the server is well learns that it is not
        raise CommandError(f"MISCONF Errors writing to the log: {failed}")
    return bulk(arguments[1]) if len(arguments) == 2 else b"+PONG\r\n"


@command("echo", 2, "fast", action=(ECHO, 0))
def echo(session: Session, arguments: list[bytes]) -> Reply:
    """Return the argument."""
    return bulk(arguments[1])


@command("select", 2, "fast loop")
def select(session: Session, arguments: list[bytes]) -> Reply:
    """Use another of the 16 keyspaces."""
    session.select(parse_db(arguments[1]))
    return OK


@command("quit", -1, "fast loop no_auth in_multi")
def quit_(session: Session, arguments: list[bytes]) -> Reply:
    """Close the connection."""
    session.closing = True
    return OK


@command("reset", 1, "fast loop no_auth in_multi")
def reset(session: Session, arguments: list[bytes]) -> Reply:
    """Return the connection to its initial state."""
    session.reset()
    return b"+RESET\r\n"


@command("auth", -2, "fast loop no_auth")
def auth(session: Session, arguments: list[bytes]) -> Reply:
    """Authenticate with the password."""
    if len(arguments) > 3:
        raise CommandError(SYNTAX)
    if len(arguments) == 2 and not session.server.config.password:
        raise CommandError(_NO_PASSWORD)
    _authenticate(session, arguments[1] if len(arguments) == 3 else b"default", arguments[-1])
    return OK


def _authenticate(session: Session, user: bytes, password: bytes) -> None:
    expected = session.server.config.password
    is_right = not expected or hmac.compare_digest(expected.encode("utf-8", "surrogateescape"), password)
    if user != b"default" or not is_right:
        raise CommandError(_WRONG_PASSWORD)
    session.authenticate(True)


@command("hello", -1, "fast loop no_auth")
def hello(session: Session, arguments: list[bytes]) -> Reply:
    """Choose RESP2 or RESP3, authenticate, name the connection; return server facts."""
    protocol = session.protocol
    if len(arguments) > 1:
        protocol = parse_int(arguments[1], "ERR Protocol version is not an integer or out of range")
        if protocol not in (2, 3):
            raise CommandError("NOPROTO unsupported protocol version")
    name = _hello_options(session, arguments[2:])
    if not session.authenticated:
        raise CommandError(_HELLO_FIRST)
    if name is not None:
        session.name = name
    session.protocol = protocol
    return a_map(
        [
            (bulk(b"server"), bulk(b"redis")),
            (bulk(b"version"), bulk(REDIS_VERSION.encode())),
            (bulk(b"proto"), integer(protocol)),
            (bulk(b"id"), integer(session.id)),
            (bulk(b"mode"), bulk(b"standalone")),
            (bulk(b"role"), bulk(b"master")),
            (bulk(b"modules"), EMPTY_ARRAY),
        ],
        protocol,
    )


def _hello_options(session: Session, words: list[bytes]) -> bytes | None:
    """Carry out AUTH and return the name given by SETNAME."""
    name, login, i = None, None, 0
    while i < len(words):
        option = words[i].upper()
        if option == b"AUTH" and i + 2 < len(words):
            login = (words[i + 1], words[i + 2])
            i += 3
        elif option == b"SETNAME" and i + 1 < len(words):
            name = _checked_name(words[i + 1])
            i += 2
        else:
            raise CommandError(f"ERR Syntax error in HELLO option '{printable(words[i], len(words[i]))}'")
    if login:
        _authenticate(session, *login)
    return name


def _checked_name(name: bytes) -> bytes:
    if any(not 33 <= byte <= 126 for byte in name):
        raise CommandError(_BAD_NAME)
    return name


group.container("client")
group.add_help("client", __name__)


@command("client|id", 2, "fast loop")
def client_id(session: Session, arguments: list[bytes]) -> Reply:
    """Return the number of this connection."""
    return integer(session.id)


@command("client|setname", 3, "fast loop")
def client_setname(session: Session, arguments: list[bytes]) -> Reply:
    """Name this connection."""
    session.name = _checked_name(arguments[2])
    return OK


@command("client|getname", 2, "fast loop")
def client_getname(session: Session, arguments: list[bytes]) -> Reply:
    """Return the name of this connection."""
    return bulk(session.name) if session.name else NULL[session.protocol]


@command("client|setinfo", 4, "fast loop")
def client_setinfo(session: Session, arguments: list[bytes]) -> Reply:
    """Set the name or version of the client library."""
    attribute = arguments[2].upper()
    if attribute not in (b"LIB-NAME", b"LIB-VER"):
        raise CommandError(f"ERR Unrecognized option '{printable(arguments[2])}'")
    if any(not 33 <= byte <= 126 for byte in arguments[3]):
        raise CommandError(f"ERR {attribute.decode().lower()} cannot contain spaces, newlines or special characters.")
    session.library[attribute == b"LIB-VER"] = arguments[3]
    return OK


@command("client|no-evict", 3, "loop")
def client_no_evict(session: Session, arguments: list[bytes]) -> Reply:
    """Accept ON and OFF; clients are never evicted."""
    return _on_or_off(arguments)


@command("client|no-touch", 3, "loop")
def client_no_touch(session: Session, arguments: list[bytes]) -> Reply:
    """Accept ON and OFF; reads never change a key."""
    return _on_or_off(arguments)


def _on_or_off(arguments: list[bytes]) -> Reply:
    if arguments[2].upper() not in (b"ON", b"OFF"):
        raise CommandError(SYNTAX)
    return OK


@command("client|info", 2, "loop")
def client_info(session: Session, arguments: list[bytes]) -> Reply:
    """Return facts about this connection."""
    return text(_line(session), session.protocol)


@command("client|list", -2, "loop")
def client_list(session: Session, arguments: list[bytes]) -> Reply:
    """Return facts about all connections, one line each."""
    sessions = list(session.server.sessions.values())
    words = arguments[2:]
    if words:
        sessions = _selected(sessions, words)
    return text(b"".join(map(_line, sessions)), session.protocol)


def _selected(sessions: list[Session], words: list[bytes]) -> list[Session]:
    option = words[0].upper()
    if option == b"TYPE" and len(words) == 2:
        kind = words[1].lower()
        if kind not in (b"normal", b"master", b"replica", b"slave", b"pubsub"):
            raise CommandError(f"ERR Unknown client type '{printable(words[1])}'")
        return sessions if kind == b"normal" else []
    if option == b"ID" and len(words) > 1:
        ids = {parse_int(word, "ERR Invalid client ID") for word in words[1:]}
        return [session for session in sessions if session.id in ids]
    raise CommandError(SYNTAX)


def _line(session: Session) -> bytes:
    now = time.time()
    unserved, unsent = session.buffered()
    queued = -1 if session.queue is None else len(session.queue)
    fields = {
        "id": session.id,
        "addr": session.address,
        "laddr": session.local,
        "fd": session.fd,
        "name": session.name.decode(),
        "age": int(now - session.created),
        "idle": max(0, int(now - session.active)),
        "flags": "x" if queued >= 0 else "N",
        "db": session.db,
        "sub": 0,
        "psub": 0,
        "ssub": 0,
        "multi": queued,
        "qbuf": unserved,
        "qbuf-free": 0,
        "argv-mem": 0,
        "multi-mem": sum(map(len, chain.from_iterable(words for _, words in session.queue or ()))),
        "rbs": 0,
        "rbp": 0,
        "obl": 0,
        "oll": int(unsent > 0),
        "omem": unsent,
        "tot-mem": unserved + unsent,
        "events": "r",
        "cmd": session.last_command,
        "user": "default" if session.authenticated else "(superuser)",
        "redir": -1,
        "resp": session.protocol,
        "lib-name": session.library[0].decode(),
        "lib-ver": session.library[1].decode(),
    }
    return (" ".join(f"{name}={value}" for name, value in fields.items()) + "\n").encode()
