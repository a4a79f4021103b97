"""COMMAND, CONFIG, TIME, FUNCTION, SHUTDOWN: replies and error texts of Redis 7."""

from __future__ import annotations

import time

import pytest

from pmkv_server.commands import COMMANDS
from tests.unit.server.stand import Client


def test_time(client: Client) -> None:
    _, ((_, seconds), (_, micros)) = client("TIME")
    assert abs(int(seconds) + int(micros) / 1e6 - time.time()) < 2
    assert 0 <= int(micros) < 1_000_000


def test_command(client: Client) -> None:
    assert client("COMMAND", "COUNT") == (":", b"%d" % len(COMMANDS))
    assert len(client("COMMAND")[1]) == len(COMMANDS)
    assert {name for _, name in client("COMMAND", "LIST")[1]} == set(COMMANDS)
    assert client.says("COMMAND INFO get nosuch") == '[["get", :2, [fast, readonly], :1, :1, :1, [], [], [], []], nil]'
    client.session.protocol = 3
    assert client.says("COMMAND INFO GET") == '[["get", :2, <fast, readonly>, :1, :1, :1, <>, [], [], []]]'


def test_command_docs(client: Client) -> None:
    assert client.says("COMMAND DOCS nosuch") == "[]"
    text = client.says("COMMAND DOCS get")
    assert text == '["get", ["summary", "The value of a key.", "since", "1.0.0", "group", "string"]]'
    assert len(client("COMMAND", "DOCS")[1]) == 2 * len(COMMANDS)


def test_config_get(client: Client) -> None:
    client.follows("""
        CONFIG GET nosuch => []
        CONFIG GET databases => ["databases", "16"]
        CONFIG GET DATABASES => ["databases", "16"]
        CONFIG GET appendf* => ["appendfsync", "always"]
        CONFIG GET maxmemory maxm* => ["maxmemory", "0", "maxmemory-policy", "noeviction"]
        CONFIG GET => -ERR wrong number of arguments for 'config|get' command
        CONFIG => -ERR wrong number of arguments for 'config' command
        CONFIG NOPE => -ERR unknown subcommand 'NOPE'. Try CONFIG HELP.
    """)


def test_config_set(client: Client, another: Client) -> None:
    immutable = "-ERR CONFIG SET failed (possibly related to argument 'databases') - can't set immutable config"
    unknown = "-ERR Unknown option or number of arguments for CONFIG SET - 'nosuch'"
    client.follows(f"""
        CONFIG SET databases 17 => {immutable}
        CONFIG SET databases 16 => OK
        CONFIG SET requirepass p nosuch 1 => {unknown}
        CONFIG GET requirepass => ["requirepass", ""]
        CONFIG SET databases => -ERR wrong number of arguments for 'config|set' command
        CONFIG SET requirepass secret => OK
    """)
    fresh = Client(client.server)
    assert fresh.says("GET a") == "-NOAUTH Authentication required."
    assert fresh.says("AUTH secret") == "OK"


def test_resetstat(client: Client) -> None:
    client.server.stats.commands = 9
    assert client.says("CONFIG RESETSTAT") == "OK"
    assert client.server.stats.commands == 0


def test_function_flush(client: Client) -> None:
    client.follows("""
        FUNCTION FLUSH => OK
        FUNCTION FLUSH async => OK
        FUNCTION FLUSH FOO => -ERR FUNCTION FLUSH only supports SYNC|ASYNC option
        FUNCTION NOPE => -ERR unknown subcommand 'NOPE'. Try FUNCTION HELP.
    """)


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        ("SHUTDOWN FOO", "-ERR syntax error"),
        ("SHUTDOWN SAVE NOSAVE", "-ERR syntax error"),
        ("SHUTDOWN ABORT", "-ERR No shutdown in progress."),
        ("SHUTDOWN ABORT NOW", "-ERR syntax error"),
    ],
)
def test_shutdown_refused(line: str, reply: str, client: Client) -> None:
    assert client.says(line) == reply
    assert not (client.server.stopped or client.session.closing)


def test_shutdown_says_nothing_and_ends(client: Client) -> None:
    with pytest.raises(ValueError, match="not enough values"):
        client("SHUTDOWN", "NOSAVE")
    assert client.server.stopped
    assert client.session.closing
