"""Run commands again that have found the pool full, when the cleaner has made room."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pmkv_server.commands.registry import Command
from pmkv_server.net.connection import CLOSED
from pmkv_server.space_wait import SpaceWait

if TYPE_CHECKING:
    from pmkv_server.dispatch.tick import Dispatcher
    from pmkv_server.net.connection import Connection

# Commands that make something dead: waiting may help them although the cleaner has found nothing to gain.
FREEING = frozenset(("del", "unlink", "getdel", "flushdb", "flushall", "table.del", "table.drop", "view.delete"))

# Of these, the ones that go to pieces in a full pool, with a wait between pieces, which the loop cannot have.
IN_PIECES = frozenset(("del", "unlink", "table.del"))


class Retries:
    """Owns the commands that wait for room; their connections are blocked. Runs on the loop's thread."""

    def __init__(self, dispatcher: Dispatcher, space_wait: SpaceWait) -> None:
        self._dispatcher, self._space_wait = dispatcher, space_wait
        self.waiting = set[asyncio.Task[None]]()

    def add(self, connection: Connection, entry: Command, arguments: list[bytes]) -> None:
        """Block a connection whose command has found the pool full, and run it again when there may be room."""
        connection.block()
        task = asyncio.get_running_loop().create_task(self._run(connection, entry, arguments))
        self.waiting.add(task)
        task.add_done_callback(self.waiting.discard)

    async def _run(self, connection: Connection, entry: Command, arguments: list[bytes]) -> None:
        async for is_last in self._space_wait.attempts(entry.name in FREEING):
            if connection.state == CLOSED or self._dispatcher.execute_again(connection, entry, arguments, is_last):
                return
