"""What redis-py is told of connections that it makes, so that they take no longer than they need.

redis-py from 7.2 on looks up its own version for each connection anew, in files: that takes as long as connecting does.
And where it speaks RESP3, it asks each server for notices of maintenance, which only a cloud sends.
"""

from __future__ import annotations

import contextlib
import inspect
from functools import cache
from importlib import metadata
from typing import Any

NAMES = ("driver_info", "lib_name", "lib_version")  # of settings that say who connects


def greeting(client: type, given: dict[str, Any]) -> dict[str, Any]:
    """The settings for a class of clients, with those that were given, which stand."""
    if given.get("connection_pool") is not None:
        return given  # it has made its connections' settings already
    settings = {name: value for name, value in _ours().items() if name in _accepted(client)}
    if not given.keys().isdisjoint(NAMES):
        settings.pop("driver_info", None)
    return {**settings, **given}


@cache
def _ours() -> dict[str, Any]:
    settings: dict[str, Any] = {}
    with contextlib.suppress(ImportError):  # an older redis-py knows its version; or this package is not installed
        from redis.driver_info import DriverInfo

        version = metadata.version("pmkv-client")
        settings["driver_info"] = DriverInfo().add_upstream_driver("pmkv-client", version)
    with contextlib.suppress(ImportError):
        from redis.maint_notifications import MaintNotificationsConfig

        settings["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    return settings


@cache
def _accepted(client: type) -> frozenset[str]:
    """Names of settings."""
    return frozenset(inspect.signature(client).parameters)
