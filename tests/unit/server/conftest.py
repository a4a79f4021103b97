"""A real store in memory, clients that call commands on it, and connections without sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import pmkv
from pmkv_server.net.connection import Connection
from tests.unit.server.stand import Client, Gate, Stub, Wire, dispatching


@pytest.fixture
def store() -> Iterator[Any]:
    with pmkv.open(pool=":memory:", capacity="128MiB") as opened:
        yield opened


@pytest.fixture
def server(store: Any) -> Stub:
    return Stub(store)


@pytest.fixture
def client(server: Stub) -> Client:
    return Client(server)


@pytest.fixture
def another(server: Stub) -> Client:
    return Client(server)


@pytest.fixture
def gate(store: Any) -> Iterator[Gate]:
    """The store flushes like a disk that the test can hold up."""
    made = Gate(store)
    yield made
    made.open()


@pytest.fixture
async def connect(server: Stub) -> Any:
    """`connect()` gives a `Wire`; all of them share one dispatcher and one worker."""
    with ThreadPoolExecutor(1) as executor:
        dispatcher = dispatching(server, executor)
        make: Callable[[], Wire] = lambda: Wire(server, Connection(server, dispatcher))  # noqa: E731
        yield make
