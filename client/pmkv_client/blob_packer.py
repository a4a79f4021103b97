"""Commands with blobs, sent from where these stand: redis-py with hiredis packs half a megabyte in two milliseconds.

What has no memoryview among its arguments is packed as redis-py does it. Each item of what `pack` returns is one system
call, and may be seen by the server alone: so short ones are joined, and a long one leaves its end to those behind it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import redis
from redis.connection import DefaultParser, HiredisRespSerializer, PythonRespSerializer

JOINED = 32 << 10  # bytes that are copied rather than sent alone
STEP = 256 << 10  # bytes of one call: where the system is not preemptible, nobody else has the core before its end
Piece = bytes | memoryview


class BlobPacker:
    """What connections of redis.Redis are given as `command_packer`."""

    def __init__(self, encoder: Any) -> None:
        """encoder: redis-py's, for what is no bytes."""
        self._in_place = PythonRespSerializer(0, encoder.encode)
        has_hiredis = DefaultParser.__name__ == "_HiredisParser"
        self._short = HiredisRespSerializer() if has_hiredis else PythonRespSerializer(JOINED, encoder.encode)

    def pack(self, *args: Any) -> list[Piece]:
        """The bytes of a command, in pieces."""
        if any(isinstance(arg, memoryview) for arg in args):
            return joined(self._in_place.pack(*args))
        return self._short.pack(*args)


def joined(pieces: list[Piece]) -> list[Piece]:
    """The same bytes in fewer pieces, of which only long ones are views."""
    out: list[Piece] = []
    near: list[Piece] = []
    for piece in pieces:
        if len(piece) > 3 * JOINED:  # what is between is worth a call
            out += [b"".join([*near, piece[:JOINED]]), *cut(piece[JOINED:-JOINED])]
            near = [piece[-JOINED:]]
        else:
            near.append(piece)
    return [*out, b"".join(near)]


def cut(view: Piece) -> list[Piece]:
    """In equal parts, each fit for one call."""
    count = -(-len(view) // STEP)
    ends = [len(view) * i // count for i in range(count + 1)]
    return [view[start:stop] for start, stop in pairwise(ends)]


def pack_by(pool: redis.ConnectionPool) -> None:
    """Have connections that the pool makes from now on pack so, unless they are told otherwise."""
    pool.connection_kwargs.setdefault("command_packer", BlobPacker(pool.get_encoder()))
