"""Settings: what is refused because it would be unsafe."""

from __future__ import annotations

import pytest

from pmkv.errors import InvalidError
from pmkv_server.config import Config, is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_loopback_needs_no_password(host: str) -> None:
    assert is_loopback(host)
    Config(host=host).check()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_other_hosts_need_one(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(InvalidError, match="no password is set: give --password"):
        Config(host=host).check()
    Config(host=host, password="secret").check()
