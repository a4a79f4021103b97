"""Tells Feast's own test suite which online store to try: pmkv's, each environment with a server of its own.

Feast imports this module by the name in FULL_REPO_CONFIGS_MODULE, with `tests` and `tests/compat` on PYTHONPATH; there
`tests` is Feast's package. Most of its tests ask for every store that is listed here, some for stores of certain names:
PMKV_FEAST_AS is the name that ours takes. Those stores return values that are older than the ttl of their view.
"""

from __future__ import annotations

import os
from typing import Any

from served import Served
from tests.universal.feature_repos.universal.data_sources.file import FileDataSourceCreator
from tests.universal.feature_repos.universal.online_store_creator import OnlineStoreCreator

NAME = os.environ.get("PMKV_FEAST_AS", "pmkv")


class PmkvOnlineStoreCreator(OnlineStoreCreator):
    """Starts a server for one environment of a test, and stops it."""

    def __init__(self, project_name: str, **options: Any) -> None:
        super().__init__(project_name)
        self._server: Served | None = None

    def create_online_store(self) -> dict[str, Any]:
        self._server = Served("--rest-port", "off", "--pool", ":memory:", "--capacity", "256MiB")
        url, other_stores = f"pmkv://127.0.0.1:{self._server.port}", NAME != "pmkv"
        return {"type": "pmkv_client.feast.PmkvOnlineStore", "url": url, "return_expired": other_stores}

    def teardown(self) -> None:
        if self._server is not None:
            self._server.stop()


def pytest_collection_finish() -> None:
    """Run what Feast's tests leave out of local runs; but its modules, when imported, ask for clouds otherwise."""
    os.environ["FEAST_IS_LOCAL_TEST"] = "False"


AVAILABLE_ONLINE_STORES = {NAME: (None, PmkvOnlineStoreCreator)}
AVAILABLE_OFFLINE_STORES = [("local", FileDataSourceCreator)]
