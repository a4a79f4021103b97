"""The description is valid OpenAPI, has every route and only these, and the replies are as it says."""

from __future__ import annotations

import re

import jsonschema
import pytest
from aiohttp.test_utils import TestClient
from openapi_spec_validator import OpenAPIV31SpecValidator

from pmkv_server.rest import ROUTES
from pmkv_server.rest.openapi import MEANINGS, SCHEMAS, document


def test_it_is_valid() -> None:
    OpenAPIV31SpecValidator(document()).validate()


def routes() -> set[tuple[str, str]]:
    plain = {(method.lower(), re.sub(r"\{(\w+):[^}]*\}", r"{\1}", path)) for method, path, _ in ROUTES}
    return plain | {("head", path) for method, path in plain if method == "get"}


def test_every_route_is_described_and_every_described_route_exists() -> None:
    described = {(method, path) for path, methods in document()["paths"].items() for method in methods}
    assert described == routes()


def test_operations_have_names_of_their_own() -> None:
    names = [one["operationId"] for methods in document()["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names))


def test_everything_defined_is_used() -> None:
    text = str(document())
    assert {name for name in SCHEMAS if f"#/components/schemas/{name}'" not in text} == set()
    used = {code for methods in document()["paths"].values() for one in methods.values() for code in one["responses"]}
    assert set(MEANINGS) <= used


async def test_it_is_served(rest: TestClient) -> None:
    reply = await rest.get("/openapi.json")
    assert reply.content_type == "application/json" and await reply.json() == document()


CALLS = [
    ("GET", "/v1/tables", None, "/v1/tables"),
    ("GET", "/v1/tables/items", None, "/v1/tables/{table}"),
    ("GET", "/v1/keys", None, "/v1/keys"),
    ("GET", "/v1/keys/a", None, "/v1/keys/{key}"),
    ("POST", "/v1/keys:batchGet", {"keys": ["a", "b"]}, "/v1/keys:batchGet"),
    ("POST", "/v1/tables/items/rows:get", {"ids": [1], "return_found": True}, "/v1/tables/{table}/rows:get"),
    ("POST", "/v1/tables/items/rows:put", {"ids": [1], "rows": [1]}, "/v1/tables/{table}/rows:put"),
    ("POST", "/v1/tables/items/rows:add", {"ids": [1], "rows": [1]}, "/v1/tables/{table}/rows:add"),
    ("POST", "/v1/tables/items/rows:pool", {"ids": [1], "offsets": [0]}, "/v1/tables/{table}/rows:pool"),
    ("POST", "/v1/tables/items/rows:scan", {}, "/v1/tables/{table}/rows:scan"),
    ("POST", "/v1/tables/items/rows:delete", {"ids": [1]}, "/v1/tables/{table}/rows:delete"),
    ("POST", "/v1/rows:get", {"tables": {"items": [1]}}, "/v1/rows:get"),
    ("GET", "/v1/views", None, "/v1/views"),
    ("GET", "/v1/views/v1", None, "/v1/views/{view}"),
    ("GET", "/v1/views/none", None, "/v1/views/{view}"),
    ("POST", "/v1/snapshots", {"name": "v2"}, "/v1/snapshots"),
    ("POST", "/v1/snapshots", {"name": "v1"}, "/v1/snapshots"),
    ("POST", "/v1/snapshots/v1:rollback", {"tables": ["items"], "keys": False}, "/v1/snapshots/{view}:rollback"),
    ("POST", "/v1/branches", {"name": "b", "at": "v1"}, "/v1/branches"),
    ("POST", "/v1/branches/none:promote", {"force": True}, "/v1/branches/{view}:promote"),
    ("POST", "/v1/views:undo", {"force": None}, "/v1/views:undo"),
    ("GET", "/v1/version", None, "/v1/version"),
    ("GET", "/v1/keys/a?at=none", None, "/v1/keys/{key}"),
    ("GET", "/v1/keys/none", None, "/v1/keys/{key}"),
    ("POST", "/v1/tables", {"name": "items", "dtype": "f4"}, "/v1/tables"),
    ("POST", "/v1/tables/items/rows:get", [], "/v1/tables/{table}/rows:get"),
]


@pytest.mark.parametrize(("method", "path", "body", "described"), CALLS, ids=lambda part: str(part)[:30])
async def test_replies_are_as_described(rest: TestClient, method: str, path: str, body: object, described: str) -> None:
    await rest.post("/v1/tables", json={"name": "items", "dtype": "f4"})
    await rest.put("/v1/keys/a", data=b"1")
    await rest.post("/v1/snapshots", json={"name": "v1"})
    reply = await rest.request(method, path, json=body, headers={"Accept": "application/json"})
    spec = document()["paths"][described][method.lower()]["responses"][str(reply.status)]
    schema = {**spec["content"][reply.content_type]["schema"], "components": document()["components"]}
    jsonschema.validate(await reply.json(content_type=None), schema)
    assert set(spec["headers"]) <= {"ETag", "Pmkv-Expire-At", "Pmkv-Cursor", "Location"} | set(reply.headers)
