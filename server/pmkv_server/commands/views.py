"""SNAPSHOT.*, BRANCH.* and VIEW.*: versions by name. Snapshots and rollbacks are of the head that the connection uses,
promotes and undos are of `main` whatever it uses."""

from __future__ import annotations

from typing import Any

from pmkv_server.commands.registry import SYNTAX, CommandError, Group, name_of, parse_int, syntax_error
from pmkv_server.net.session import Session
from pmkv_server.resp.scan import NULL_ARRAY, OK, Reply, a_map, array, bulk, bulks, integer

group = Group("view")
command = group.command

_NO_TIMEOUT = "ERR timeout is not an integer or out of range"
_NEEDS_RESP3 = "ERR VIEW.TRACK needs RESP3, in which a server may speak unasked: say HELLO 3 first"
FAR_MS = 1 << 53
_SWITCHES = (b"OFF", b"ON")
_ANSWERS = {b"YES": True, b"NO": False}


@command("snapshot.create", 2, "write fast")
def snapshot_create(session: Session, arguments: list[bytes]) -> Reply:
    """Keep the present state of all tables and keyspaces under a name."""
    session.view.snapshot(name_of(arguments[1]))
    return OK


@command("snapshot.rollback", -2, "write")
def snapshot_rollback(session: Session, arguments: list[bytes]) -> Reply:
    """Go back to a snapshot: name [TABLES n t...] [KEYS yes|no]."""
    session.view.rollback(name_of(arguments[1]), **_parts(arguments[2:]))
    return OK


@command("branch.create", -2, "write fast")
def branch_create(session: Session, arguments: list[bytes]) -> Reply:
    """Begin a branch, of the view in use or of another: name [AT view]."""
    words = arguments[2:]
    if words and (len(words) != 2 or words[0].upper() != b"AT"):
        raise syntax_error(words[0])
    session.server.store.branch(name_of(arguments[1]), at=name_of(words[1]) if words else session.view.info.name)
    return OK


@command("branch.promote", -2, "write")
def branch_promote(session: Session, arguments: list[bytes]) -> Reply:
    """Let main have what a branch wrote: name [TABLES n t...] [KEYS yes|no] [FORCE]."""
    session.server.store.promote(name_of(arguments[1]), **_parts(arguments[2:], may_force=True))
    return OK


def _parts(words: list[bytes], may_force: bool = False) -> dict[str, Any]:
    """What TABLES, KEYS and FORCE say, as arguments of the store."""
    parts: dict[str, Any] = {}
    i = 0
    while i < len(words):
        option, left = words[i].upper(), len(words) - i - 2
        if option == b"TABLES" and left >= 0:
            count = parse_int(words[i + 1], "ERR TABLES takes a count and that many names", 0, left)
            parts["tables"] = [name_of(word) for word in words[i + 2 : i + 2 + count]]
            i += 1 + count
        elif option == b"KEYS" and left >= 0 and words[i + 1].upper() in _ANSWERS:
            i += 1
            parts["keys"] = _ANSWERS[words[i].upper()]
        elif option == b"FORCE" and may_force:
            parts["force"] = True
        else:
            raise syntax_error(words[i])
        i += 1
    return parts


@command("view.undo", -1, "write")
def undo(session: Session, arguments: list[bytes]) -> Reply:
    """Undo the last promote or rollback of main: [FORCE]."""
    session.server.store.undo(**_parts(arguments[1:], may_force=True))
    return OK


@command("view.delete", 2, "write fast")
def delete(session: Session, arguments: list[bytes]) -> Reply:
    """Delete a snapshot or a branch; what stands on it stays."""
    session.server.store.delete_view(name_of(arguments[1]))
    return OK


@command("view.list", 1, "readonly")
def list_(session: Session, arguments: list[bytes]) -> Reply:
    """The names of all views: main, then as they were cut."""
    return bulks(name.encode() for name in session.server.store.views())


@command("view.info", -1, "readonly fast")
def info(session: Session, arguments: list[bytes]) -> Reply:
    """What a view is, by default the one in use, and how often main was promoted or rolled back: [name]."""
    if len(arguments) > 2:
        raise CommandError(SYNTAX)
    store = session.server.store
    promotions, lsn = store.switches
    found = store.view_info(name_of(arguments[1])) if len(arguments) == 2 else session.view.info
    if lsn > store.durable_lsn:
        store.views()  # depends on all decisions, so that this reply waits for that switch
    facts = {**found.asdict(), "version": promotions, "version_lsn": lsn}
    pairs = [(bulk(name.encode()), _fact(value)) for name, value in facts.items()]
    return a_map(pairs, session.protocol)


def _fact(value: str | int) -> bytes:
    return bulk(value.encode()) if isinstance(value, str) else integer(value)


@command("view.use", 2, "fast loop no_multi")
def use(session: Session, arguments: list[bytes]) -> Reply:
    """Let this connection read and write in another view, until RESET."""
    session.use(session.server.store.view(name_of(arguments[1])))
    return OK


@command("view.track", 2, "fast loop")
def track(session: Session, arguments: list[bytes]) -> Reply:
    """Be told by a push whenever main is promoted or rolled back: on|off."""
    word = arguments[1].upper()
    if word not in _SWITCHES:
        raise CommandError(SYNTAX)
    on = word == b"ON"
    if on and session.protocol != 3:
        raise CommandError(_NEEDS_RESP3)
    session.track(on)
    return OK


async def _wait(session: Session, arguments: list[bytes]) -> Reply:
    version, seconds = _patience(arguments)
    return _switch(session, await session.server.switches.wait(version, seconds))


@command("view.wait", 3, "readonly blocking loop", waits=_wait)
def wait(session: Session, arguments: list[bytes]) -> Reply:
    """Wait until main was promoted or rolled back more than so many times: version milliseconds (0: for ever)."""
    version, _ = _patience(arguments)
    latest = session.server.switches.latest
    return _switch(session, latest if latest[0] > version else None)


def _patience(arguments: list[bytes]) -> tuple[int, float | None]:
    version = parse_int(arguments[1], "ERR version is not an integer or out of range", 0)
    milliseconds = parse_int(arguments[2], _NO_TIMEOUT, high=FAR_MS)
    if milliseconds < 0:
        raise CommandError("ERR timeout is negative")
    return version, milliseconds / 1000 or None


def _switch(session: Session, switch: tuple[int, int] | None) -> bytes:
    return NULL_ARRAY[session.protocol] if switch is None else array(map(integer, switch))
