"""Start the server, run its event loop, shut it down."""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pmkv
from pmkv.runtime.jit import FEW_ELEMENTS, Limits
from pmkv.runtime.scheduling import lower_priority, short_slice
from pmkv_server.backups import ServerBackups
from pmkv_server.bgsave import BackgroundSave
from pmkv_server.commands.keys import KEYSPACES
from pmkv_server.config import Config
from pmkv_server.dispatch.tick import Dispatcher
from pmkv_server.dispatch.transaction_waves import TransactionWaves
from pmkv_server.heartbeat import Heartbeat
from pmkv_server.net import descriptors
from pmkv_server.net.connection import Connection
from pmkv_server.net.listeners import bind
from pmkv_server.net.output_limits import WATCH_S, OutputLimits
from pmkv_server.net.session import Session
from pmkv_server.signals import StopSignals
from pmkv_server.space_wait import SpaceWait
from pmkv_server.stats import Stats
from pmkv_server.system_errors import NO_DESCRIPTOR, describe
from pmkv_server.version_events import VersionEvents

log = logging.getLogger("pmkv.server")

QUEUED_CONNECTIONS = 511  # that wait in the kernel to be accepted
DRAIN_TIMEOUT_S = 3.0  # for commands under way at shutdown; the rest of 5 s is for closing the store
# How long a thread may keep the GIL while another one waits for it. With Python's own value of 5 ms, one GET in a
# thousand took 14 ms while a checkpoint inserted keys. With 0.3 ms, the loop is asked for the GIL within a tick, and
# then stands still until the other thread gets a core. `make bench ARGS=versions` measures it by reads during puts
# of 16 MiB.
GIL_SWITCH_S = 0.001
WORKER_NICE = 5  # gives workers a third of the loop's share of a core that both want


