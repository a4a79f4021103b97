"""A client may send a whole pipeline before it reads a reply."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.served import Served, request

COMMANDS, SIZE = 200_000, 100


def test_a_pipeline_sent_before_any_reply_is_read(tmp_path: Path) -> None:
    """20 MB of replies wait while 6 MB of commands are still being sent by a thread that never reads."""
    value = b"v" * SIZE
    served = Served("--rest-port", "off", "--data", str(tmp_path / "d"), "--capacity", "64MiB")
    try:
        with socket.create_connection(("127.0.0.1", served.port)) as stream:
            stream.settimeout(60)
            stream.sendall(request("SET", "key", value))
            assert stream.recv(100) == b"+OK\r\n"
            stream.sendall(request("GET", "key") * COMMANDS + request("PING"))  # blocks unless the server reads on
            wanted, got = COMMANDS * (len(value) + 8) + 7, 0
            tail = b""
            while got < wanted:
                piece = stream.recv(1 << 20)
                assert piece, f"closed after {got:,} of {wanted:,} bytes"
                got, tail = got + len(piece), (tail + piece)[-7:]
            assert tail == b"+PONG\r\n"
    finally:
        served.stop()
