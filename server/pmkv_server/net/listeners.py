"""Bind the sockets of a port before anything is served, so that a port in use ends the start and nothing else."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from pmkv.errors import InvalidError

SKIPPED = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)  # an address of another family than this machine has


def bind(host: str, port: int, option: str) -> list[socket.socket]:
    """Return a bound socket for each address of a host, all with one port, which nobody can connect to yet.

    port: 0 takes a free one. option: the name of the setting, for errors. InvalidError: the port cannot be had.
    """
    bound: list[socket.socket] = []
    try:
        for family, address in addresses(host, port):
            with contextlib.suppress(_Skipped):
                number = bound[0].getsockname()[1] if bound else port
                bound.append(_bind_one(family, (address[0], number, *address[2:])))
    except OSError as error:
        for one in bound:
            one.close()
        raise InvalidError(_advice(error, host, port, option)) from error
    if not bound:
        raise InvalidError(f"--host {host}: this machine has no such address; name one that it has")
    return bound


class _Skipped(Exception):
    """An address that this machine does not have."""


def _bind_one(family: int, address: tuple) -> socket.socket:
    try:
        one = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno in SKIPPED:
            raise _Skipped from error
        raise
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.setblocking(False)
        one.bind(address)
    except OSError as error:
        one.close()
        if error.errno in SKIPPED:
            raise _Skipped from error
        raise
    return one


def addresses(host: str, port: int = 0) -> list[tuple[int, tuple]]:
    """Return (family, address) for each address of a host, each once. InvalidError: the name means nothing here."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InvalidError(
            f"--host {host} is no address of this machine ({getattr(error, 'strerror', None) or error}): "
            "give one that it has, such as 127.0.0.1"
        ) from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _advice(error: OSError, host: str, port: int, option: str) -> str:
    variable = f"PMKV_{option.replace('-', '_').upper()}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use by another program: stop that, or choose another port with --{option} "
            f"or {variable} (0 takes a free one)"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"port {port} may not be used by this user: choose one above 1023 with --{option} or {variable}, or give "
            "the right (CAP_NET_BIND_SERVICE)"
        )
    return f"--{option} {port} of {host} cannot be used: {os.strerror(error.errno) if error.errno else error}"
