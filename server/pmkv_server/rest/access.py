"""Access control: the password, and, where there is none, the origin of requests.

With a password every request except the probes must carry it. Without one the server listens on loopback, where a
browser can reach it from any web page. So requests of another origin are refused, and so are host names other than
localhost, which a page could resolve to this machine (DNS rebinding).
"""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from .context import SERVER
from .problems import Problem

PROBES = ("/healthz", "/readyz")


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse requests without the password, or, where there is none, from other hosts and origins."""
    password = request.app[SERVER].config.password
    if request.path not in PROBES:
        if password:
            _check_bearer(request, str(password))
        else:
            _check_host(request)
            _check_origin(request)
    return await handler(request)


def _check_bearer(request: web.Request, password: str) -> None:
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    secrets = (text.encode("utf-8", "surrogateescape") for text in (given.strip(), password))
    is_right = hmac.compare_digest(*secrets)
    if scheme.lower() != "bearer" or not is_right:
        detail = "this server has a password: send it as Authorization: Bearer <password>"
        raise Problem(401, "unauthorized", detail, {hdrs.WWW_AUTHENTICATE: "Bearer"})


def _check_host(request: web.Request) -> None:
    name = _name_of(request.headers.get(hdrs.HOST, ""))
    if not (name == "localhost" or name.endswith(".localhost") or _is_address(name)):
        detail = f"without a password this server answers to localhost and to addresses only, not to {name!r}"
        raise Problem(403, "host", detail)


def _name_of(host: str) -> str:
    """Return a host without port and brackets, or an empty string if it is malformed."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_origin(request: web.Request) -> None:
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None and origin.partition("://")[2] != request.headers.get(hdrs.HOST):
        raise Problem(403, "origin", f"without a password this server serves no pages of {origin}")
