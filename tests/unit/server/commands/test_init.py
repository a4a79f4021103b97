"""The way into the table of commands: found, refused, queued."""

from __future__ import annotations

from typing import Any

import pytest

from pmkv_server.commands import admit, find
from pmkv_server.commands.registry import CommandError
from tests.unit.server.stand import Client, Stub


def test_names_are_found_in_any_case() -> None:
    assert find([b"get", b"a"]) is find([b"GET", b"a"]) is find([b"gEt", b"a"])
    assert find([b"CLIENT", b"Id"]).name == "client|id"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("GET", "ERR wrong number of arguments for 'get' command"),
        ("CLIENT ID x", "ERR wrong number of arguments for 'client|id' command"),
        ("CLIENT", "ERR wrong number of arguments for 'client' command"),
        ("CLIENT NOPE", "ERR unknown subcommand 'NOPE'. Try CLIENT HELP."),
        ("NOSUCH a b", "ERR unknown command 'NOSUCH', with args beginning with: 'a' 'b' "),
    ],
)
def test_what_is_not_found(line: str, message: str) -> None:
    with pytest.raises(CommandError) as caught:
        find(line.encode().split())
    assert str(caught.value) == message


def test_nothing_passes_before_auth_but_what_may(store: Any) -> None:
    client = Client(Stub(store, password="secret"))
    client.follows("""
        GET a => -NOAUTH Authentication required.
        MULTI => -NOAUTH Authentication required.
        AUTH wrong => -WRONGPASS invalid username-password pair or user is disabled.
        AUTH secret => OK
        GET a => nil
    """)


def test_multi_queues_and_remembers_a_refusal(client: Client) -> None:
    client.says("MULTI")
    assert admit(client.session, [b"SET", b"a", b"1"]) == b"+QUEUED\r\n"
    assert len(client.session.queue) == 1
    assert client.says("SHUTDOWN") == "-ERR Command not allowed inside a transaction"
    assert client.session.broken
    assert client.says("EXEC") == "-EXECABORT Transaction discarded because of previous errors."
    assert client.session.queue is None


def test_an_exec_of_wrong_arity_ends_the_transaction(client: Client) -> None:
    client.says("MULTI")
    assert client.says("EXEC x") == (
        "-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command"
    )
    assert client.session.queue is None


def test_the_last_command_is_remembered(client: Client) -> None:
    client.says("CONFIG GET save")
    assert client.session.last_command == "config|get"
