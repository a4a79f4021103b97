"""Commands about the connection: replies and error texts of Redis 7."""

from __future__ import annotations

from typing import Any

from tests.unit.server.stand import Client, Stub


def test_ping_echo_select(client: Client) -> None:
    client.follows("""
        PING => PONG
        PING hi => "hi"
        PING a b => -ERR wrong number of arguments for 'ping' command
        ECHO hi => "hi"
        SET a 0 => OK
        SELECT 15 => OK
        GET a => nil
        SELECT 16 => -ERR DB index is out of range
        SELECT -1 => -ERR DB index is out of range
        SELECT x => -ERR value is not an integer or out of range
        SELECT 0 => OK
        GET a => "0"
    """)


def test_names(client: Client) -> None:
    client.follows("""
        CLIENT GETNAME => nil
        CLIENT SETNAME me => OK
        CLIENT GETNAME => "me"
        CLIENT SETNAME a\\x20b => -ERR Client names cannot contain spaces, newlines or special characters.
        CLIENT SETNAME "" => OK
        CLIENT GETNAME => nil
        CLIENT SETINFO LIB-NAME redis-py => OK
        CLIENT SETINFO lib-ver 5 => OK
        CLIENT SETINFO LIB-VER a\\x20b => -ERR lib-ver cannot contain spaces, newlines or special characters.
        CLIENT SETINFO FOO 5 => -ERR Unrecognized option 'FOO'
        CLIENT NO-EVICT ON => OK
        CLIENT NO-TOUCH off => OK
        CLIENT NO-EVICT maybe => -ERR syntax error
    """)
    assert client.session.library == [b"redis-py", b"5"]


def fields(line: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in line.split())


def test_client_info_and_list(client: Client, another: Client) -> None:
    client.says("CLIENT SETNAME first")
    client.says("SELECT 3")
    another.says("MULTI")
    found = fields(client("CLIENT", "INFO")[1].decode())
    wanted = {"name": "first", "db": "3", "resp": "2", "flags": "N", "multi": "-1", "cmd": "client|info"}
    assert found.items() >= {**wanted, "addr": "127.0.0.1:50000", "user": "default"}.items()
    lines = client("CLIENT", "LIST")[1].decode().splitlines()
    assert [fields(line)["id"] for line in lines] == [str(client.session.id), str(another.session.id)]
    assert fields(lines[1]).items() >= {"flags": "x", "multi": "0"}.items()
    (line,) = client("CLIENT", "LIST", "ID", another.session.id)[1].decode().splitlines()
    assert fields(line)["id"] == str(another.session.id)
    client.follows("""
        CLIENT LIST TYPE pubsub => ""
        CLIENT LIST TYPE foo => -ERR Unknown client type 'foo'
        CLIENT LIST ID x => -ERR Invalid client ID
        CLIENT LIST FOO => -ERR syntax error
    """)
    assert client("CLIENT", "ID") == (":", b"%d" % client.session.id)


def test_hello(client: Client) -> None:
    assert client.says("HELLO").startswith('["server", "redis", "version", "')
    client.follows("""
        HELLO 4 => -NOPROTO unsupported protocol version
        HELLO x => -ERR Protocol version is not an integer or out of range
        HELLO 3 FOO => -ERR Syntax error in HELLO option 'FOO'
        HELLO 3 AUTH nobody x => -WRONGPASS invalid username-password pair or user is disabled.
        GET a => nil
    """)
    assert client.says("HELLO 3 SETNAME me").startswith('{"server", "redis", ')
    assert (client.session.protocol, client.session.name) == (3, b"me")
    assert client.says("HELLO 2").startswith("[")


def test_a_hello_that_is_refused_changes_nothing(client: Client) -> None:
    client.says("HELLO 3 SETNAME me FOO")
    assert (client.session.protocol, client.session.name) == (2, b"")


def test_auth(store: Any) -> None:
    client = Client(Stub(store, password="sécret"))
    assert client.says("HELLO 3").startswith("-NOAUTH HELLO must be called with the client already authenticated")
    assert client.says("AUTH wrong").startswith("-WRONGPASS ")
    assert client.says("AUTH nobody s\\xc3\\xa9cret").startswith("-WRONGPASS ")
    client.follows("""
        AUTH default s\\xc3\\xa9cret => OK
        GET a => nil
        RESET => RESET
        GET a => -NOAUTH Authentication required.
        AUTH a b c => -ERR syntax error
    """)
    assert client.says("HELLO 3 AUTH default s\\xc3\\xa9cret").startswith("{")
    assert client.says("GET a") == "null"


def test_auth_without_a_password(client: Client) -> None:
    assert client.says("AUTH x").startswith("-ERR AUTH <password> called without any password configured")
    assert client.says("AUTH default anything") == "OK"
    assert client.says("AUTH nobody x").startswith("-WRONGPASS ")


def test_quit_and_reset(client: Client) -> None:
    client.says("HELLO 3 SETNAME me")
    client.says("SELECT 2")
    client.says("MULTI")
    assert client.says("RESET") == "RESET"
    assert (client.session.queue, client.session.db, client.session.protocol, client.session.name) == (None, 0, 2, b"")
    assert client.says("QUIT") == "OK"
    assert client.session.closing
