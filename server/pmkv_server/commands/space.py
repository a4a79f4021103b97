"""STORE.COMPACT: free the space of overwritten, deleted and expired data, while the server serves."""

from __future__ import annotations

import asyncio

from pmkv_server.commands.registry import CommandError, Group
from pmkv_server.net.session import Session
from pmkv_server.resp.scan import Reply, integer

group = Group("space")
command = group.command


async def _compact(session: Session, arguments: list[bytes]) -> Reply:
    return integer(await asyncio.to_thread(session.server.store.compact))


@command("store.compact", 1, "write blocking loop no_multi", waits=_compact)
def compact(session: Session, arguments: list[bytes]) -> Reply:
    """Free the space of overwritten, deleted and expired data.

    Reply with how many bytes of the pool that freed. The server does so by itself when space gets short, and at rest.
    Other clients are served meanwhile.

    Syntax: STORE.COMPACT
    """
    raise CommandError("ERR Command not allowed inside a transaction")