class Server:
    """A store, its clients, and everything that serves them."""

    def __init__(self, config: Config, store: Any = None, signals: StopSignals | None = None) -> None:
        """store: an open one, else the configuration's; signals: those taken since the start of the process."""
        config.check()
        self.config = config
        self.store: Any = store
        self.stats, self.bgsave, self.version_events = Stats(), BackgroundSave(), VersionEvents()
        self.limits = OutputLimits()
        self.heartbeat = Heartbeat(self.stats, lambda: self._connections)
        self.sessions: dict[int, Session] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        self.port = config.port
        self._connections: set[Connection] = set()
        self.waiters: list[tuple[int, asyncio.Future]] = []  # callers of `durable`, and their LSN
        self._watching: asyncio.TimerHandle | None = None  # of unread output
        self._listeners: list[asyncio.AbstractServer] = []
        self._rest: Any = None
        self._signals = signals or StopSignals()
        self._stopping: asyncio.Event | None = None
        self._checkpoint_at_end = True

    # ---- start, run, stop ----

    def serve(self) -> None:
        """Run until SIGTERM, SIGINT or SHUTDOWN."""
        with asyncio.Runner(loop_factory=_new_loop()) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        await self.startup()
        try:
            await self.main_loop()
        finally:
            await self.shutdown()

    async def startup(self) -> None:
        """Import and open everything, and bind both ports; then serve both.

        Until then a client is refused by the system: nobody takes a descriptor, or finds one port ready and the other
        not.
        """
        config = self.config
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(_log_loop_problem)
        self._stopping = asyncio.Event()
        self._signals.attach(self.loop, self.stop)
        has_rest = config.rest_port is not None
        config.max_clients, rest_clients = descriptors.clients_that_fit(
            config.max_clients, descriptors.raise_limit(), has_rest
        )
        importing = self.loop.run_in_executor(None, importlib.import_module, "pmkv_server.rest") if has_rest else None
        sockets = bind(config.host, config.port, "port")
        rest_sockets = bind(config.host, config.rest_port, "rest-port") if has_rest else []
        if self.store is None:
            self.store = self._open_store()
        self.version_events.attach(self.store, self.loop, self.durable)
        self._executor = ThreadPoolExecutor(config.workers, "pmkv-worker", lower_priority, (WORKER_NICE,))
        self.dispatcher = Dispatcher(self, self.loop, self._executor)
        if (fast_path := self.dispatcher.fast_path) is not None:
            self.loop.add_reader(fast_path.sockets.fileno(), fast_path.receive)
        self.port = sockets[0].getsockname()[1]
        sys.setswitchinterval(GIL_SWITCH_S)
        short_slice()
        Limits.on_disk = FEW_ELEMENTS
        if importing is not None:
            self._rest = await (await importing).start_rest(self, rest_sockets, rest_clients)
        make = functools.partial(Connection, self, self.dispatcher)
        for one in sockets:
            self._listeners.append(await self.loop.create_server(make, sock=one, backlog=descriptors.ACCEPTED_AT_ONCE))
            one.listen(QUEUED_CONNECTIONS)
        self.heartbeat.start(self.loop)
        log.info("%s. Ready to accept connections", self._description())

    @functools.cached_property
    def transaction_waves(self) -> TransactionWaves:
        """The waves of transactions, which need none before the first EXEC."""
        return TransactionWaves(self)

    @functools.cached_property
    def space_wait(self) -> SpaceWait:
        """The wait for room in a full pool, of all commands and requests."""
        return SpaceWait(self.store)

    @functools.cached_property
    def backups(self) -> ServerBackups:
        """The backups below the server's backup directory."""
        return ServerBackups(self.config.backup_dir)

    def _open_store(self) -> Any:
        config = self.config
        return pmkv.open(
            config.data,
            capacity=config.capacity,
            dram=config.dram,
            dram_nodes=config.dram_nodes,
            far_nodes=config.far_nodes,
            durability=config.durability,
            pool=config.pool,
            require=config.require,
        )

    async def main_loop(self) -> None:
        """Wait until the server is told to stop. Everything else happens in callbacks."""
        await self._stopping.wait()

    async def shutdown(self) -> None:
        """Accept nothing new, finish the commands under way, close the store."""
        log.info("stopping: %d connections", len(self._connections))
        self.heartbeat.stop()
        for listener in self._listeners:
            listener.close()
        for connection in list(self._connections):
            connection.close()
        self.version_events.close()
        self.store.flush_soon()
        try:
            await asyncio.wait_for(self._drained(), DRAIN_TIMEOUT_S)
        except TimeoutError:
            log.warning("stopping without waiting longer for %d connections", len(self._connections))
        for connection in list(self._connections):
            connection.abort()
        if self._rest:
            await self._rest.cleanup()
        self._executor.shutdown(wait=False, cancel_futures=True)
        self.space_wait.close()
        await self.loop.run_in_executor(None, self.store.close, self._checkpoint_at_end)
        log.info("stopped")

    async def _drained(self) -> None:
        while self._connections or not self.dispatcher.is_idle:
            await asyncio.sleep(0.005)

    def stop(self, checkpoint: bool = True) -> None:
        """Begin the shutdown. May be called on any thread.

        checkpoint: take one at the end, if that makes the next start faster
        """
        self._checkpoint_at_end = checkpoint
        self.loop.call_soon_threadsafe(self._stopping.set)

    def _description(self) -> str:
        store, host, rest = self.store, self.config.host, self._rest
        parts = [
            f"pmkv {pmkv.__version__}: RESP on {host}:{self.port}",
            f"REST on {host}:{rest.port}" if rest is not None else "no REST",
            f"granularity {store.granularity}",
            f"durability {store.durability}",
            f"data in {store.path}" if store.path else "data in memory only",
            f"pool of {store.capacity / (1 << 30):.3g} GiB",
            f"{store.dram / (1 << 20):,.0f} MiB of DRAM for caches",
        ]
        return ", ".join(parts)

    # ---- connections ----

    def enter(self, connection: Connection) -> bool:
        """Register a new client; return False if there are too many, or the server is stopping."""
        if len(self._connections) >= self.config.max_clients or self._stopping.is_set():
            self.stats.rejected += 1
            return False
        self.stats.connections += 1
        self._connections.add(connection)
        self.sessions[connection.session.id] = connection.session
        return True

    def leave(self, connection: Connection) -> None:
        """Forget a client whose connection was lost."""
        self._connections.discard(connection)
        self.sessions.pop(connection.session.id, None)
        connection.session.track(False)
        connection.session.watched.release()

    def output_limit_changed(self) -> None:
        """Use the limits of output that CONFIG SET has changed, for the connections that there are, too."""
        for connection in self._connections:
            connection.limits_changed()
        self._watch_output()

    def _watch_output(self) -> None:
        """Look, every second, for clients that have been above the soft limit for too long."""
        for connection in list(self._connections):
            connection.check_output()
        if self.limits.is_set and not self._stopping.is_set():
            if self._watching is not None:
                self._watching.cancel()
            self._watching = self.loop.call_later(WATCH_S, self._watch_output)

    # ---- for commands and REST ----

    async def durable(self, lsn: int) -> None:
        """Return once `lsn` is durable; raise the store's failure if it never will be."""
        if lsn > self.store.durable_lsn:
            self.store.flush_soon()
            future = self.loop.create_future()
            self.waiters.append((lsn, future))
            self.wake()
            await future

    def wake(self) -> None:
        """Wake the callers of `durable` whose LSN is durable by now, or all if the store failed."""
        durable, failed = self.store.durable_lsn, self.store.failed
        waiters, self.waiters = self.waiters, []
        for lsn, future in waiters:
            if future.done():
                continue
            if lsn <= durable:
                future.set_result(None)
            elif failed:
                future.set_exception(failed)
            else:
                self.waiters.append((lsn, future))

    def parameters(self) -> dict[str, object]:
        """Return what CONFIG GET shows, by Redis' names."""
        return {
            "appendfsync": {"commit": "always", "interval": "everysec"}.get(self.store.durability, "no"),
            "appendonly": "yes" if self.store.durability != "none" else "no",
            "bind": self.config.host,
            "client-output-buffer-limit": self.limits,
            "client-query-buffer-limit": self.limits.query_bytes,
            "databases": KEYSPACES,
            "dir": self.store.path or "",
            "maxclients": self.config.max_clients,
            "maxmemory": self.store.capacity,
            "maxmemory-policy": "noeviction",
            "notify-keyspace-events": "",
            "port": self.port,
            "proto-max-bulk-len": 512 << 20,
            "requirepass": self.config.password,
            "save": "",
            "timeout": self.heartbeat.timeout,
        }

    def set_max_clients(self, number: int) -> None:
        """Allow so many connections from now on. ValueError: the limit of open files is too low."""
        fitting, _ = descriptors.clients_that_fit(number, descriptors.raise_limit(), self.config.rest_port is not None)
        if fitting < number:
            raise ValueError(
                f"The operating system is not able to handle the specified number of clients: at most {fitting}"
            )
        self.config.max_clients = number


def _log_loop_problem(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log in one line that the system has no descriptor for a new connection; everything else as asyncio does."""
    problem = context.get("exception")
    if isinstance(problem, OSError) and problem.errno in NO_DESCRIPTOR:
        log.warning("a connection cannot be accepted: %s", describe(problem))
    else:
        loop.default_exception_handler(context)


def _new_loop() -> Any:
    """Return the factory of uvloop's event loop if that is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
