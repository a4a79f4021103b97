"""Which format a request sends and wants."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from aiohttp import StreamReader, web
from aiohttp.test_utils import make_mocked_request

from pmkv_server.rest.formats import ARROW, BYTES, JSON, NPY, NPZ, ROW_FORMATS, accepted_format, body_format
from pmkv_server.rest.problems import Problem


@pytest.mark.parametrize(
    ("accept", "default", "best"),
    [
        (None, JSON, JSON),
        (None, NPZ, NPZ),
        ("*/*", NPY, NPY),
        ("", JSON, None),
        ("application/*", ARROW, ARROW),
        (NPZ, JSON, NPZ),
        (f"{NPY};q=0.5, {NPZ};q=0.7, */*;q=0.1", JSON, NPZ),
        (f"{JSON};q=0, */*", JSON, NPY),
        (f"text/html, {JSON}", NPZ, JSON),
        ("text/html,application/xhtml+xml,*/*;q=0.8", JSON, JSON),
        (f"{NPZ};q=oops", JSON, None),
        (NPZ.upper(), JSON, NPZ),
        ("image/png", JSON, None),
        (BYTES, JSON, None),
    ],
)
def test_wanted(accept: str | None, default: str, best: str | None) -> None:
    request = make_mocked_request("GET", "/", {} if accept is None else {"Accept": accept})
    if best is not None:
        assert accepted_format(request, ROW_FORMATS, default) == best
        return
    with pytest.raises(Problem) as problem:
        accepted_format(request, ROW_FORMATS, default)
    assert problem.value.status == 406


def post(content_type: str | None) -> web.Request:
    headers = {} if content_type is None else {"Content-Type": content_type}
    return make_mocked_request("POST", "/", headers, payload=Mock(StreamReader))


@pytest.mark.parametrize(
    ("given", "form"),
    [(None, JSON), (JSON, JSON), ("application/json; charset=utf-8", JSON), (NPY, NPY), (NPZ, NPZ), (ARROW, ARROW)],
)
def test_sent(given: str | None, form: str) -> None:
    assert body_format(post(given)) == form


@pytest.mark.parametrize("given", ["text/plain", "application/x-www-form-urlencoded", "application/zip", BYTES, "?"])
def test_what_cannot_be_sent(given: str) -> None:
    with pytest.raises(Problem) as problem:
        body_format(post(given))
    assert problem.value.status == 415 and NPZ in problem.value.detail


def test_without_a_body_its_type_says_nothing() -> None:
    assert body_format(make_mocked_request("POST", "/", {"Content-Type": BYTES})) == JSON
