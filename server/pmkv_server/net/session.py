"""Keep what commands know of one client. A session has no socket, and commands see nothing of asyncio."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pmkv import Watch
from pmkv_server.resp.scan import bulk, integer, push

if TYPE_CHECKING:
    from pmkv_server.commands.registry import Command
    from pmkv_server.server import Server

Queued = tuple["Command", list[bytes]]

_ids = itertools.count(1)


class Session:
    """The state of one client that commands read and change.

    plain: GET and SET may be served in batches, since the client is authenticated and not in MULTI
    """

    buffered: Callable[[], tuple[int, int]] = staticmethod(lambda: (0, 0))  # bytes not served, and not sent

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
        self.view: Any = server.store  # commands use its tables and keyspaces; `main` is the store itself
        self.keyspace: Any = server.store.keyspace(0)
        self.authenticated = not server.config.password
        self.queue: list[Queued] | None = None  # of MULTI
        self.broken = False  # a command could not be queued: EXEC will refuse
        self.watched = Watch()
        self.closing = False  # no further command is served
        self.plain = self.authenticated
        self.push: Callable[[bytes], None] = lambda data: None  # write this between replies

    def select(self, db: int) -> None:
        """Use a keyspace of the current view, by its number."""
        self.keyspace = self.view.keyspace(db)
        self.db = db

    def at(self, name: str | None) -> Any:
        """Return the view of this name, or the current one."""
        return self.view if name is None else self.server.store.view(name)

    def use(self, view: Any) -> None:
        """Make a view the current one."""
        self.keyspace = view.keyspace(self.db)
        self.view = view

    def track(self, on: bool) -> None:
        """Tell this client from now on whenever `main` is promoted or rolled back, or do so no longer."""
        followers = self.server.version_events.followers
        (followers.add if on else followers.discard)(self.tell_switch)

    def tell_switch(self, promotions: int, lsn: int) -> None:
        """Push a version event to a client of RESP3."""
        if self.protocol == 3:
            self.push(push([bulk(b"view.switch"), integer(promotions), integer(lsn)]))

    def authenticate(self, value: bool) -> None:
        self.authenticated = value
        self._refresh()

    def begin(self) -> None:
        """Begin to queue commands, for MULTI."""
        self.queue = []
        self.broken = False
        self._refresh()

    def end(self) -> None:
        """Leave MULTI and unwatch all keys, after EXEC or DISCARD."""
        self.queue = None
        self.broken = False
        self.watched.release()
        self._refresh()

    def reset(self) -> None:
        """Return to the state of a new connection, for RESET."""
        self.end()
        self.protocol = 2
        self.name = b""
        self.track(False)
        self.db = 0
        self.use(self.server.store)
        self.authenticate(not self.server.config.password)

    def _refresh(self) -> None:
        self.plain = self.authenticated and self.queue is None
