"""Media types of bodies, and the negotiation of the one that a request sends or accepts."""

from __future__ import annotations

from aiohttp import hdrs, web

from pmkv_server.parsing import strict_float

from .problems import Problem

JSON = "application/json"
NPY = "application/x-npy"
NPZ = "application/x-npz"
ARROW = "application/vnd.apache.arrow.stream"
BYTES = "application/octet-stream"
ROW_FORMATS = (JSON, NPY, NPZ, ARROW)


def body_format(request: web.Request) -> str:
    """Return the format of the body. Raises Problem 415.

    The type that curl gives to a body by default (a form) is refused as well: browsers send forms to other sites
    without asking those (CSRF).
    """
    if hdrs.CONTENT_TYPE not in request.headers or not request.body_exists:
        return JSON
    if request.content_type in ROW_FORMATS:
        return request.content_type
    raise Problem(415, "format", f"the body is {request.content_type}; Content-Type may be {', '.join(ROW_FORMATS)}")


def accepted_format(request: web.Request, offered: tuple[str, ...], default: str) -> str:
    """Return the offered format that the Accept header prefers, `default` among equals. Raises Problem 406."""
    ranges = _ranges(request.headers.getall(hdrs.ACCEPT, ["*/*"]))
    preferred = sorted(offered, key=lambda name: name != default)
    best = max(preferred, key=lambda name: _quality(ranges, name))
    if _quality(ranges, best) <= 0:
        raise Problem(406, "format", f"this can be had as {', '.join(offered)}; Accept allows none of these")
    return best


def _ranges(headers: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in ",".join(headers).split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((p[2:] for p in parameters if p.lower().startswith("q=")), "1")
        found[name.lower()] = _number(quality)
    return found


def _number(text: str) -> float:
    number = strict_float(text)
    return number if number is not None and 0 <= number <= 1 else 0.0


def _quality(ranges: dict[str, float], name: str) -> float:
    """Return the quality of the most specific range that covers a media type, 0 for none."""
    return next((ranges[key] for key in (name, name.partition("/")[0] + "/*", "*/*") if key in ranges), 0.0)
