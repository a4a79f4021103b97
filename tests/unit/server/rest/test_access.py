"""Who may ask: passwords, and pages in a browser on the same machine."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import TestClient

PROBLEM = "application/problem+json"


async def test_with_a_password(start) -> None:
    rest = await start(password="sésame")
    for given in (None, "Bearer", "Bearer wrong", "Basic sésame", "sésame", "Bearer \udcff"):
        headers = {} if given is None else {"Authorization": given}
        for path in ("/v1/keys/a", "/metrics", "/openapi.json", "/nowhere"):
            reply = await rest.get(path, headers=headers)
            assert reply.status == 401 and reply.content_type == PROBLEM
            assert reply.headers["WWW-Authenticate"] == "Bearer"
    right = {"Authorization": "Bearer sésame", "Origin": "https://elsewhere.example", "Host": "pmkv.example"}
    assert (await rest.put("/v1/keys/a", data=b"1", headers=right)).status == 201
    assert (await rest.get("/v1/stats", headers={"Authorization": "bearer sésame"})).status == 200
    for probe in ("/healthz", "/readyz"):
        assert (await rest.get(probe)).status == 200


@pytest.mark.parametrize("host", ["localhost", "localhost:7380", "app.localhost:80", "127.0.0.1:7380", "[::1]:7380"])
async def test_hosts_of_this_machine(rest: TestClient, host: str) -> None:
    assert (await rest.get("/v1/tables", headers={"Host": host})).status == 200
    assert (await rest.get("/v1/tables", headers={"Host": host, "Origin": f"http://{host}"})).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.evil.example:7380", "[::1"])
async def test_other_hosts(rest: TestClient, host: str) -> None:
    reply = await rest.get("/v1/tables", headers={"Host": host})
    assert reply.status == 403 and reply.content_type == PROBLEM


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "http://[::1"])
async def test_pages_of_another_origin(rest: TestClient, origin: str) -> None:
    for reply in (
        await rest.get("/v1/tables", headers={"Origin": origin}),
        await rest.put("/v1/keys/a", data=b"1", headers={"Origin": origin}),
    ):
        assert reply.status == 403 and reply.content_type == PROBLEM
    assert (await rest.get("/v1/keys/a")).status == 404
