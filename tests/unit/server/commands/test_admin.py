"""COMMAND, CONFIG, TIME, FUNCTION, SAVE, BGSAVE, LASTSAVE, SHUTDOWN: replies and error texts of Redis 7."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

import pmkv
from pmkv.errors import FullError
from pmkv_server.commands import COMMANDS
from pmkv_server.commands.execution import is_heavy
from tests.unit.server.stand import Client, Stub


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
    assert text == '["get", ["summary", "Return the value of a key.", "since", "1.0.0", "group", "string"]]'
    assert len(client("COMMAND", "DOCS")[1]) == 2 * len(COMMANDS)


def test_config_get(client: Client) -> None:
    client.follows("""
        CONFIG GET nosuch => []
        CONFIG GET databases => ["databases", "16"]
        CONFIG GET DATABASES => ["databases", "16"]
        CONFIG GET appendf* => ["appendfsync", "always"]
        CONFIG GET => -ERR wrong number of arguments for 'config|get' command
        CONFIG => -ERR wrong number of arguments for 'config' command
        CONFIG NOPE => -ERR unknown subcommand 'NOPE'. Try CONFIG HELP.
    """)


def test_maxmemory_is_the_capacity_and_may_grow(client: Client) -> None:
    store = client.server.store
    before = store.capacity
    assert client.says("CONFIG GET maxmemory") == f'["maxmemory", "{before}"]'
    failed = "-ERR CONFIG SET failed (possibly related to argument 'maxmemory') -"
    client.follows(f"""
        CONFIG SET maxmemory {before} => OK
        CONFIG SET maxmemory 0 => {failed} the pool has {before} bytes and cannot shrink: nothing is evicted, and a full pool refuses writes
        CONFIG SET maxmemory 12x => {failed} argument must be a memory value
        CONFIG SET maxmemory {(before >> 20) + 32}mb => OK
    """)  # noqa: E501
    assert store.capacity == ((before >> 20) + 32) << 20 == store.stats().capacity
    assert client.says("INFO memory").count(f"maxmemory:{store.capacity}") == 1


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


def test_a_server_that_others_can_reach_keeps_a_password(client: Client) -> None:
    client.server.config.host = "0.0.0.0"
    client.server.config.password = "secret"
    client.session.authenticate(True)
    _, reply = client("CONFIG", "SET", "requirepass", "")
    assert reply.startswith(b"ERR CONFIG SET failed (possibly related to argument 'requirepass') - the server listens")
    assert client.server.config.password == "secret"
    client.server.config.host = "127.0.0.1"
    assert client("CONFIG", "SET", "requirepass", "") == ("+", b"OK")


def test_a_password_may_be_any_bytes(client: Client) -> None:
    assert client("CONFIG", "SET", "requirepass", b"\xff\x00p") == ("+", b"OK")
    fresh = Client(client.server)
    assert fresh("AUTH", b"\xff") == ("-", b"WRONGPASS invalid username-password pair or user is disabled.")
    assert fresh("AUTH", b"\xff\x00p") == ("+", b"OK")
    assert fresh("CONFIG", "GET", "requirepass") == ("*", (("$", b"requirepass"), ("$", b"\xff\x00p")))


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


class TestSaving:
    @pytest.fixture
    def store(self, tmp_path: Path) -> pmkv.Store:
        with pmkv.open(tmp_path, capacity="64MiB") as opened:
            yield opened

    @pytest.fixture
    def held(self, store: pmkv.Store, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
        """Checkpoints wait for this."""
        event, take = threading.Event(), store.checkpoint
        monkeypatch.setattr(store, "checkpoint", lambda: event.wait(10) and take())
        yield event
        event.set()

    def test_save_takes_a_checkpoint(self, client: Client) -> None:
        started = int(client.server.stats.started)
        client.server.stats.started -= 60
        assert client("LASTSAVE") == (":", b"%d" % (started - 60))
        assert client.says("SET a 1") == client.says("SAVE") == "OK"
        assert client.server.store.stats().checkpoints == 1
        assert int(client("LASTSAVE")[1]) >= started
        assert client.server.store.stats().replay_records == 0

    def test_save_leaves_the_loop(self, client: Client) -> None:
        assert is_heavy(client.session, COMMANDS[b"save"], [b"SAVE"])
        assert not is_heavy(client.session, COMMANDS[b"bgsave"], [b"BGSAVE"])

    def test_one_at_a_time(self, client: Client, held: threading.Event) -> None:
        client.follows("""
            BGSAVE => Background saving started
            BGSAVE => -ERR Background save already in progress
            BGSAVE SCHEDULE => -ERR Background save already in progress
            SAVE => -ERR Background save already in progress
        """)
        assert client.server.bgsave.is_under_way and client.server.bgsave.seconds == 0
        held.set()
        while client.server.bgsave.is_under_way:
            time.sleep(0.001)
        assert client.server.store.stats().checkpoints == 1 and not client.server.bgsave.failed
        assert client.says("BGSAVE SCHEDULE") == "Background saving started"

    def test_a_transaction_may_begin_one_but_not_wait_for_it(self, client: Client) -> None:
        client.follows("""
            MULTI => OK
            SAVE => -ERR Command not allowed inside a transaction
            DISCARD => OK
            MULTI => OK
            BGSAVE => QUEUED
            EXEC => [Background saving started]
            BGSAVE NOW => -ERR syntax error
            SAVE NOW => -ERR wrong number of arguments for 'save' command
        """)

    def test_a_failure_is_told(self, client: Client, store: pmkv.Store, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail() -> None:
            raise FullError("no room on the disk")

        with monkeypatch.context() as patch:
            patch.setattr(store, "checkpoint", fail)
            assert "no room on the disk" in client.says("SAVE")
            assert client.says("BGSAVE") == "Background saving started"
            assert client.says("SHUTDOWN SAVE") == "-ERR Errors trying to SHUTDOWN. Check logs."
            assert not client.server.stopped and client.server.bgsave.failed
            while client.server.bgsave.is_under_way:
                time.sleep(0.001)
        assert client.says("SAVE") == "OK" and not client.server.bgsave.failed

    @pytest.mark.parametrize(
        ("words", "taken", "at_end"), [((), 0, True), (("NOSAVE",), 0, False), (("SAVE",), 1, True)]
    )
    def test_at_the_end(self, words: tuple, taken: int, at_end: bool, client: Client, server: Stub) -> None:
        client.says("SET a 1")
        with pytest.raises(ValueError, match="not enough values"):
            client("SHUTDOWN", *words)
        assert (server.stopped, server.checkpoint_at_end) == (True, at_end)
        assert server.store.stats().checkpoints == taken
        assert is_heavy(client.session, COMMANDS[b"shutdown"], [b"SHUTDOWN", *map(str.encode, words)]) == bool(taken)


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


def test_command_list_is_filtered(client: Client) -> None:
    client.follows("""
        COMMAND LIST FILTERBY PATTERN mset* => ["mset", "msetnx"]
        COMMAND LIST FILTERBY ACLCAT transaction => ["multi", "discard", "watch", "unwatch", "exec"]
        COMMAND LIST FILTERBY MODULE none => []
        COMMAND LIST FILTERBY NAME x => -ERR syntax error
        COMMAND LIST FILTERBY => -ERR syntax error
    """)


@pytest.mark.parametrize("name", ["COMMAND", "CONFIG", "CLIENT", "FUNCTION"])
def test_containers_help(name: str, client: Client) -> None:
    lines = [text.decode() for _, text in client(name, "HELP")[1]]
    assert lines[0] == f"{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    assert lines[-2:] == ["HELP", "    Print this help."] and len(lines) > 3


def test_some_parameters_can_be_set(client: Client) -> None:
    client.follows("""
        CONFIG SET timeout 60 maxclients 20 => OK
        CONFIG GET timeout => ["timeout", "60"]
        CONFIG GET maxclients => ["maxclients", "20"]
        CONFIG SET notify-keyspace-events "" => OK
    """)
    failed = "-ERR CONFIG SET failed (possibly related to argument"
    assert client.says("CONFIG SET timeout 1_0") == f"{failed} 'timeout') - argument couldn't be parsed into an integer"
    assert client.says("CONFIG SET maxclients 0") == (
        f"{failed} 'maxclients') - argument must be between 1 and 4294967295 inclusive"
    )
    assert client.says("CONFIG SET maxclients 4000000000").startswith(f"{failed} 'maxclients') - The operating system")
    assert "no pub/sub" in client.says("CONFIG SET notify-keyspace-events KEA")
    assert client.says("CONFIG SET port 1") == f"{failed} 'port') - can't set immutable config"
