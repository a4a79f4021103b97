"""What the server knows of one client, without its socket: the commands see this and nothing of asyncio."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pmkv_server.resp.scan import bulk, integer, push

if TYPE_CHECKING:
    from pmkv_server.commands.registry import Command
    from pmkv_server.server import Server

Queued = tuple["Command", list[bytes]]

_ids = itertools.count(1)


class Session:
    """State of one connection. `plain` says that GET and SET may be served in runs: authenticated, not in MULTI."""

    def __init__(self, server: Server, address: str = "", local: str = "") -> None:
        self.server = server
        self.id = next(_ids)
        self.address = address
        self.local = local
        self.created = self.active = time.time()
        self.name = b""
        self.library = [b"", b""]  # name, version
        self.last_command = "NULL"
        self.protocol = 2
        self.db = 0
        self.view: Any = server.store  # whose tables and keyspaces the commands are about: `main` is the store itself
        self.keyspace: Any = server.store.keyspace(0)
        self.authenticated = not server.config.password
        self.queue: list[Queued] | None = None  # of MULTI
        self.broken = False  # an error while queueing: EXEC will refuse
        self.watched: dict[tuple[Any, bytes], tuple[int, int]] = {}  # (keyspace, key): its fingerprint and expiry then
        self.closing = False  # no command after this one
        self.plain = self.authenticated
        self.push: Callable[[bytes], None] = lambda data: None  # say this now, unasked

    def select(self, db: int) -> None:
        self.keyspace = self.view.keyspace(db)
        self.db = db

    def at(self, name: str | None) -> Any:
        """The view of this name, or the one in use."""
        return self.view if name is None else self.server.store.view(name)

    def use(self, view: Any) -> None:
        """Read and write in this view from now on."""
        self.keyspace = view.keyspace(self.db)
        self.view = view

    def track(self, on: bool) -> None:
        """Is this client told whenever `main` is promoted or rolled back?"""
        followers = self.server.switches.followers
        (followers.add if on else followers.discard)(self.tell_switch)

    def tell_switch(self, promotions: int, lsn: int) -> None:
        if self.protocol == 3:
            self.push(push([bulk(b"view.switch"), integer(promotions), integer(lsn)]))

    def authenticate(self, value: bool) -> None:
        self.authenticated = value
        self._refresh()

    def begin(self) -> None:
        self.queue = []
        self.broken = False
        self._refresh()

    def end(self) -> None:
        """After EXEC or DISCARD: no transaction, nothing watched."""
        self.queue = None
        self.broken = False
        self.watched = {}
        self._refresh()

    def reset(self) -> None:
        """As just connected, as RESET wants it."""
        self.end()
        self.protocol = 2
        self.name = b""
        self.track(False)
        self.db = 0
        self.use(self.server.store)
        self.authenticate(not self.server.config.password)

    def _refresh(self) -> None:
        self.plain = self.authenticated and self.queue is None
