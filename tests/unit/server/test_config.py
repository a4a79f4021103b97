"""Settings: what is refused because it would be unsafe."""

from __future__ import annotations

import socket

import pytest

from pmkv.errors import InvalidError
from pmkv_server.config import Config, is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "::ffff:127.0.0.1"])
def test_loopback_needs_no_password(host: str) -> None:
    assert is_loopback(host)
    Config(host=host).check()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "host.invalid", ""])
def test_other_hosts_need_one(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(InvalidError, match="no password is set: give --password"):
        Config(host=host).check()
    Config(host=host, password="secret").check()


@pytest.mark.parametrize(("addresses", "private"), [(["::1"], True), (["127.0.0.1", "10.0.0.1"], False)])
def test_a_name_is_judged_by_its_addresses(
    addresses: list[str], private: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert is_loopback("ip6-localhost") is private
