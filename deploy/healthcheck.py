"""Send a PING to the pmkv of this container; exit code 0 means healthy.

Uses the standard library only, so that it starts quickly. Reads PMKV_PORT and PMKV_PASSWORD, as the server does.
"""

from __future__ import annotations

import os
import socket
import sys


def command(*words: str) -> bytes:
    """Return a command in the Redis protocol."""
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def conversation(password: str | None) -> tuple[bytes, bytes]:
    """Return the bytes to send, and the reply of a healthy server."""
    if password:
        return command("AUTH", password) + command("PING"), b"+OK\r\n+PONG\r\n"
    return command("PING"), b"+PONG\r\n"


def healthy(port: int, password: str | None, timeout: float = 2.0) -> bool:
    """Tell whether the server answers a PING in time; raises OSError if there is no answer."""
    request, expected = conversation(password)
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as server:
        server.sendall(request)
        answer = b""
        while len(answer) < len(expected) and (more := server.recv(256)):
            answer += more
    return answer == expected


if __name__ == "__main__":
    try:
        ok = healthy(int(os.environ.get("PMKV_PORT", "7379")), os.environ.get("PMKV_PASSWORD"))
    except OSError as error:
        sys.exit(f"no answer: {error}")
    sys.exit(0 if ok else "the answer was not PONG")
