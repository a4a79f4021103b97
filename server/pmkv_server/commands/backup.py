"""BACKUP.CREATE and BACKUP.STATUS: backups of the store while it serves."""

from __future__ import annotations

import asyncio
from typing import Any

from pmkv_server.commands.registry import CommandError, Group, name_of, syntax_error
from pmkv_server.net.session import Session
from pmkv_server.resp.scan import Reply, a_map, bulk, integer

group = Group("backup")
command = group.command


async def _create(session: Session, arguments: list[bytes]) -> Reply:
    name, (view, since) = name_of(arguments[1]), _options(arguments[2:])
    loop = asyncio.get_running_loop()
    report: asyncio.Future[Any] = loop.create_future()

    def ended(found: Any, problem: Exception | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, found, problem)

    def settle(found: Any, problem: Exception | None) -> None:
        if report.done():  # the client has gone
            return
        if problem is None:
            report.set_result(found)
        else:
            report.set_exception(problem)

    session.server.backups.begin(session.server.store, name, view, since, ended)
    made = await report
    facts = {"id": made.id, "lsn": made.lsn, "entries": made.entries, "pieces": made.pieces, "bytes": made.bytes}
    return _facts(facts | {"manifest": made.manifest}, session)


@command("backup.create", -2, "readonly blocking loop no_multi", waits=_create)
def create(session: Session, arguments: list[bytes]) -> Reply:
    """Write a backup; reply when it is complete.

    It lies below the --backup-dir. Of main unless a view or ALL is named; SINCE: only what changed since the backup of
    that name.

    Syntax: BACKUP.CREATE name [VIEW view | ALL] [SINCE name]
    """
    raise CommandError("ERR Command not allowed inside a transaction")


def _options(words: list[bytes]) -> tuple[str | None, str | None]:
    """Return the view, None for all, and the name of the earlier backup."""
    view: str | None = "main"
    since: str | None = None
    while words:
        match words[0].upper():
            case b"ALL":
                view, words = None, words[1:]
            case b"VIEW" if len(words) > 1:
                view, words = name_of(words[1]), words[2:]
            case b"SINCE" if len(words) > 1:
                since, words = name_of(words[1]), words[2:]
            case _:
                raise syntax_error(words[0])
    return view, since


@command("backup.status", 1, "fast loop")
def status(session: Session, arguments: list[bytes]) -> Reply:
    """Return the backup under way with its progress, and how the last one ended.

    Syntax: BACKUP.STATUS
    """
    backups = session.server.backups
    facts = {"name": backups.name, "done": backups.done, "total": backups.total,
             "last_at": backups.last_at, "last_error": backups.last_error}  # fmt: skip
    return _facts(facts, session)


def _facts(facts: dict[str, Any], session: Session) -> bytes:
    pairs = [
        (bulk(name.encode()), integer(value) if isinstance(value, int) else bulk(value.encode()))
        for name, value in facts.items()
    ]
    return a_map(pairs, session.protocol)
