"""Run in worker threads what would hold up the loop, and wait for events on behalf of commands.

A connection is blocked while its command is under way here; all other connections are served meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, TypeVar

from pmkv_server.commands import admit
from pmkv_server.commands.execution import failure, run, run_waiting
from pmkv_server.commands.registry import Command
from pmkv_server.net.connection import CLOSED
from pmkv_server.resp.scan import NULL_ARRAY, Reply

if TYPE_CHECKING:
    from pmkv_server.dispatch.tick import Dispatcher
    from pmkv_server.net.connection import Connection

T = TypeVar("T")
log = logging.getLogger("pmkv.server")


class Workers:
    """Owns what runs in the executor. All methods run on the loop's thread."""

    def __init__(self, dispatcher: Dispatcher, store: Any, loop: asyncio.AbstractEventLoop, executor: Executor) -> None:
        self._dispatcher = dispatcher
        self._store = store
        self._call_threadsafe, self._create_task = loop.call_soon_threadsafe, loop.create_task
        self._executor = executor
        self.running = 0  # calls of `run` that are not done
        self.exclusive = 0  # those of them that keep all others from the store, perhaps for long
        self._waits: dict[Connection, asyncio.Task[Reply]] = {}  # commands that wait for an event

    def run(
        self,
        owners: Sequence[Connection],
        work: Callable[[], T],
        done: Callable[[T, int], None],
        newest_lsn: int = 0,
        writes: bool = False,
        is_exclusive: bool = False,
    ) -> None:
        """Run `work` in a worker, then `done(result, lsn)` on the loop; the result depends on that LSN.

        owners: the connections that wait for it; if it raises they are closed, since no reply would come
        newest_lsn: the highest LSN that the connection has a reply of
        writes: request a flush after the work
        is_exclusive: the work holds the store's locks to its end
        """
        self.running += 1
        self.exclusive += is_exclusive

        def end(result: Any, lsn: int) -> None:
            self.running -= 1
            self.exclusive -= is_exclusive
            done(result, lsn)

        def fail(problem: BaseException) -> None:
            self.running -= 1
            self.exclusive -= is_exclusive
            log.error("a worker failed: its connections are closed", exc_info=problem)
            for connection in owners:
                connection.abort()

        def begin() -> None:
            try:
                with self._store.deferred(may_await_space=True) as durability_wait:
                    durability_wait.min_lsn = newest_lsn
                    result = work()
                if writes or durability_wait.lsn > self._store.durable_lsn:
                    self._store.flush_soon()  # a read, too, may write: see `note_pending`
            except BaseException as problem:
                self._call_threadsafe(fail, problem)
            else:
                self._call_threadsafe(end, result, durability_wait.lsn)

        self._executor.submit(begin)

    def run_command(self, connection: Connection, entry: Command, arguments: list[bytes]) -> None:
        """Run one command in a worker and block its connection until the reply."""
        connection.block()
        session, outbox = connection.session, connection.outbox

        def done(reply: Reply, lsn: int) -> None:
            outbox.add(reply, 1, lsn)
            self.finish([connection])

        def work() -> Reply:
            try:
                words = entry.owned(arguments)
            except MemoryError as problem:
                return failure(problem)
            return run(session, entry, words)

        self.run([connection], work, done, outbox.newest_lsn, entry.writes, entry.name == "exec")

    def run_admitted(self, connection: Connection, arguments: Callable[[], list[bytes]], writes: bool) -> None:
        """Make the arguments of one command in a worker, which admits and runs it, and block its connection."""
        connection.block()
        session, outbox = connection.session, connection.outbox

        def work() -> Reply:
            words = arguments()
            entry = admit(session, words)
            return run(session, entry, entry.owned(words)) if isinstance(entry, Command) else entry

        def done(reply: Reply, lsn: int) -> None:
            outbox.add(reply, 1, lsn)
            self.finish([connection])

        self.run([connection], work, done, outbox.newest_lsn, writes, is_exclusive=writes)

    def join_inbox(self, connection: Connection) -> None:
        """Join the chunks of a long inbox in a worker, and serve the connection afterwards."""
        connection.block()
        chunks = connection.inbox.take(connection.inbox.window)

        def done(joined: bytes, _: int) -> None:
            connection.unblock()
            if connection.state != CLOSED and not connection.session.closing:
                connection.inbox.put_back(joined, 0, len(joined))
            connection.close_if_over()
            connection.resume()

        self.run([connection], lambda: b"".join(chunks), done)

    def finish(self, connections: list[Connection]) -> None:
        """Deliver the replies of connections that were blocked, and serve what they have sent meanwhile."""
        for connection in connections:
            connection.unblock()
        self._dispatcher.held_replies.deliver(connections)
        for connection in connections:
            connection.resume()

    # ---- commands that wait for an event ----

    def begin_wait(self, connection: Connection, entry: Command, arguments: list[bytes]) -> None:
        """Block a connection until its command's event, or the client's end."""
        connection.block()

        def done(task: asyncio.Task[Reply]) -> None:
            del self._waits[connection]
            reply = NULL_ARRAY[connection.session.protocol] if task.cancelled() else task.result()
            connection.outbox.add(reply, 1, 0)
            self.finish([connection])

        self._waits[connection] = task = self._create_task(run_waiting(connection.session, entry, arguments))
        task.add_done_callback(done)

    def end_wait(self, connection: Connection) -> None:
        """End the wait of a client that has gone, or sends nothing more."""
        if connection in self._waits:
            self._waits[connection].cancel()
