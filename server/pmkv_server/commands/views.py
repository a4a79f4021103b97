"""SNAPSHOT.*, BRANCH.* and VIEW.*: named versions of all data.

Snapshots and rollbacks apply to the view that the connection uses; promotes and undos always apply to `main`. The
version of `main` counts its promotes, rollbacks and undos.
"""

from __future__ import annotations

from typing import Any

from pmkv_server.commands.registry import SYNTAX, CommandError, Group, name_of, parse_int, syntax_error
from pmkv_server.net.session import Session
from pmkv_server.resp.scan import NULL_ARRAY, OK, Reply, a_map, array, bulk, bulks, integer

group = Group("view")
command = group.command

_NO_TIMEOUT = "ERR timeout is not an integer or out of range"
_NEEDS_RESP3 = "ERR VIEW.TRACK needs RESP3, which has push messages: send HELLO 3 first"
MAX_TIMEOUT_MS = 1 << 53
NOTHING_CHANGED = b"+OK, nothing changed: the view has that state already; `undo` is what it was\r\n"
_YES_NO = {b"YES": True, b"NO": False}


@command("snapshot.create", 2, "write fast")
def snapshot_create(session: Session, arguments: list[bytes]) -> Reply:
    """Keep the present state of all tables and keyspaces under a name.

    Syntax: SNAPSHOT.CREATE name
    """
    session.view.snapshot(name_of(arguments[1]))
    return OK


@command("snapshot.rollback", -2, "write")
def snapshot_rollback(session: Session, arguments: list[bytes]) -> Reply:
    """Return the view in use to a snapshot; for main, the state before stays as `undo`.

    The reply is OK, or begins with OK and says that nothing changed.

    Syntax: SNAPSHOT.ROLLBACK name [TABLES n t...] [KEYS yes|no]
    """
    changed = session.view.rollback(name_of(arguments[1]), **_scope(arguments[2:]))
    return OK if changed else NOTHING_CHANGED


@command("branch.create", -2, "write fast")
def branch_create(session: Session, arguments: list[bytes]) -> Reply:
    """Create a branch of the view in use, or of the view named.

    Syntax: BRANCH.CREATE name [AT view]
    """
    words = arguments[2:]
    if words and (len(words) != 2 or words[0].upper() != b"AT"):
        raise syntax_error(words[0])
    session.server.store.branch(name_of(arguments[1]), at=name_of(words[1]) if words else session.view.info.name)
    return OK


@command("branch.promote", -2, "write")
def branch_promote(session: Session, arguments: list[bytes]) -> Reply:
    """Bring into main what a branch wrote; the state before stays as `undo`.

    Syntax: BRANCH.PROMOTE name [TABLES n t...] [KEYS yes|no] [FORCE]
    """
    session.server.store.promote(name_of(arguments[1]), **_scope(arguments[2:], may_force=True))
    return OK


def _scope(words: list[bytes], may_force: bool = False) -> dict[str, Any]:
    """Parse TABLES, KEYS and FORCE into keyword arguments of `Store.promote` or `View.rollback`."""
    scope: dict[str, Any] = {}
    i = 0
    while i < len(words):
        option, left = words[i].upper(), len(words) - i - 2
        if option == b"TABLES" and left >= 0:
            count = parse_int(words[i + 1], "ERR TABLES takes a count and that many names", 0, left)
            scope["tables"] = [name_of(word) for word in words[i + 2 : i + 2 + count]]
            i += 1 + count
        elif option == b"KEYS" and left >= 0 and words[i + 1].upper() in _YES_NO:
            i += 1
            scope["keys"] = _YES_NO[words[i].upper()]
        elif option == b"FORCE" and may_force:
            scope["force"] = True
        else:
            raise syntax_error(words[i])
        i += 1
    return scope


@command("view.undo", -1, "write")
def undo(session: Session, arguments: list[bytes]) -> Reply:
    """Undo the last promote or rollback of main.

    Syntax: VIEW.UNDO [FORCE]
    """
    for i, word in enumerate(arguments[1:]):
        if i or word.upper() != b"FORCE":
            raise syntax_error(word)
    session.server.store.undo(force=len(arguments) > 1)
    return OK


@command("view.delete", 2, "write fast")
def delete(session: Session, arguments: list[bytes]) -> Reply:
    """Delete a snapshot or a branch; views that were created from it stay.

    Syntax: VIEW.DELETE name
    """
    session.server.store.delete_view(name_of(arguments[1]))
    return OK


@command("view.list", 1, "readonly")
def list_(session: Session, arguments: list[bytes]) -> Reply:
    """Return the names of all views: main first, then in the order of their creation.

    Syntax: VIEW.LIST
    """
    return bulks(name.encode() for name in session.server.store.views())


@command("view.info", -1, "readonly fast")
def info(session: Session, arguments: list[bytes]) -> Reply:
    """Return facts about a view (the one in use unless named) and the version of main.

    Syntax: VIEW.INFO [name]
    """
    if len(arguments) > 2:
        raise CommandError(SYNTAX)
    store = session.server.store
    promotions, lsn = store.main_changes
    found = store.view_info(name_of(arguments[1])) if len(arguments) == 2 else session.view.info
    if lsn > store.durable_lsn:
        store.views()  # reads all decisions, so this reply waits until that version is durable
    facts = {**found.asdict(), "version": promotions, "version_lsn": lsn}
    pairs = [(bulk(name.encode()), _fact(value)) for name, value in facts.items()]
    return a_map(pairs, session.protocol)


def _fact(value: str | int) -> bytes:
    return bulk(value.encode()) if isinstance(value, str) else integer(value)


@command("view.use", 2, "fast loop no_multi")
def use(session: Session, arguments: list[bytes]) -> Reply:
    """Let this connection read and write another view, until RESET.

    Syntax: VIEW.USE name
    """
    session.use(session.server.store.view(name_of(arguments[1])))
    return OK


@command("view.track", 2, "fast loop")
def track(session: Session, arguments: list[bytes]) -> Reply:
    """Switch a push message at each promote, rollback or undo of main on or off (RESP3).

    Syntax: VIEW.TRACK on|off
    """
    word = arguments[1].upper()
    if word not in (b"ON", b"OFF"):
        raise CommandError(SYNTAX)
    on = word == b"ON"
    if on and session.protocol != 3:
        raise CommandError(_NEEDS_RESP3)
    session.track(on)
    return OK


async def _wait(session: Session, arguments: list[bytes]) -> Reply:
    version, seconds = _version_and_timeout(arguments)
    return _version_reply(session, await session.server.version_events.wait(version, seconds))


@command("view.wait", 3, "readonly blocking loop", waits=_wait)
def wait(session: Session, arguments: list[bytes]) -> Reply:
    """Wait until main's version exceeds the one given; 0 ms: without limit.

    Syntax: VIEW.WAIT version milliseconds
    """
    version, _ = _version_and_timeout(arguments)
    latest = session.server.version_events.latest
    return _version_reply(session, latest if latest[0] > version else None)


def _version_and_timeout(arguments: list[bytes]) -> tuple[int, float | None]:
    version = parse_int(arguments[1], "ERR version is not an integer or out of range", 0)
    milliseconds = parse_int(arguments[2], _NO_TIMEOUT, high=MAX_TIMEOUT_MS)
    if milliseconds < 0:
        raise CommandError("ERR timeout is negative")
    return version, milliseconds / 1000 or None


def _version_reply(session: Session, event: tuple[int, int] | None) -> bytes:
    return NULL_ARRAY[session.protocol] if event is None else array(map(integer, event))
