"""The server's life: start-up, main loop, shutdown. The only place with an event loop."""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pmkv
from pmkv.runtime.jit import FEW_ELEMENTS, Limits
from pmkv.runtime.scheduling import lower_priority, short_slice
from pmkv_server.bgsave import BackgroundSave
from pmkv_server.commands.keys import KEYSPACES
from pmkv_server.config import Config
from pmkv_server.dispatch.tick import Dispatcher
from pmkv_server.net.connection import Connection
from pmkv_server.net.session import Session
from pmkv_server.stats import Stats
from pmkv_server.version_events import VersionEvents

log = logging.getLogger("pmkv.server")

DRAIN_SECONDS = 3.0  # for replies under way at the end; the rest of the 5 s is the store's
# How long a thread may keep the interpreter from the others: the loop from the flush thread, and upkeep from the loop.
# With Python's 5 ms, one GET in a thousand took 14 ms while a checkpoint entered keys. Whoever is asked to hand it over
# waits until the other has it, and that one may have to wait for a core: asked before its tick is over, as with 0.3 ms,
# the loop stands still. Reads beside puts of 16 MiB tell (`make bench ARGS=versions`).
SWITCH_SECONDS = 0.001
WORKERS_NICE = 5  # what is heavy has a third of the share of what is not, where both want a core


class Server:
    """A store, and who talks to it. `durable(lsn)` is how REST waits."""

    def __init__(self, config: Config, store: Any = None) -> None:
        config.check()
        self.config = config
        self.store: Any = store
        self.stats, self.saving, self.switches = Stats(), BackgroundSave(), VersionEvents()
        self.sessions: dict[int, Session] = {}
        self.loop: asyncio.AbstractEventLoop | None = None
        self.port = config.port
        self._connections: set[Connection] = set()
        self.waiters: list[tuple[int, asyncio.Future]] = []
        self._rest: Any = None
        self._stopping: asyncio.Event | None = None
        self._checkpoint_at_end = True

    # ---- the three parts of its life ----

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
        """Open the store, answer RESP, then load and answer REST, which takes longer to import."""
        config = self.config
        self.loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        if self.store is None:
            self.store = pmkv.open(
                config.data,
                capacity=config.capacity,
                dram=config.dram,
                durability=config.durability,
                pool=config.pool,
                require=config.require,
            )
        self.switches.attach(self.store, self.loop, self.durable)
        self._executor = ThreadPoolExecutor(config.workers, "pmkv-worker", lower_priority, (WORKERS_NICE,))
        self.dispatcher = Dispatcher(self, self.loop, self._executor)
        if (fast_path := self.dispatcher.fast_path) is not None:
            self.loop.add_reader(fast_path.sockets.fileno(), fast_path.receive)
        make = functools.partial(Connection, self, self.dispatcher)
        self._listener = await self.loop.create_server(make, config.host, config.port, backlog=511)
        self.port = self._listener.sockets[0].getsockname()[1]
        sys.setswitchinterval(SWITCH_SECONDS)
        short_slice()
        Limits.on_disk = FEW_ELEMENTS
        self._catch_signals()
        rest = await self._start_rest()
        log.info("%s. Ready to accept connections", self._description(rest))

    async def main_loop(self) -> None:
        """Everything happens in callbacks; wait for the end."""
        await self._stopping.wait()

    async def shutdown(self) -> None:
        """Take nothing new, let what is under way be committed and answered, close the store."""
        log.info("stopping: %d connections", len(self._connections))
        self._listener.close()
        for connection in list(self._connections):
            connection.close()
        self.switches.close()
        self.store.flush_soon()
        try:
            await asyncio.wait_for(self._drained(), DRAIN_SECONDS)
        except TimeoutError:
            log.warning("stopping without waiting longer for %d connections", len(self._connections))
        for connection in list(self._connections):
            connection.abort()
        if self._rest:
            await self._rest.cleanup()
        self._executor.shutdown(wait=False, cancel_futures=True)
        await self.loop.run_in_executor(None, self.store.close, self._checkpoint_at_end)
        log.info("stopped")

    async def _drained(self) -> None:
        while self._connections or not self.dispatcher.is_idle:
            await asyncio.sleep(0.005)

    def stop(self, checkpoint: bool = True) -> None:
        """Begin the shutdown; from any thread. checkpoint: take one, if it saves the next start something."""
        self._checkpoint_at_end = checkpoint
        self.loop.call_soon_threadsafe(self._stopping.set)

    def _catch_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        if self._stopping.is_set():
            log.warning("a second signal: ending at once; the log is replayed at the next start")
            logging.shutdown()
            sys.stderr.flush()
            signal.raise_signal(signal.SIGKILL)
        self.stop()

    async def _start_rest(self) -> int | None:
        """Start REST if it is wanted; its port."""
        if self.config.rest_port is None:
            return None
        rest = await self.loop.run_in_executor(None, importlib.import_module, "pmkv_server.rest")
        self._rest = await rest.start_rest(self, self.config.host, self.config.rest_port)
        return self._rest.addresses[0][1]

    def _description(self, rest: int | None) -> str:
        store, host = self.store, self.config.host
        parts = [
            f"pmkv {pmkv.__version__}: RESP on {host}:{self.port}",
            f"REST on {host}:{rest}" if rest is not None else "no REST",
            f"granularity {store.granularity}",
            f"durability {store.durability}",
            f"data in {store.path}" if store.path else "data in memory only",
            f"pool of {store.capacity / (1 << 30):.3g} GiB",
        ]
        return ", ".join(parts)

    # ---- who is connected ----

    def enter(self, connection: Connection) -> bool:
        """A client connected; is there room for it?"""
        if len(self._connections) >= self.config.max_clients or self._stopping.is_set():
            self.stats.rejected += 1
            return False
        self.stats.connections += 1
        self._connections.add(connection)
        self.sessions[connection.session.id] = connection.session
        return True

    def leave(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self.sessions.pop(connection.session.id, None)
        connection.session.track(False)

    # ---- for commands and REST ----

    async def durable(self, lsn: int) -> None:
        """Return once `lsn` is durable; raise what the store failed with if it never will be."""
        if lsn > self.store.durable_lsn:
            self.store.flush_soon()
            future = self.loop.create_future()
            self.waiters.append((lsn, future))
            self.wake()
            await future

    def wake(self) -> None:
        """More is durable, or the store failed: tell who waits in `durable`."""
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
        """What CONFIG GET shows, by Redis' names."""
        return {
            "appendfsync": {"commit": "always", "interval": "everysec"}.get(self.store.durability, "no"),
            "appendonly": "yes" if self.store.durability != "none" else "no",
            "bind": self.config.host,
            "databases": KEYSPACES,
            "dir": self.store.path or "",
            "maxclients": self.config.max_clients,
            "maxmemory": 0,
            "maxmemory-policy": "noeviction",
            "notify-keyspace-events": "",
            "port": self.port,
            "proto-max-bulk-len": 512 << 20,
            "requirepass": self.config.password,
            "save": "",
            "timeout": 0,
        }


def _new_loop() -> Any:
    """uvloop's loop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop
