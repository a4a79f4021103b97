"""What the tests of the client share."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.unit.client.scripted import Scripted


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    with Scripted() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()
