"""Commands for tables of many connections: one call of a table, and the replies that each would get alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pmkv.engine.table import Table
from tests.served import request
from tests.unit.server.stand import Stub, settled, until

DAMAGED = 13


@pytest.fixture
def reads(store: Any, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The ids of each read of a table."""
    store.create_table("t", ("i8", 2)).put(np.arange(100), np.arange(200).reshape(100, 2))
    store.create_table("dense", "i8", rows=10)
    found, get = [], Table.get

    def watched(table: Table, ids: Any, *arguments: Any, **options: Any) -> Any:
        found.append(np.asarray(ids).tolist())
        if DAMAGED in found[-1]:
            raise ValueError("a row is damaged")
        return get(table, ids, *arguments, **options)

    monkeypatch.setattr(Table, "get", watched)
    return found


def asked(name: str, *ids: int) -> bytes:
    return request("TABLE.GET", name, np.array(ids, "<i8").tobytes())


def existing(name: str, *ids: int) -> bytes:
    return request("TABLE.EXISTS", name, np.array(ids, "<i8").tobytes())


def written(name: str, values: dict[int, int]) -> bytes:
    ids, numbers = (np.array(list(some), "<i8").tobytes() for some in (values, values.values()))
    return request("TABLE.PUT", name, ids, numbers)


def rows(*ids: int) -> bytes:
    raw = b"".join(np.array([2 * i, 2 * i + 1] if i < 100 else [0, 0], "<i8").tobytes() for i in ids)
    return b"$%d\r\n%b\r\n" % (len(raw), raw)


async def test_those_for_one_table_are_one_read(connect: Any, reads: list, server: Stub) -> None:
    wires = [connect() for _ in range(4)]
    wires[0].send(asked("t", 1))
    wires[1].send(asked("t", 2, 200, 3) + asked("t", 4) + request("PING") + asked("t", 5))
    wires[2].send(request("SET", "a", "1") + asked("t", 6, 6))
    wires[3].send(asked("dense", 7))
    await settled()
    assert [bytes(wire.transport.sent) for wire in wires] == [
        rows(1), rows(2, 200, 3) + rows(4) + b"+PONG\r\n" + rows(5), b"+OK\r\n" + rows(6, 6),
        b"$8\r\n" + bytes(8) + b"\r\n",
    ]  # fmt: skip
    assert reads == [[1, 2, 200, 3, 4, 6, 6], [7], [5]]
    assert server.stats.by_command["table.get"].calls == 6
    wires[0].transport.sent.clear()
    (listed,) = await wires[0].answers("CLIENT LIST")
    assert "cmd=table.get" in listed


async def test_puts_and_questions_for_one_table_are_one_call_each(
    connect: Any, reads: list, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    puts, put = [], Table.put

    def watched(table: Table, ids: Any, *arguments: Any, **options: Any) -> Any:
        puts.append(np.asarray(ids).tolist())
        return put(table, ids, *arguments, **options)

    monkeypatch.setattr(Table, "put", watched)
    wires = [connect() for _ in range(3)]
    wires[0].send(written("dense", {1: 10, 2: 20}) + written("dense", {4: 11}) + asked("dense", 1, 2))
    wires[1].send(written("dense", {3: 30}) + existing("dense", 1, 3, 9))
    wires[2].send(existing("dense", 4) + existing("dense", 1))
    await settled()
    assert wires[0].replies() == ["OK", "OK", '"\\n' + "\\x00" * 7 + "\\x14" + "\\x00" * 7 + '"']
    assert wires[1].replies() == ["OK", '"\\x01\\x01\\x00"'] and len(wires[2].replies()) == 2
    assert puts == [[1, 2, 4, 3]] and reads == [[1, 2]]
    wires[0].send(written("dense", {1: 1, 2: 2}) + written("dense", {2: 3}))
    await settled()
    assert puts[1:] == [[1, 2], [2]], "none is lost in the log, although the second overwrites it"
    assert store.table("dense").get([1, 2, 3, 4]).tolist() == [1, 3, 30, 11]


async def test_rows_of_a_wrong_length_are_refused_alone(connect: Any, reads: list, store: Any) -> None:
    first, second = connect(), connect()
    first.send(request("TABLE.PUT", "dense", bytes(8), bytes(16)))
    second.send(request("TABLE.PUT", "dense", bytes(16), bytes(8)))
    await settled()
    assert all(wire.replies()[0].startswith("-ERR rows: ") for wire in (first, second))
    assert not store.table("dense").contains([0]).any()


async def test_each_view_has_its_own(connect: Any, reads: list, store: Any) -> None:
    store.snapshot("v")
    store.table("t").put([1], [[8, 9]])
    wires = [connect() for _ in range(3)]
    await wires[2].answers("VIEW.USE v")
    for wire in wires:
        wire.send(asked("t", 1))
    await settled()
    sent = [bytes(wire.transport.sent)[5:-2] for wire in wires]
    assert [np.frombuffer(one, "<i8").tolist() for one in sent] == [[8, 9], [8, 9], [2, 3]]
    assert reads == [[1, 1], [1]]


async def test_who_asks_for_what_is_refused_gets_the_error_alone(connect: Any, reads: list) -> None:
    first, second, third = connect(), connect(), connect()
    first.send(asked("t", 3))
    second.send(asked("t", DAMAGED))
    third.send(asked("none", 1) + request("TABLE.GET", "t", b"1234567") + asked("t", 1) + request("TABLE.GET", "t", ""))
    await settled()
    assert bytes(first.transport.sent) == rows(3) and reads[:3] == [[3, DAMAGED], [3], [DAMAGED]]
    assert second.replies() == ["-ERR internal error: ValueError: a row is damaged"]
    assert [reply[:4] for reply in third.replies()] == ["-ERR", "-ERR", '"\\x0', '""']


async def test_what_may_wait_is_read_by_a_worker(connect: Any, reads: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Table, "may_wait", lambda table, ids: True)
    wires = [connect(), connect()]
    for wire in wires:
        wire.send(asked("t", 1))
    await until(lambda: all(wire.transport.sent for wire in wires))
    assert [bytes(wire.transport.sent) for wire in wires] == [rows(1)] * 2 and reads == [[1], [1]]


async def test_in_a_transaction_it_is_queued(connect: Any, reads: list) -> None:
    wires = [connect(), connect()]
    for wire in wires:
        wire.send(request("MULTI") + asked("t", 1) + request("EXEC"))
    await settled()
    assert [bytes(wire.transport.sent) for wire in wires] == [b"+OK\r\n+QUEUED\r\n*1\r\n" + rows(1)] * 2
