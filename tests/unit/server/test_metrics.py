"""What Prometheus finds."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

import pmkv
from pmkv_server.bgsave import BackgroundSave
from pmkv_server.metrics import registry
from pmkv_server.stats import Stats
from tests.served import ROOT
from tests.unit.server.stand import Client

OPERATIONS = ROOT / "docs/OPERATIONS.md"
DOCUMENTS = [ROOT / "README.md", *ROOT.glob("docs/*.md")]


@pytest.fixture
def scraped() -> dict[str, dict[str, float]]:
    """{name: {label or "": value}} after a few writes."""
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as store:
        store.put_many({b"a": b"1", b"b": b"2"})
        store.keyspace(5).put(b"c", b"3")
        store.create_table("items", ("f4", 4)).put([1, 2, 3], [[0.0] * 4] * 3)
        stats = Stats()
        stats.commands, stats.connections = 7, 2
        store.snapshot("v1")
        store.keyspace(5).put(b"d", b"4")
        store.rollback("v1", keys=[5])
        switches = SimpleNamespace(waiting=2)
        server = SimpleNamespace(
            store=store, stats=stats, bgsave=BackgroundSave(), version_events=switches, sessions={1: None}
        )
        text = generate_latest(registry(server)).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found: dict[str, dict[str, float]] = {}
    for sample in samples:
        found.setdefault(sample.name, {})["".join(sample.labels.values())] = sample.value
    return found


def test_redis_names(scraped: dict[str, dict[str, float]]) -> None:
    assert scraped["redis_up"] == {"": 1}
    assert scraped["redis_connected_clients"] == {"": 1}
    assert scraped["redis_commands_processed_total"] == {"": 7}
    assert scraped["redis_connections_received_total"] == {"": 2}
    assert scraped["redis_db_keys"] == {"db0": 2, "db5": 1}
    assert scraped["redis_uptime_in_seconds"][""] >= 0


def test_our_own_names(scraped: dict[str, dict[str, float]]) -> None:
    assert scraped["pmkv_table_rows"] == {"items": 3}
    assert scraped["pmkv_pool_capacity_bytes"][""] >= scraped["pmkv_pool_used_bytes"][""] > 0
    assert scraped["pmkv_pending_frames"] == {"": 0}
    assert scraped["pmkv_flushes_total"][""] > 0
    assert scraped["process_resident_memory_bytes"][""] > 0


def test_of_space(scraped: dict[str, dict[str, float]]) -> None:
    assert scraped["pmkv_takes_writes"] == {"": 1}
    assert scraped["pmkv_space_bytes"].keys() == {"live", "dead", "reserved", "free"}
    assert sum(scraped["pmkv_space_bytes"].values()) <= scraped["pmkv_pool_capacity_bytes"][""]
    assert scraped["pmkv_space_pinned_bytes"].keys() == {"v1", "undo"}
    assert scraped["pmkv_space_moved_bytes_total"] == scraped["pmkv_space_freed_bytes_total"] == {"": 0}


def test_of_views(scraped: dict[str, dict[str, float]]) -> None:
    assert scraped["pmkv_views"] == {"": 3}, "main, v1 and undo"
    assert scraped["pmkv_promotions_total"] == {"": 1}
    assert scraped["redis_blocked_clients"] == {"": 2}


def test_of_checkpoints(scraped: dict[str, dict[str, float]]) -> None:
    """In memory there are none, and nothing has failed."""
    assert scraped["redis_rdb_saves_total"] == scraped["redis_rdb_bgsave_in_progress"] == {"": 0}
    assert scraped["redis_rdb_last_bgsave_status"] == scraped["redis_aof_last_write_status"] == {"": 1}
    assert scraped["redis_rdb_last_save_timestamp_seconds"][""] > 1_600_000_000
    assert scraped["redis_rdb_changes_since_last_save"] == scraped["pmkv_replay_seconds"] == {"": 0}
    assert scraped["pmkv_location_cache_budget_bytes"][""] > scraped["pmkv_location_cache_bytes"][""] > 0
    assert scraped["pmkv_cold"] == scraped["pmkv_runs"] == {"": 0}


def test_documents_name_what_there_is(scraped: dict[str, dict[str, float]], client: Client) -> None:
    told = {line.partition(":")[0] for line in client("INFO", "everything")[1].decode().splitlines()}
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| (?:`(\w+)` )?\|$", OPERATIONS.read_text(), re.MULTILINE)
    assert len(rows) > 15
    assert not {name for name, _ in rows} - told, "in the second column, and not in INFO"
    assert not {name for _, name in rows if name} - scraped.keys(), "in the third column, and not in /metrics"
    named = {name for path in DOCUMENTS for name in re.findall(r"`((?:pmkv|redis)_\w+)`", path.read_text())}
    packages = {"pmkv_server", "pmkv_client", "redis_exporter", "redis_version"}
    assert not named - told - scraped.keys() - packages, "named in a document, and neither in INFO nor in /metrics"
