"""The command table and its entrance: `admit` finds a command, checks it, and queues it or lets it run."""

from __future__ import annotations

from pmkv_server.commands import (
    admin,
    backup,
    connection,
    expiry,
    info,
    keys,
    space,
    strings,
    tables,
    transactions,
    views,
)
from pmkv_server.commands.registry import (
    COMMANDS,
    Command,
    CommandError,
    unknown_command,
    unknown_subcommand,
    wrong_arity,
)
from pmkv_server.net.session import Session
from pmkv_server.resp.scan import QUEUED, error

__all__ = [
    "COMMANDS",
    "admin",
    "admit",
    "backup",
    "connection",
    "expiry",
    "info",
    "keys",
    "space",
    "strings",
    "tables",
    "transactions",
    "views",
]

_known = {spelling: entry for name, entry in COMMANDS.items() for spelling in (name, name.upper())}


def find(arguments: list[bytes]) -> Command:
    """Return the entry for these arguments; raises CommandError if it is unknown or its arity is wrong."""
    name = arguments[0]
    entry = _known.get(name) or COMMANDS.get(name.lower())
    if entry is None:
        raise CommandError(unknown_command(arguments))
    if entry.subcommands and len(arguments) > 1:
        child = entry.subcommands.get(arguments[1].lower())
        if child is None:
            raise CommandError(unknown_subcommand(arguments))
        entry = child
    if not entry.fits(len(arguments)):
        raise CommandError(wrong_arity(entry.name))
    return entry


def admit(session: Session, arguments: list[bytes]) -> Command | bytes:
    """Return the command to run now, or the reply if it is refused or was queued by MULTI."""
    try:
        entry = find(arguments)
        if not session.authenticated and "no_auth" not in entry.flags:
            raise CommandError("NOAUTH Authentication required.")
        if session.queue is not None and "no_multi" in entry.flags:
            raise CommandError("ERR Command not allowed inside a transaction")
    except CommandError as problem:
        return _refused(session, arguments, str(problem))
    session.last_command = entry.name
    if session.queue is None or "in_multi" in entry.flags:
        return entry
    session.queue.append((entry, [bytes(word) for word in arguments]))
    return QUEUED


def _refused(session: Session, arguments: list[bytes], problem: str) -> bytes:
    """Return the error reply for a command that may not run, and mark an open transaction as broken."""
    session.broken = True
    if arguments[0].lower() == b"exec":
        session.end()
        problem = "EXECABORT Transaction discarded because of: " + problem.partition(" ")[2]
    reply, entry = error(problem), COMMANDS.get(arguments[0].lower())
    session.server.stats.count_error(reply)
    if entry is not None:
        session.server.stats.by_command[entry.name].rejected += 1
    return reply
