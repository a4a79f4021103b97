"""Commands in pieces: the same bytes as redis-py packs, long blobs from where they stand, and nothing short alone."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import redis
from redis.connection import PythonRespSerializer

import pmkv_client
from pmkv_client.blob_packer import EDGE_BYTES, LARGE_BLOB_BYTES, SEND_BYTES, BlobPacker, use_blob_packer
from pmkv_client.requests import blob

ENCODER = redis.ConnectionPool().get_encoder()


def packed(*args: object) -> bytes:
    """As redis-py's own packer in Python has it."""
    return b"".join(PythonRespSerializer(6000, ENCODER.encode).pack(*args))


@pytest.mark.parametrize("args", [("PING",), ("CONFIG GET", "save"), ("SET", b"k", "v", "PX", 10), ("GET", b"a" * 99)])
def test_what_has_no_blob_is_packed_as_ever(args: tuple) -> None:
    assert b"".join(BlobPacker(ENCODER).pack(*args)) == packed(*args)


@pytest.mark.parametrize(
    "sizes",
    [
        (0,),
        (8,),
        (EDGE_BYTES,),
        (LARGE_BLOB_BYTES,),
        (LARGE_BLOB_BYTES + 1,),
        (8, 1 << 20),
        (1 << 20, 8),
        (9 * SEND_BYTES,),
    ],
)
def test_the_bytes_are_redis_pys(sizes: tuple[int, ...]) -> None:
    args = ["TABLE.PUT", "items", *(memoryview(np.random.default_rng(n).bytes(n)) for n in sizes), "AT", 7]
    pieces = BlobPacker(ENCODER).pack(*args)
    assert b"".join(pieces) == packed(*args)
    if max(sizes) <= LARGE_BLOB_BYTES:
        return
    assert len(pieces) == 1 + sum(1 - (2 * EDGE_BYTES - n) // SEND_BYTES for n in sizes if n > LARGE_BLOB_BYTES)
    assert all(len(piece) <= SEND_BYTES for piece in pieces), "one call would have the core for long"
    assert all(len(piece) >= EDGE_BYTES for piece in pieces[:-1]), "none that is short is sent alone"


@pytest.mark.parametrize("form", [blob, np.ndarray.tobytes])
def test_a_long_blob_is_not_copied(form: Callable[[np.ndarray], object]) -> None:
    rows = np.zeros((1 << 16, 64), "u1")
    value = form(rows)
    tracemalloc.start()
    BlobPacker(ENCODER).pack("TABLE.PUT", "items", blob(np.arange(1 << 10)), value)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * EDGE_BYTES < rows.nbytes // 8


@pytest.mark.parametrize("made", [pmkv_client.Client, pmkv_client.connect])
def test_connections_of_a_client_pack_so(made: object) -> None:
    with made() as client:
        assert isinstance(client.connection_pool.make_connection()._command_packer, BlobPacker)


def test_a_pool_that_somebody_made_packs_as_they_say() -> None:
    pool = redis.ConnectionPool()
    with pmkv_client.Client(connection_pool=pool):
        assert "command_packer" not in pool.connection_kwargs
    own = BlobPacker(ENCODER)
    told = redis.ConnectionPool(command_packer=own)
    use_blob_packer(told)
    assert told.connection_kwargs["command_packer"] is own
