"""A socket that answers commands as told, for what clients send and how they take it."""

from __future__ import annotations

from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

from redis.backoff import NoBackoff
from redis.retry import Retry

from pmkv_client import AsyncClient, Client

INFO = b"*14\r\n" + b"".join(
    b"$%d\r\n%b\r\n" % (len(word), word) if isinstance(word, bytes) else word[0]
    for word in (
        *(b"name", b"items", b"id", (b":1\r\n",), b"dtype", b'"<f4"', b"shape", (b"*1\r\n:2\r\n",)),
        *(b"width", (b":8\r\n",), b"rows", (b":0\r\n",), b"len", (b":0\r\n",)),
    )
)


class Scripted(ThreadingTCPServer):
    """Answers each command by its name, or with +OK; None hangs up. `seen` has the names of commands with a dot, `said`
    their words, `used` the view that each connection stands on."""

    allow_reuse_address = daemon_threads = True

    def __init__(self) -> None:
        self.said: list[list[bytes]] = []
        self.used: list[bytes] = []
        self.answers: dict[bytes, bytes | None] = {b"TABLE.INFO": INFO}
        super().__init__(("127.0.0.1", 0), Conversation)

    @property
    def seen(self) -> list[bytes]:
        return [words[0] for words in self.said]

    @property
    def port(self) -> int:
        return self.server_address[1]


class Conversation(StreamRequestHandler):
    server: Scripted

    def handle(self) -> None:
        number = len(self.server.used)
        self.server.used.append(b"main")
        while header := self.rfile.readline():
            words = []
            for _ in range(int(header[1:])):
                size = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(size + 2)[:-2])
            if b"." in words[0]:
                self.server.said.append(words)
            if words[0] == b"VIEW.USE":
                self.server.used[number] = words[1]
            answer = self.server.answers.get(words[0], b"+OK\r\n")
            if answer is None:
                return
            self.wfile.write(answer)


def eager(kind: type, port: int, **settings: Any) -> Client | AsyncClient:
    """A client of RESP2, for the script speaks no other, and ready to try again five times."""
    return kind("127.0.0.1", port, protocol=2, retry=Retry(NoBackoff(), 5), **settings)
