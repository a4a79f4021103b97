"""The same commands to a real redis-server 7 and to pmkv: replies and error texts must be the same, byte for byte.

A scenario (scenarios.txt) is a list of lines; a line is a command, split at spaces (`""` is an empty word, `\\x00` a
byte). Both servers are emptied before each. Where an order is not defined, the command is listed in UNORDERED.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.served import Raw, free_port, served, wait_for_port

pytestmark = pytest.mark.compat


def read_scenarios() -> dict[str, str]:
    """`[name]` and the lines below it."""
    text = Path(__file__).with_name("scenarios.txt").read_text()
    parts = re.split(r"^\[(.*)\]$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


SCENARIOS = read_scenarios()
UNORDERED = ("KEYS", "SCAN")


def words_of(line: str) -> list[bytes]:
    """Split at spaces; a backslash begins an escape, as in Python."""
    words = line.split(" ")
    return [b"" if word == '""' else word.encode().decode("unicode_escape").encode("latin-1") for word in words]


@pytest.fixture(scope="module")
def redis_port(needs_redis_server: str) -> Iterator[int]:
    port = free_port()
    process = subprocess.Popen(
        [needs_redis_server, "--port", str(port), "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL
    )
    wait_for_port(port)
    yield port
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def pmkv_port() -> Iterator[int]:
    with served("--pool", ":memory:") as server:
        yield server.port


def sorted_reply(reply: tuple) -> tuple:
    kind, value = reply
    if not isinstance(value, tuple):
        return reply
    if len(value) == 2 and isinstance(value[1][1], tuple):  # SCAN: cursor, keys
        return kind, (value[0], sorted_reply(value[1]))
    return kind, tuple(sorted(value))


def transcript(port: int, protocol: int, lines: list[str]) -> list[tuple]:
    raw = Raw(port)
    raw("FLUSHALL")
    if protocol == 3:
        raw("HELLO", 3)
    replies = []
    for line in lines:
        reply = raw(*words_of(line))
        replies.append(sorted_reply(reply) if line.upper().startswith(UNORDERED) else reply)
    raw.close()
    return replies


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("name", SCENARIOS)
def test_replies_are_those_of_redis(name: str, protocol: int, redis_port: int, pmkv_port: int) -> None:
    lines = [line.strip() for line in SCENARIOS[name].strip().splitlines()]
    theirs, ours = transcript(redis_port, protocol, lines), transcript(pmkv_port, protocol, lines)
    different = [f"{line!r}: redis {a!r}, pmkv {b!r}" for line, a, b in zip(lines, theirs, ours) if a != b]
    assert not different, "\n".join(different)


BAD_INPUT = [
    b"*2147483648\r\n",
    b"*99999999999999999999\r\n",
    b"*x\r\n",
    b"*1 \r\n",
    b"*01\r\n",
    b"*-1\r\nPING\r\n",
    b"*0\r\nPING\r\n",
    b"*1\r\n:1\r\n",
    b"*1\r\n*1\r\n",
    b"*1\r\n%1\r\n",
    b"*2\r\n$3\r\nGET\r\n+a\r\n",
    b"*1\r\n$-1\r\n",
    b"*1\r\n$x\r\n",
    b"*1\r\n$10737418240\r\n",
    b"*1\r\n$536870913\r\n",
    b"*1\r\n$\r\n",
    b"*\r\n",
    b'SET a "b\r\n',
    b"SET a 'b'c\r\n",
    b"PING\r\n",
    b"ping\n",
    b"\r\n\r\nPING\r\n",
    b'SET a "x\\x41\\n\\"y"\r\nGET a\r\n',
    b"SET a 'x\\'\\n'\r\nGET a\r\n",
    b"SET a x\\x41\r\nGET a\r\n",
    b'SET a ""\r\nGET a\r\n',
    b'ECHO "a"b\r\n',
    b'ECHO a"b"\r\n',
    b"  PING  \r\n",
    b"\tPING\thi\r\n",
    b"POST / HTTP/1.1\r\n",
    b"Host: localhost\r\n",
    b"*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPING\r\n",
    b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nbxy*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
]


def everything(port: int, data: bytes) -> bytes:
    """All that the server says before it closes, or before it has nothing more to say to a half-closed connection."""
    raw = Raw(port, timeout=5)
    raw("FLUSHALL")
    raw.send(data)
    raw.send(b"\r\nECHO end\r\n")
    answer = b""
    while b"$3\r\nend\r\n" not in answer:
        try:
            part = raw.socket.recv(65536)
        except ConnectionResetError:
            break
        if not part:
            break
        answer += part
    raw.close()
    return answer


@pytest.mark.parametrize("data", [pytest.param(data, id=repr(data[:40])) for data in BAD_INPUT])
def test_bad_input_is_answered_as_by_redis(data: bytes, redis_port: int, pmkv_port: int) -> None:
    assert everything(pmkv_port, data) == everything(redis_port, data)
