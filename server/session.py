"""What the server knows of one client, without its socket: the commands see this and nothing of asyncio."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pmkv_server.commands.table import Command
    from pmkv_server.main import Server

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
        self.keyspace: Any = server.store.keyspace(0)
        self.authenticated = not server.config.password
        self.queue: list[Queued] | None = None  # of MULTI
        self.broken = False  # an error while queueing: EXEC will refuse
        self.watched: dict[tuple[int, bytes], int] = {}  # (keyspace, key) -> its expiry then
        self.dirty = False  # a watched key was written
        self.closing = False  # no command after this one
        self.plain = self.authenticated

    def select(self, db: int) -> None:
        self.db = db
        self.keyspace = self.server.store.keyspace(db)

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
        self.server.watches.forget(self)
        self._refresh()

    def reset(self) -> None:
        """As just connected, as RESET wants it."""
        self.end()
        self.protocol = 2
        self.name = b""
        self.select(0)
        self.authenticate(not self.server.config.password)

    def touch(self, *keys: bytes) -> None:
        """Say that these keys of this session's keyspace are about to be written."""
        if self.server.watches:
            self.server.watches.touch(self.db, keys)

    def _refresh(self) -> None:
        self.plain = self.authenticated and self.queue is None


class Watches:
    """Who watches what. Marking precedes the write, so that a transaction in a worker cannot slip in between."""

    def __init__(self) -> None:
        self._watchers: dict[tuple[int, bytes], set[Session]] = {}
        self._writing: list[set[tuple[int, bytes]]] = []  # keys of heavy commands under way

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def watch(self, session: Session, key: bytes, expiry: int) -> None:
        place = (session.db, key)
        session.watched.setdefault(place, expiry)
        self._watchers.setdefault(place, set()).add(session)
        if any(place in keys for keys in self._writing):
            session.dirty = True

    def forget(self, session: Session) -> None:
        for place in session.watched:
            watchers = self._watchers[place]
            watchers.discard(session)
            if not watchers:
                del self._watchers[place]
        session.watched = {}
        session.dirty = False

    def touch(self, db: int, keys) -> None:
        for key in keys:
            for session in self._watchers.get((db, key), ()):
                session.dirty = True

    def touch_all(self, db: int | None = None) -> None:
        """A keyspace (or all) is about to be emptied: what is watched and exists becomes dirty."""
        for (number, key), sessions in self._watchers.items():
            if db is None or number == db:
                self._touch_existing(number, key, sessions)

    def _touch_existing(self, db: int, key: bytes, sessions: set[Session]) -> None:
        for session in sessions:
            if key in session.server.store.keyspace(db):
                session.dirty = True

    def start(self, db: int, keys: list[bytes]) -> set[tuple[int, bytes]]:
        """A worker begins to write these keys; give the result to `finish`."""
        self.touch(db, keys)
        places = {(db, key) for key in keys}
        self._writing.append(places)
        return places

    def finish(self, places: set[tuple[int, bytes]]) -> None:
        self._writing.remove(places)
