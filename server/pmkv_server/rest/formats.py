"""In what forms rows travel, and which one a request asks for."""

from __future__ import annotations

from aiohttp import hdrs, web

from .problems import Problem

JSON = "application/json"
NPY = "application/x-npy"
NPZ = "application/x-npz"
ARROW = "application/vnd.apache.arrow.stream"
BYTES = "application/octet-stream"
ROW_FORMATS = (JSON, NPY, NPZ, ARROW)


def sent(request: web.Request) -> str:
    """The format of the body. Raises Problem 415, also for what curl calls a body that was given no type: a browser
    would send that to anyone without asking."""
    if hdrs.CONTENT_TYPE not in request.headers or not request.body_exists:
        return JSON
    if request.content_type in ROW_FORMATS:
        return request.content_type
    raise Problem(415, "format", f"the body is {request.content_type}; Content-Type may be {', '.join(ROW_FORMATS)}")


def wanted(request: web.Request, offered: tuple[str, ...], default: str) -> str:
    """The best offered format by the Accept header; `default` where it does not care. Raises Problem 406."""
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
    try:
        return float(text)
    except ValueError:
        return 0.0


def _quality(ranges: dict[str, float], name: str) -> float:
    """That of the most specific range that covers this name."""
    return next((ranges[key] for key in (name, name.partition("/")[0] + "/*", "*/*") if key in ranges), 0.0)
