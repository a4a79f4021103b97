"""A command packer for redis-py that sends long blobs without a copy.

redis-py with hiredis copies every blob twice, which takes two milliseconds for half a megabyte. Commands without a long
blob are packed as redis-py does it. Each item that `pack` returns costs one system call, and the server may receive it
alone: so short items are joined, and a long blob gives its first and last bytes to its neighbours.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import redis
from redis.connection import DefaultParser, HiredisRespSerializer, PythonRespSerializer

LARGE_BLOB_BYTES = 256 << 10  # longer blobs are sent from their own memory
EDGE_BYTES = 32 << 10  # of a large blob: copied to either side, so that nothing short is sent alone
SEND_BYTES = 256 << 10  # most bytes of one system call: on a kernel without preemption it holds the core until its end
Buffer = bytes | memoryview


class BlobPacker:
    """The `command_packer` of connections of redis.Redis."""

    def __init__(self, encoder: Any) -> None:
        """encoder: redis-py's, for arguments that are not bytes."""
        self._in_place = PythonRespSerializer(0, encoder.encode)
        has_hiredis = DefaultParser.__name__ == "_HiredisParser"
        self._copying = HiredisRespSerializer() if has_hiredis else PythonRespSerializer(EDGE_BYTES, encoder.encode)

    def pack(self, *args: Any) -> list[Buffer]:
        """Return the bytes of a command, in buffers to be sent one after another."""
        if any(isinstance(arg, bytes | memoryview) and len(arg) > LARGE_BLOB_BYTES for arg in args):
            views = (memoryview(arg) if isinstance(arg, bytes) and len(arg) > LARGE_BLOB_BYTES else arg for arg in args)
            return joined(self._in_place.pack(*views))
        return self._copying.pack(*args)


def joined(buffers: list[Buffer]) -> list[Buffer]:
    """Return the same bytes in fewer buffers, of which only parts of large blobs are views."""
    out: list[Buffer] = []
    short: list[Buffer] = []
    for buffer in buffers:
        if len(buffer) > LARGE_BLOB_BYTES:
            out += [b"".join([*short, buffer[:EDGE_BYTES]]), *split_evenly(buffer[EDGE_BYTES:-EDGE_BYTES])]
            short = [buffer[-EDGE_BYTES:]]
        else:
            short.append(buffer)
    return [*out, b"".join(short)]


def split_evenly(view: Buffer) -> list[Buffer]:
    """Cut a buffer into equal views of at most SEND_BYTES."""
    count = -(-len(view) // SEND_BYTES)
    ends = [len(view) * i // count for i in range(count + 1)]
    return [view[start:stop] for start, stop in pairwise(ends)]


def use_blob_packer(pool: redis.ConnectionPool) -> None:
    """Give new connections of the pool a BlobPacker, unless the pool has another packer."""
    pool.connection_kwargs.setdefault("command_packer", BlobPacker(pool.get_encoder()))
