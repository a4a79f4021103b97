"""Binding of ports: all addresses of a host with one port, and errors that name the option."""

from __future__ import annotations

import errno
import socket

import pytest

from pmkv.errors import InvalidError
from pmkv_server.net import listeners
from pmkv_server.net.listeners import addresses, bind


def test_a_free_port_is_the_same_for_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    two = [(socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_INET, ("127.0.0.2", 0))]
    monkeypatch.setattr(listeners, "addresses", lambda host, port: two)
    sockets = bind("localhost", 0, "port")
    ports = {one.getsockname()[1] for one in sockets}
    assert len(sockets) == 2 and len(ports) == 1 and ports != {0}
    for one in sockets:
        one.close()


def test_nobody_can_connect_before_it_listens() -> None:
    (one,) = bind("127.0.0.1", 0, "port")
    with one, pytest.raises(ConnectionRefusedError):
        socket.create_connection(one.getsockname(), timeout=1)


@pytest.mark.parametrize(("option", "variable"), [("port", "PMKV_PORT"), ("rest-port", "PMKV_REST_PORT")])
def test_a_port_in_use_names_the_option(option: str, variable: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidError, match=f"port {port} of 127.0.0.1 is in use .* --{option} or {variable}"):
            bind("127.0.0.1", port, option)


def test_a_port_without_the_right_names_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(family: int, address: tuple) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(listeners, "_bind_one", refuse)
    with pytest.raises(InvalidError, match="port 80 may not be used by this user: choose one above 1023 with --port"):
        bind("127.0.0.1", 80, "port")


@pytest.mark.parametrize(
    ("host", "said"), [("192.0.2.1", "this machine has no such address"), ("no.invalid", "--host")]
)
def test_an_address_of_another_machine(host: str, said: str) -> None:
    with pytest.raises(InvalidError, match=said):
        bind(host, 0, "port")


def test_addresses_are_named_once() -> None:
    assert addresses("127.0.0.1", 7) == [(socket.AF_INET, ("127.0.0.1", 7))]
