"""Ctrl-C within a call: the next call gets its own reply, and not the one that nobody has read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest
import redis

import pmkv_client
from pmkv_client.interrupts import whole
from tests.served import served

IDS = np.arange(5000)


@pytest.fixture(scope="module")
def client() -> Iterator[pmkv_client.Client]:
    with served("--pool", ":memory:", "--capacity", "64MiB") as server:
        with pmkv_client.connect(f"pmkv://127.0.0.1:{server.port}") as connected:
            connected.create_table("t", "i8").put(IDS, IDS * 2)
            connected.mset({f"k{number}": f"v{number}" for number in range(100)})
            yield connected


@pytest.mark.parametrize(
    ("error", "closes"), [(KeyboardInterrupt, True), (MemoryError, True), (redis.ResponseError, False)]
)
def test_what_ends_an_exchange_closes_the_connection(error: type[BaseException], closes: bool) -> None:
    connection = Mock()
    with pytest.raises(error):
        whole(connection, Mock(side_effect=error))
    assert connection.disconnect.called == closes


def interrupted_between(client: pmkv_client.Client, call: Any) -> None:
    """Interrupt a call when its command was sent and nothing of the reply was read."""
    with patch.object(redis.Connection, "read_response", Mock(side_effect=KeyboardInterrupt)):
        with pytest.raises(KeyboardInterrupt):
            call()
    assert client.get("k1") == b"v1" and client.get("k2") == b"v2"


def test_a_reply_that_was_not_read_answers_no_other_call(client: pmkv_client.Client) -> None:
    interrupted_between(client, lambda: client.get("k0"))
    interrupted_between(client, lambda: client.table("t").get(IDS[:3]))
    interrupted_between(client, lambda: client.pipeline(transaction=False).get("k0").get("k3").execute())
    interrupted_between(client, lambda: client.pipeline().get("k0").get("k3").execute())
    client.connection_pool.disconnect()
    interrupted_between(client, lambda: client.get("k0"))  # while it connects
