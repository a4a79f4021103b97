"""`pmkv top`: rates between samples, hits, space and views, from what INFO says."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from pmkv_server import top
from pmkv_server.top import Sample, frame, hits, operations, pairs, samples, share, size, space, tables, take

INFO = {
    "uptime_in_seconds": "10",
    "cmdstat_get": "calls=1000,usec=2000,usec_per_call=2.00",
    "cmdstat_table.get": "calls=10,usec=6000,usec_per_call=600.00",
    "cmdstat_ping": "calls=0,usec=0,usec_per_call=0.00",
    "pmkv_row_cache_hits": "90", "pmkv_row_cache_misses": "10",
    "pmkv_row_cache_bytes": "1048576", "pmkv_row_cache_budget": "2097152",
    "pmkv_row_cache_curve": "0.5=0.81,2.0=0.9456",
    "pmkv_used": "1024", "pmkv_capacity": "4096", "pmkv_runs": "3", "pmkv_run_bytes": "2048",
    "pmkv_tables": "items=5,users=12345",
}  # fmt: skip


def test_operations_since_the_start_and_between_samples() -> None:
    first = Sample(100.0, INFO)
    assert operations(None, first) == [("table.get", "1", "600.0", "75.0 %"), ("get", "100", "2.0", "25.0 %")]
    later = Sample(102.0, INFO | {"cmdstat_get": "calls=1500,usec=2500,usec_per_call=1.67"})
    assert operations(first, later) == [("get", "250", "1.0", "100.0 %")]
    assert operations(None, Sample(1.0, {})) == []


def test_hits_and_what_more_dram_would_answer() -> None:
    first = Sample(100.0, INFO)
    assert hits(None, first) == [
        ("rows, 1.0 MiB of 2.0 MiB", "90.0 %"), ("locations, 0 B of 0 B", "-"),
        ("rows with 0.5x DRAM", "81.0 %"), ("rows with 2x DRAM", "94.6 %"),
    ]  # fmt: skip
    later = Sample(101.0, INFO | {"pmkv_row_cache_hits": "91", "pmkv_row_cache_misses": "13"})
    assert hits(first, later)[0][1] == "25.0 %"


def test_space_and_tables() -> None:
    assert space(Sample(1.0, INFO))[:3] == [
        ("pool", "1.0 KiB of 4.0 KiB, 25.0 %"), ("memtables", "0 B"), ("runs", "2.0 KiB, up to 3 a table")
    ]  # fmt: skip
    assert tables(Sample(1.0, INFO)) == [("users", "12,345"), ("items", "5")]


def test_words() -> None:
    assert [size(n) for n in (0, 1023, 1536, 5 << 30, 3 << 40)] == ["0 B", "1023 B", "1.5 KiB", "5.0 GiB", "3.0 TiB"]
    assert share(0, 0) == "-" and pairs("a=1,b=x=y,") == {"a": "1", "b": "x=y"}
    assert Sample(0.0, {"a": "word"}).number("a") == 0.0


def ask(*words: Any) -> Any:
    if words == ("INFO", "everything"):
        return b"# Stats\r\n" + "".join(f"{name}:{value}\r\n" for name, value in INFO.items()).encode()
    assert words == ("VIEW.LIST",)
    return [b"main", b"canary"]


def test_a_picture_of_a_server() -> None:
    now = take(ask)
    assert now.info == INFO and now.views == ("main", "canary")
    many = Sample(now.at, INFO, tuple(f"v{i}" for i in range(11)))
    for sample, words in ((now, ["canary", "table.get", "94.6 %", "12,345"]), (many, ["v7", "and 3 more"])):
        console = Console(file=StringIO(), width=120)
        console.print(frame(None, sample))
        shown = console.file.getvalue()
        assert all(word in shown for word in words) and "v8" not in shown


def test_it_is_drawn_until_the_user_interrupts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(samples(ask, 0.5, wait))
    assert waits == [0.5] * 3
    monkeypatch.setattr(top, "samples", lambda ask, interval: iter([take(ask), take(ask)]))
    top.show(ask, 0.5)


def test_one_picture(capsys: pytest.CaptureFixture[str]) -> None:
    top.show_once(ask)
    assert "operations" in capsys.readouterr().out
