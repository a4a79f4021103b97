"""Errors as application/problem+json (RFC 9457).

Each error that a handler raises becomes a reply here. Unexpected ones are logged and answered by a 500 without details.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from pmkv.errors import (
    AbortedError,
    ClosedError,
    ConflictError,
    CorruptionError,
    ExistsError,
    FlushError,
    FormatError,
    FullError,
    InvalidError,
    PmkvError,
    ReadOnlyError,
    UnknownNameError,
    UnknownViewError,
)
from pmkv_server.system_errors import NO_ROOM, describe

PROBLEM_TYPE = "application/problem+json"

STATUS_OF: dict[type[PmkvError], tuple[int, str]] = {
    InvalidError: (400, "invalid"),
    UnknownViewError: (404, "unknown-view"),
    UnknownNameError: (404, "unknown-name"),
    ExistsError: (409, "exists"),
    ConflictError: (409, "conflict"),
    ReadOnlyError: (403, "read-only"),
    FullError: (507, "full"),
    AbortedError: (503, "aborted"),
    ClosedError: (503, "closed"),
    FlushError: (503, "not-durable"),
    CorruptionError: (500, "corruption"),
    FormatError: (500, "format"),
}

log = logging.getLogger("pmkv.rest")


class Problem(Exception):
    """An error reply: `kind` names the error for programs, `detail` tells people what to do."""

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.kind, self.detail, self.headers = status, kind, detail, dict(headers or {})

    def response(self) -> web.Response:
        body = {
            "type": f"pmkv:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        return web.Response(
            body=orjson.dumps(body), status=self.status, headers=self.headers, content_type=PROBLEM_TYPE
        )


def invalid(detail: str) -> Problem:
    """Return the problem for a malformed request."""
    return Problem(400, "invalid", detail)


def of_engine(error: PmkvError) -> Problem:
    """Return the problem for an error of the engine."""
    for kind, (status, name) in STATUS_OF.items():
        if isinstance(error, kind):
            return Problem(status, name, str(error))
    log.error("unexpected engine error", exc_info=error)
    return Problem(500, "internal", str(error))


def of_system(error: OSError) -> Problem:
    """Return the problem for an error of the system: 507 if the disk is full, else 503."""
    log.error("the system refused: %s", describe(error))
    status, kind = (507, "full") if error.errno in NO_ROOM else (503, "system")
    return Problem(status, kind, describe(error))


def of_http(error: web.HTTPException, path: str) -> Problem:
    """Return the problem for an error of aiohttp: no such route, or a method that the route does not have."""
    if error.status == 404:
        return Problem(404, "unknown-path", f"there is no {path}; /openapi.json lists all routes")
    allowed = error.headers.get("Allow")
    if allowed is not None:
        return Problem(405, "method", f"{path} takes {allowed.replace(',', ', ')}", {"Allow": allowed})
    return Problem(error.status, "http", error.text or error.reason)


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn the exceptions of handlers into error replies."""
    try:
        return await handler(request)
    except Problem as problem:
        return problem.response()
    except PmkvError as error:
        return of_engine(error).response()
    except web.HTTPException as error:
        return of_http(error, request.path).response() if error.status >= 400 else error
    except MemoryError:
        return Problem(503, "memory", "the server lacks the memory for this request: send less at once").response()
    except OSError as error:
        return of_system(error).response()
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return Problem(500, "internal", "an unexpected error; see the server's log").response()
