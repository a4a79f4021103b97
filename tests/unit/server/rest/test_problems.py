"""Errors as application/problem+json, whoever raises them."""

from __future__ import annotations

import inspect
import json

import pytest
from aiohttp.test_utils import TestClient

from pmkv import errors
from pmkv_server.rest.context import SERVER
from pmkv_server.rest.problems import STATUS_OF, Problem, of_engine

ENGINE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.PmkvError)]


@pytest.mark.parametrize("kind", ENGINE)
def test_every_error_of_the_engine_has_a_status(kind: type[errors.PmkvError]) -> None:
    problem = of_engine(kind("what was wrong"))
    assert problem.detail == "what was wrong"
    assert problem.status in (400, 403, 404, 409, 500, 503, 507)
    if kind not in (errors.PmkvError, errors.LockedError):  # which no reply can meet
        assert kind in STATUS_OF


def test_a_problem_says_all_of_it() -> None:
    reply = Problem(507, "full", "no room", {"Retry-After": "5"}).response()
    assert reply.status == 507 and reply.headers["Retry-After"] == "5"
    assert reply.content_type == "application/problem+json"
    assert json.loads(reply.body) == {
        "type": "pmkv:full",
        "title": "Insufficient Storage",
        "status": 507,
        "detail": "no room",
    }


async def test_paths_and_methods_that_are_not_there(rest: TestClient) -> None:
    for path in ("/", "/v1", "/v1/view", "/v1/tables/items/rows:steal", "/v1/tables/a/b"):
        reply = await rest.get(path)
        said = await reply.json(content_type="application/problem+json")
        assert reply.status == said["status"] == 404 and path in said["detail"]
    reply = await rest.patch("/v1/tables")
    said = await reply.json(content_type="application/problem+json")
    assert reply.status == said["status"] == 405 and "GET" in said["detail"] and "POST" in reply.headers["Allow"]


async def test_what_nobody_foresaw(rest: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: str) -> None:
        raise RuntimeError("secret insides")

    rest.app[SERVER].store.table = broken
    reply = await rest.get("/v1/tables/a")
    assert reply.status == 500 and "secret" not in await reply.text()
    assert "secret insides" in caplog.text
    assert (await rest.get("/healthz")).status == 200
