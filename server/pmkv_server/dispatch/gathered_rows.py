"""Answer the TABLE.GETs, TABLE.EXISTSs and TABLE.PUTs of many connections for one table by one call of it each.

Only such without options take part. What the table refuses, or would have to read from disk, is left to each command.
"""

from __future__ import annotations

import logging
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from pmkv_server.commands.registry import name_of
from pmkv_server.resp.scan import OK, OTHER, Scan, bulk

if TYPE_CHECKING:
    from pmkv_server.dispatch.tick import Dispatcher
    from pmkv_server.net.connection import Connection
    from pmkv_server.server import Server

log = logging.getLogger("pmkv.server")
IDS = np.dtype("<i8")

# Their numbers in scans: below those of commands for waves
TABLE_GET, TABLE_EXISTS, TABLE_PUT = -1, -2, -3
NAMES = {TABLE_GET: "table.get", TABLE_EXISTS: "table.exists", TABLE_PUT: "table.put"}
GATHERED_BYTES = 256 << 10  # of rows that are read or written at once; longer commands run alone
OF_ONE_CONNECTION = 64  # commands

Words = list[np.ndarray]  # the bytes of a command's ids, and of its rows if it has some
Request = tuple["Connection", list[Words]]  # the next commands of a connection


class GatheredRows:
    """Answers the commands for tables with which connections go on. Runs on the loop's thread."""

    def __init__(self, server: Server, dispatcher: Dispatcher) -> None:
        self._server, self._dispatcher, self._store = server, dispatcher, server.store

    def serve(self, active: list[Connection], found: Scan) -> None:
        """Answer those of which several are alike and for one table."""
        groups: dict[tuple[int, Any, bytes], list[Request]] = {}
        for connection in active:
            if connection.has_rows() and found.number(connection.row) < OTHER and connection.session.plain:
                number, name, wanted = self._next(connection, found)
                if wanted:
                    groups.setdefault((number, connection.session.view, name), []).append((connection, wanted))
        if not (self._dispatcher.workers.exclusive or self._store.is_cold):
            for (number, view, name), requests in groups.items():
                if sum(len(wanted) for _, wanted in requests) > 1:
                    self._answer(number, view, name, requests)

    def _next(self, connection: Connection, found: Scan) -> tuple[int, bytes, list[Words]]:
        """Return the number and the table of a connection's next commands, as long as these are alike, and their
        words."""
        kind, name, wanted = found.number(connection.row), b"", []
        for row in range(connection.row, min(connection.row_end, connection.row + OF_ONE_CONNECTION)):
            _, first, count, number = found.rows[row].tolist()
            if number != kind or count != (4 if kind == TABLE_PUT else 3):
                break
            (start, stop), *spans = found.bounds[first + 1 : first + count].tolist()
            table, length = bytes(found.data[start:stop]), spans[0][1] - spans[0][0]
            if (wanted and table != name) or not length or length % IDS.itemsize:
                break
            name = table
            wanted.append([found.blob[start:stop] for start, stop in spans])
        return kind, name, wanted

    def _answer(self, number: int, view: Any, name: bytes, requests: list[Request]) -> None:
        commands = [words for _, wanted in requests for words in wanted]
        durability_wait, began = self._dispatcher.durability_wait, perf_counter_ns()
        durability_wait.lsn = 0
        durability_wait.min_lsn = max(connection.outbox.newest_lsn for connection, _ in requests)
        try:
            replies = _replies(number, view.table(name_of(name)), commands)
        except Exception as problem:  # perhaps of one of them alone
            log.debug("%d %ss were not done at once: %s", len(commands), NAMES[number], problem)
            return
        finally:
            self._dispatcher.note_pending()
        if replies is None:
            return
        self._dispatcher.wrote |= number == TABLE_PUT
        stop = 0
        for connection, wanted in requests:
            start, stop = stop, stop + len(wanted)
            connection.outbox.add(b"".join(replies[start:stop]), len(wanted), durability_wait.lsn)
            connection.row += len(wanted)
            connection.session.last_command = NAMES[number]
        self._server.stats.count(NAMES[number], len(commands), perf_counter_ns() - began)


def _replies(number: int, table: Any, commands: list[Words]) -> list[bytes] | None:
    """Do what all these commands want of a table; return the reply to each, or None if they are to be run alone."""
    ids, width = np.concatenate([words[0] for words in commands]).view(IDS), table.row_dtype.itemsize
    if ids.size * width > GATHERED_BYTES or (number != TABLE_PUT and table.may_wait(ids)):
        return None
    if number == TABLE_PUT:
        # the log has what each has written, so no two write one row
        if np.unique(ids).size < ids.size or any(
            words[1].size != words[0].size // IDS.itemsize * width for words in commands
        ):
            return None
        table.put(ids, np.concatenate([words[1] for words in commands]).tobytes())
        return [OK] * len(commands)
    if number == TABLE_EXISTS:
        rows, width = table.contains(ids).astype(np.uint8).tobytes(), 1
    else:
        rows = table.get(ids).tobytes()
    replies, stop = [], 0
    for words in commands:
        start, stop = stop, stop + words[0].size // IDS.itemsize * width
        replies.append(bulk(rows[start:stop]))
    return replies
