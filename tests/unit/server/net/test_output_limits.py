"""client-output-buffer-limit: parsed and shown as in Redis; hard and soft limits."""

from __future__ import annotations

from typing import Any

import pytest

from pmkv_server.net import output_limits
from pmkv_server.net.output_limits import PAUSE_BYTES, OutputLimits, OutputWatch
from tests.served import request
from tests.unit.server.stand import settled

DEFAULT = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60"


def test_settings_are_shown_as_in_redis() -> None:
    limits = OutputLimits()
    assert (str(limits), limits.is_set, limits.pause_bytes) == (DEFAULT, False, PAUSE_BYTES)
    limits.set_output("normal 16mb 8mb 10 replica 1 2 3")
    assert str(limits) == "normal 16777216 8388608 10 slave 1 2 3 pubsub 33554432 8388608 60"
    assert (limits.is_set, limits.pause_bytes) == (True, 16 << 20)
    limits.set_query("2mb")
    assert limits.query_bytes == 2 << 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Wrong number of arguments in buffer limit configuration."),
        ("normal 1 2", "Wrong number of arguments in buffer limit configuration."),
        ("master 1 2 3", "Invalid client class specified in buffer limit configuration."),
        ("normal 1 x 3", "Error in hard, soft or soft_seconds setting in buffer limit configuration."),
        ("normal 1 2 -3", "Error in hard, soft or soft_seconds setting in buffer limit configuration."),
    ],
)
def test_wrong_settings_change_nothing(text: str, said: str) -> None:
    limits = OutputLimits()
    with pytest.raises(ValueError, match=said):
        limits.set_output(text)
    assert str(limits) == DEFAULT


@pytest.mark.parametrize("text", ["1", "1023kb", "x", "-1"])
def test_a_limit_of_input_has_a_least_value(text: str) -> None:
    with pytest.raises(ValueError, match="at least 1mb"):
        OutputLimits().set_query(text)


def test_hard_and_soft_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(output_limits.time, "monotonic", lambda: now[0])
    limits, watch = OutputLimits(), OutputWatch()
    assert watch.excess(limits, 1 << 40) is None, "no limit is the default"
    limits.set_output("normal 1000 100 5")
    assert watch.excess(limits, 1000) is None
    assert watch.excess(limits, 1001) == "more than 1000 bytes"
    now[0] += 4
    assert watch.excess(limits, 500) is None
    assert watch.excess(limits, 100) is None, "the time begins anew"
    now[0] += 4
    assert watch.excess(limits, 500) is None
    now[0] += 6
    assert watch.excess(limits, 500) == "more than 100 bytes for 5 s"


async def test_a_client_that_reads_nothing_is_cut_off_at_the_limit(connect: Any, store: Any, server: Any) -> None:
    store.put(b"a", b"x" * 100_000)
    admin, wire = connect(), connect()
    server._connections = {wire.connection}
    assert await admin.answers("CONFIG SET client-output-buffer-limit normal", "PING") == [
        "-ERR CONFIG SET failed (possibly related to argument 'client-output-buffer-limit') - "
        "Wrong number of arguments in buffer limit configuration.",
        "PONG",
    ]
    admin.send(request("CONFIG", "SET", "client-output-buffer-limit", "normal 1mb 0 0"))
    await settled()
    assert admin.replies() == ["OK"]
    wire.transport.slow = True
    for _ in range(20):
        wire.ask("GET a")
        await settled()
    assert wire.transport.aborted
    assert wire.transport.buffered <= (1 << 20) + 110_000
    assert server.stats.output_cut_off == 1
    assert "client_output_buffer_limit_disconnections:1" in (await admin.answers("INFO stats"))[0]
    if server._watching is not None:
        server._watching.cancel()
