"""The settings of a server; `cli` fills them from options, PMKV_... variables and a TOML file."""

from __future__ import annotations

import ipaddress
import socket
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
    dram: str = "auto"
    dram_nodes: str | None = None  # None: any NUMA nodes
    far_nodes: str | None = None  # None: as dram_nodes
    durability: str = "commit"
    pool: str = "auto"
    require: str = "page"
    password: str = ""
    backup_dir: str = ""  # a directory or URL; none: BACKUP.CREATE is refused
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
    """Tell whether only this machine can reach a host: all addresses that the name stands for are loopback ones."""
    try:
        found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return False
    return all(_is_loopback_address(str(address[0])) for _, _, _, _, address in found)


def _is_loopback_address(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
