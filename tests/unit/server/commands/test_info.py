"""INFO: sections by name, and numbers that are true."""

from __future__ import annotations

import os
import re

import pytest

from pmkv_server.commands.info import _shown
from tests.unit.server.stand import Client


def sections(client: Client, *names: str) -> dict[str, dict[str, str]]:
    text = client("INFO", *names)[1].decode()
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if line.startswith("# "):
            fields = found.setdefault(line[2:], {})
        elif line:
            fields.update([line.split(":", 1)])
    return found


def test_without_a_name_it_tells_everything(client: Client) -> None:
    everything = sections(client)
    assert set(everything) >= {"Server", "Clients", "Memory", "Persistence", "Stats", "Replication", "CPU", "Keyspace"}
    for word in ("all", "everything", "DEFAULT"):
        assert list(sections(client, word)) == list(everything)


@pytest.mark.parametrize("name", ["server", "MEMORY", "Pmkv"])
def test_one_section(name: str, client: Client) -> None:
    assert list(sections(client, name)) == [name.capitalize()]


def test_several_sections_and_an_unknown_one(client: Client) -> None:
    assert list(sections(client, "cpu", "server", "nosuch")) == ["Server", "CPU"]
    assert sections(client, "nosuch") == {}


def test_the_numbers(client: Client, another: Client) -> None:
    client.server.stats.commands = 7
    client.says("MSET a 1 b 2")
    client.says("SELECT 5")
    client.says("SET c 1")
    found = sections(client)
    assert found["Server"]["process_id"] == str(os.getpid())
    assert found["Clients"]["connected_clients"] == "2"
    assert found["Stats"]["total_commands_processed"] == "7"
    assert found["Persistence"]["aof_last_write_status"] == "ok"
    assert found["Keyspace"] == {"db0": "keys=2,expires=0,avg_ttl=0", "db5": "keys=1,expires=0,avg_ttl=0"}
    assert int(found["Memory"]["used_memory_rss"]) > 1 << 20
    assert int(found["Pmkv"]["pmkv_capacity"]) == client.server.store.capacity


def test_values_are_plain_text(client: Client) -> None:
    client.says("SET a 1")
    client.says("TABLE.CREATE t DTYPE f4")
    text = client("INFO")[1].decode()
    assert not re.search(r"None|True|False|[{}]", text)
    found = sections(client, "pmkv")["Pmkv"]
    assert (found["pmkv_keys"], found["pmkv_tables"]) == ("0=1", "t=0")
    assert (found["pmkv_failed"], found["pmkv_readonly"], found["pmkv_is_cold"]) == ("", "0", "0")


def test_counts_of_several_names_stand_in_one_line() -> None:
    assert _shown({"t": {"rows": 2, "bytes": 64}, "u": 3}) == "t.rows=2,t.bytes=64,u=3"
    assert (_shown(None), _shown(True), _shown(0.5)) == ("", "1", "0.500000")


def test_versions(client: Client) -> None:
    client.says("SNAPSHOT.CREATE v1")
    found = sections(client, "pmkv")["Pmkv"]
    assert (found["pmkv_version"], found["pmkv_views"]) == ("0-0", "2")


def test_resp3_gives_a_text_for_people(client: Client) -> None:
    client.session.protocol = 3
    kind, text = client("INFO", "server")
    assert kind == "="
    assert text.startswith(b"txt:# Server\r\n")


def test_persistence_in_redis_words(client: Client) -> None:
    found = sections(client, "persistence")["Persistence"]
    assert found["aof_enabled"] == "1" and found["loading"] == found["rdb_bgsave_in_progress"] == "0"
    assert found["rdb_last_bgsave_status"] == "ok" and found["rdb_last_bgsave_time_sec"] == "-1"
    assert int(found["rdb_last_save_time"]) == int(client.server.stats.started)
    client.server.bgsave.failed = True
    assert sections(client, "persistence")["Persistence"]["rdb_last_bgsave_status"] == "err"


def test_lookups_commands_and_errors_are_counted(client: Client) -> None:
    for line in ("SET a 1", "GET a", "GET none", "SET a 2 NX", "DEL none", "GETDEL a", "GET", "INCR", "LPUSH a b"):
        client.says(line)
    client.says("SET x text")
    client.says("INCR x")
    found = sections(client, "stats", "commandstats", "errorstats")
    stats, commands = found["Stats"], found["Commandstats"]
    assert (stats["keyspace_hits"], stats["keyspace_misses"], stats["expired_keys"]) == ("2", "1", "0")
    assert commands["cmdstat_get"].startswith("calls=2,") and commands["cmdstat_get"].endswith(
        "rejected_calls=1,failed_calls=0"
    )
    assert commands["cmdstat_incr"].endswith("rejected_calls=1,failed_calls=1")
    assert found["Errorstats"] == {"errorstat_ERR": "count=4"} and stats["total_error_replies"] == "4"
    client.says("CONFIG RESETSTAT")
    found = sections(client, "stats", "commandstats", "errorstats")
    assert found["Stats"]["keyspace_hits"] == "0" and list(found["Commandstats"]) == ["cmdstat_config|resetstat"]
