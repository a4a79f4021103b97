"""Running a command: what leaves the loop, and which error becomes which reply."""

from __future__ import annotations

import pytest

from pmkv import errors
from pmkv_server.commands import find
from pmkv_server.commands.execution import HEAVY_ARGUMENTS, HEAVY_BYTES, failure, is_heavy, not_durable
from pmkv_server.commands.registry import CommandError
from tests.unit.server.stand import Client, words_of


def heavy(client: Client, arguments: list[bytes]) -> bool:
    return is_heavy(client.session, find(arguments), arguments)


def test_long_and_many_arguments_leave_the_loop(client: Client) -> None:
    assert not heavy(client, [b"SET", b"a", b"x"])
    assert heavy(client, [b"SET", b"a", b"x" * HEAVY_BYTES])
    assert not heavy(client, [b"MSET", *[b"x"] * 10])
    assert heavy(client, [b"DEL", *[b"x"] * HEAVY_ARGUMENTS])
    assert not heavy(client, [b"AUTH", b"x" * (HEAVY_BYTES + 1)]), "what changes the session stays on the loop"


@pytest.mark.parametrize("line", ["STRLEN long", "GETRANGE long 0 1", "APPEND long x", "RENAME long b", "MGET a long"])
def test_long_values_leave_the_loop(line: str, client: Client) -> None:
    client.server.store.put_many({b"long": b"x" * (2 << 20), b"a": b"1"})
    assert heavy(client, words_of(line)) == (not line.startswith("STRLEN"))
    assert not heavy(client, words_of(line.replace("long", "a")))


def test_many_rows_leave_the_loop(client: Client) -> None:
    client.server.store.create_table("wide", ("f4", 1024))
    assert not heavy(client, [b"TABLE.GET", b"wide", bytes(8 * 100)])
    assert heavy(client, [b"TABLE.GET", b"wide", bytes(8 * 1025)])
    assert not heavy(client, [b"TABLE.GET", b"none", bytes(8 * 1025)])


def test_a_transaction_is_as_heavy_as_its_heaviest_command(client: Client) -> None:
    client.server.store.put(b"long", b"x" * (2 << 20))
    client.follows("MULTI => OK\nGET a => QUEUED")
    assert not heavy(client, [b"EXEC"])
    client.says("APPEND long x")
    assert heavy(client, [b"EXEC"])


@pytest.mark.parametrize(
    ("problem", "reply"),
    [
        (CommandError("ERR no\r\nsuch"), b"-ERR no  such\r\n"),
        (errors.FullError("full"), b"-OOM command not allowed when used memory > 'maxmemory'. full\r\n"),
        (errors.ReadOnlyError("a snapshot"), b"-READONLY a snapshot\r\n"),
        (errors.ConflictError("too late"), b"-CONFLICT too late\r\n"),
        (errors.CorruptionError("row 7"), b"-ERR corruption: row 7\r\n"),
        (errors.InvalidError("bad shape"), b"-ERR bad shape\r\n"),
        (errors.UnknownNameError("no table 'x'"), b"-ERR no table 'x'\r\n"),
        (
            OSError(28, "No space left on device", "runs"),
            b"-ERR the system refused: No space left on device (ENOSPC): runs; make room on the disk\r\n",
        ),
        (MemoryError(), b"-ERR the server lacks the memory for this command: send or ask for less at once\r\n"),
        (ZeroDivisionError("oops"), b"-ERR internal error: ZeroDivisionError: oops\r\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_become_replies(problem: Exception, reply: bytes) -> None:
    assert failure(problem) == reply


def test_a_failed_flush_says_that_it_may_be_lost() -> None:
    problem = errors.FlushError("the medium refused a flush (EIO)")
    assert failure(problem) == not_durable(problem)
    assert not_durable(problem).startswith(b"-MISCONF Errors writing to the log: the medium refused a flush (EIO).")
