"""Answer the TABLE.GETs of many connections for one table by one lookup, and one copy of the rows.

Only such without options take part. What the table refuses, or would have to read from disk, is left to each command.
"""

from __future__ import annotations

import logging
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from pmkv_server.commands.registry import name_of
from pmkv_server.resp.scan import Scan, bulk

if TYPE_CHECKING:
    from pmkv_server.dispatch.tick import Dispatcher
    from pmkv_server.net.connection import Connection
    from pmkv_server.server import Server

log = logging.getLogger("pmkv.server")

TABLE_GET = -1  # its number in scans: below those of commands for waves
GATHERED_BYTES = 256 << 10  # of rows that are read at once; one command may ask for more, and is then run alone
OF_ONE_CONNECTION = 64  # commands

Request = tuple["Connection", list[np.ndarray]]  # the bytes of the ids of its next commands


class GatheredRows:
    """Answers the TABLE.GETs with which connections go on. Runs on the loop's thread."""

    def __init__(self, server: Server, dispatcher: Dispatcher) -> None:
        self._server, self._dispatcher, self._store = server, dispatcher, server.store

    def serve(self, active: list[Connection], found: Scan) -> None:
        """Answer those of which several are for one table."""
        tables: dict[tuple[Any, bytes], list[Request]] = {}
        for connection in active:
            row = connection.row
            if connection.has_rows() and found.number(row) == TABLE_GET and connection.session.plain:
                name, wanted = self._next(connection, found)
                if wanted:
                    tables.setdefault((connection.session.view, name), []).append((connection, wanted))
        if not (self._dispatcher.workers.exclusive or self._store.is_cold):
            for (view, name), requests in tables.items():
                if sum(len(wanted) for _, wanted in requests) > 1:
                    self._answer(view, name, requests)

    def _next(self, connection: Connection, found: Scan) -> tuple[bytes, list[np.ndarray]]:
        """Return the table of a connection's next commands, and the ids of each."""
        name, wanted = b"", []
        for row in range(connection.row, min(connection.row_end, connection.row + OF_ONE_CONNECTION)):
            _, first, count, number = found.rows[row].tolist()
            if number != TABLE_GET or count != 3:
                break
            start, stop, ids, end = found.bounds[first + 1 : first + 3].ravel().tolist()
            table = bytes(found.data[start:stop])
            if (wanted and table != name) or (end - ids) % 8 or ids == end:
                break
            name = table
            wanted.append(found.blob[ids:end])
        return name, wanted

    def _answer(self, view: Any, name: bytes, requests: list[Request]) -> None:
        ids = np.concatenate([one for _, wanted in requests for one in wanted]).view("<i8")
        deferral, began = self._dispatcher.deferral, perf_counter_ns()
        deferral.lsn = 0
        deferral.min_lsn = max(connection.outbox.newest_lsn for connection, _ in requests)
        try:
            table = view.table(name_of(name))
            if ids.size * table.row_dtype.itemsize > GATHERED_BYTES or table.may_wait(ids):
                return
            rows = table.get(ids).tobytes()
        except Exception as problem:
            log.debug("the rows of %d ids were not read at once: %s", ids.size, problem)
            return
        finally:
            self._dispatcher.note_pending()
        width, stop, commands = len(rows) // ids.size, 0, 0
        for connection, wanted in requests:
            replies = []
            for one in wanted:
                start, stop = stop, stop + one.size // 8 * width
                replies.append(bulk(rows[start:stop]))
            connection.outbox.add(b"".join(replies), len(wanted), deferral.lsn)
            connection.row += len(wanted)
            connection.session.last_command = "table.get"
            commands += len(wanted)
        self._server.stats.count("table.get", commands, perf_counter_ns() - began)
