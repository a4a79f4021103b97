"""The settings of a server; `cli` fills them from options, PMKV_... variables and a TOML file."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from pmkv.errors import InvalidError


@dataclass
class Config:
    """Settings of `pmkv serve`: each field has the name and default of one option."""

    data: str = "data"
    host: str = "127.0.0.1"
    port: int = 7379
    rest_port: int | None = 7380  # None: no REST
    capacity: str | None = None  # None: as the pool is, 16 GiB for a new one
    dram: str = "1GiB"
    durability: str = "commit"
    pool: str = "auto"
    require: str = "page"
    password: str = ""
    config: str | None = None
    max_clients: int = 10_000
    workers: int = 2

    def check(self) -> None:
        """Raise InvalidError for settings that would be unsafe."""
        if not self.password and not is_loopback(self.host):
            raise InvalidError(
                f"host {self.host} can be reached from other machines, and no password is set: give --password "
                "(or PMKV_PASSWORD), or bind to 127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
