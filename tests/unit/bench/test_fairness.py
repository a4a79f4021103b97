"""The bench of fairness: its client reads every kind of reply, and PINGs are counted from when they were due."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from pathlib import Path

import pytest

from bench import fairness
from bench.fairness import Client, ping, request
from bench.servers import BenchError


def answering(port_of: list[int], replies: bytes, delay: float = 0.0) -> threading.Thread:
    """Serve one client: after what it has sent first, and a delay, send `replies`; a PONG for each later PING."""
    listener = socket.create_server(("127.0.0.1", 0))
    port_of.append(listener.getsockname()[1])

    def serve() -> None:
        with listener, listener.accept()[0] as client:
            client.recv(1 << 16)
            time.sleep(delay)
            client.sendall(replies)
            while data := client.recv(1 << 16):
                client.sendall(b"+PONG\r\n" * (len(data) // 14))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def test_replies_are_skipped() -> None:
    port: list[int] = []
    answering(port, b"*2\r\n$3\r\nabc\r\n$-1\r\n:1\r\n+OK\r\n-ERR no\r\n")
    client = Client(port[0])
    client.send(request("MGET", "a", b"b"))
    client.skip(3)
    with pytest.raises(BenchError, match="ERR no"):
        client.skip(1)


def test_a_stall_counts_for_every_ping_that_was_due() -> None:
    port: list[int] = []
    answering(port, b"+PONG\r\n", delay=0.2)
    here, there = multiprocessing.Pipe()
    pinger = threading.Thread(target=ping, args=(port[0], there))
    pinger.start()
    here.recv()
    time.sleep(0.5)
    here.send(None)
    taken = here.recv()
    pinger.join()
    late = [one for one in taken if one > 0.01]
    assert max(taken) >= 0.2 and len(late) > 20, "PINGs were due during the stall, not after it"


def test_the_port_of_rest_is_read_from_the_log(tmp_path: Path) -> None:
    (tmp_path / "output.txt").write_text("Ready; REST on http://127.0.0.1:4711\n")
    assert fairness.rest_port_of(tmp_path) == 4711
