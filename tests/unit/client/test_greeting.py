"""What connections say of themselves: pmkv-client's name, found out once, and no question that only a cloud answers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest
import redis
import redis.asyncio

from pmkv_client import AsyncClient, Client, connect, connect_async, greeting

pytest.importorskip("redis.driver_info", reason="this redis-py knows its version without looking it up")
VERSION = metadata.version("pmkv-client")
MAKERS = (Client, AsyncClient, connect, connect_async)


def connection(client: Any) -> Any:
    return client.connection_pool.make_connection()


@pytest.mark.parametrize("make", MAKERS)
def test_who_connects_is_looked_up_once(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    make()  # whoever comes first looks it up
    monkeypatch.setattr(metadata, "version", None)
    made = connection(make())
    assert made.driver_info.formatted_name == f"redis-py(pmkv-client_v{VERSION})"
    assert made.driver_info.lib_version == redis.__version__


@pytest.mark.parametrize("make", MAKERS)
def test_nobody_asks_for_notices_of_maintenance(make: Callable[..., Any]) -> None:
    made = connection(make())
    assert not made.maint_notifications_config or not made.maint_notifications_config.enabled


@pytest.mark.filterwarnings("ignore:.*lib_:DeprecationWarning")
def test_what_was_given_stands() -> None:
    info = redis.DriverInfo("mine", "1")
    assert connection(Client(driver_info=info)).driver_info is info
    assert connection(connect(driver_info=None)).driver_info is None
    named = connection(Client(lib_name="mine", lib_version="2")).driver_info
    assert (named.formatted_name, named.lib_version) == ("mine", "2")


@pytest.mark.parametrize("options", [{"unix_socket_path": "/nowhere"}, {"ssl": True}, {"view": "canary"}])
def test_of_every_kind(options: dict[str, Any]) -> None:
    for make in (Client, AsyncClient):
        assert "pmkv-client" in connection(make(**options)).driver_info.formatted_name


@pytest.mark.filterwarnings("ignore:.*lib_:DeprecationWarning")
def test_a_pool_has_its_own() -> None:
    pool = redis.ConnectionPool(lib_name="theirs", lib_version="3")
    assert greeting.greeting(redis.Redis, given := {"connection_pool": pool}) is given
    assert connection(Client(connection_pool=pool)).driver_info.formatted_name == "theirs"


def test_an_older_redis_py(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("redis.driver_info", "redis.maint_notifications"):
        monkeypatch.setitem(sys.modules, name, None)
    greeting._ours.cache_clear()
    try:
        assert greeting.greeting(redis.Redis, {"db": 1}) == {"db": 1}
    finally:
        greeting._ours.cache_clear()


def test_a_setting_that_a_class_does_not_know_is_left_out() -> None:
    class Old:
        def __init__(self, host: str, driver_info: object = None) -> None: ...

    assert list(greeting.greeting(Old, {})) == ["driver_info"]
