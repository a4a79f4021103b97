"""Feast's online store against a server: as Feast calls it, sync and async."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import pmkv_client
from tests.optional import needs
from tests.served import served

needs("feast")

from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType  # noqa: E402
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus  # noqa: E402
from feast.protos.feast.types.EntityKey_pb2 import EntityKey  # noqa: E402
from feast.protos.feast.types.Value_pb2 import Value  # noqa: E402
from feast.types import Float32, Int64, String  # noqa: E402

from pmkv_client.feast import FeatureTables, PmkvOnlineStore  # noqa: E402

NOW = datetime.now(UTC).replace(microsecond=5)
DRIVER = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)
LONG = "long " * 50


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served("--pool", ":memory:", "--capacity", "256MiB") as running:
        yield f"pmkv://127.0.0.1:{running.port}"


@pytest.fixture
def client(url: str) -> Iterator[pmkv_client.Client]:
    with pmkv_client.connect(url) as connected:
        yield connected
        for name in connected.tables():
            connected.drop_table(name)
        connected.flushall()


@pytest.fixture
def config(url: str, client: pmkv_client.Client, tmp_path: Path) -> RepoConfig:
    return RepoConfig(
        project="my_project", provider="local", registry=str(tmp_path / "registry.db"),
        online_store={"type": "pmkv_client.feast.PmkvOnlineStore", "url": url}, entity_key_serialization_version=3,
    )  # fmt: skip


def view(view_name: str = "drivers", ttl: timedelta | None = None, **features: Any) -> FeatureView:
    schema = [Field(name=name, dtype=dtype) for name, dtype in (features or {"trips": Int64, "name": String}).items()]
    source = FileSource(path="none.parquet", timestamp_field="at")
    return FeatureView(name=view_name, entities=[DRIVER], ttl=ttl, schema=schema, source=source)


def key(driver: int) -> EntityKey:
    return EntityKey(join_keys=["driver_id"], entity_values=[Value(int64_val=driver)])


def entry(driver: int, trips: int, name: str = "", ago: timedelta = timedelta()) -> Any:
    return key(driver), {"trips": Value(int64_val=trips), "name": Value(string_val=name)}, NOW - ago, NOW


def read(store: PmkvOnlineStore, config: RepoConfig, table: FeatureView, *drivers: int) -> list[Any]:
    """Return (trips, name) of each driver, None for one without a row."""
    rows = store.online_read(config, table, [key(driver) for driver in drivers])
    return [values and (values["trips"].int64_val, values["name"].string_val) for _, values in rows]


HOUR = timedelta(hours=1)


def test_an_older_event_never_replaces_a_newer_one(config: RepoConfig) -> None:
    store, table, done = PmkvOnlineStore(), view(), []
    store.online_write_batch(
        config, table, [entry(1, 10, "a"), entry(2, 20, "b", HOUR), entry(2, 19, "c", 2 * HOUR)], done.append
    )
    assert read(store, config, table, 1, 2, 3) == [(10, "a"), (20, "b"), None] and done == [3]
    store.online_write_batch(config, table, [entry(1, 9, LONG, HOUR), entry(2, 21, "d")], None)
    assert read(store, config, table, 2, 1) == [(21, "d"), (10, "a")]
    ((at, values),) = store.online_read(config, table, [key(2)], ["trips"])
    assert at == NOW and list(values) == ["trips"]


def test_long_values_go_when_nothing_refers_to_them(config: RepoConfig, client: pmkv_client.Client) -> None:
    store, table = PmkvOnlineStore(), view()

    def long_values() -> list[bytes]:
        return list(client.scan_iter(match="feast/value/*"))

    store.online_write_batch(config, table, [entry(1, 1, LONG), entry(2, 2, LONG)], None)
    assert read(store, config, table, 1, 2) == [(1, LONG), (2, LONG)] and len(long_values()) == 2
    store.online_write_batch(config, table, [entry(1, 5, LONG + "older", HOUR)], None)
    assert read(store, config, table, 1) == [(1, LONG)] and len(long_values()) == 2
    store.online_write_batch(config, table, [entry(1, 3, LONG + "newer"), entry(2, 4, "short")], None)
    assert read(store, config, table, 1, 2) == [(3, LONG + "newer"), (4, "short")] and len(long_values()) == 1
    store.teardown(config, [table], [DRIVER])
    assert list(client.scan_iter()) == [] and client.tables() == {}


def test_a_collision_is_refused(config: RepoConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    store, table = PmkvOnlineStore(), view()
    store.online_write_batch(config, table, [entry(1, 10)], None)
    monkeypatch.setattr("pmkv_client.feature_rows.ID_MASK", 0)
    other = PmkvOnlineStore()
    other.online_write_batch(config, table, [entry(1, 10)], None)
    for fresh in (other, PmkvOnlineStore()):
        with pytest.raises(ValueError, match="have the same id, 0: rename one of them"):
            fresh.online_write_batch(config, table, [entry(1, 11), entry(2, 20)], None)
    with pytest.raises(ValueError, match="have the same id"):
        PmkvOnlineStore().online_write_batch(config, table, [entry(3, 20)], None)


def test_ttl(config: RepoConfig) -> None:
    store, table = PmkvOnlineStore(), view(ttl=timedelta(minutes=30))
    store.online_write_batch(config, table, [entry(1, 10, "a", HOUR), entry(2, 20, "b")], None)
    assert read(store, config, table, 1, 2) == [None, (20, "b")]
    assert read(store, config, view(ttl=timedelta(0)), 1) == [(10, "a")]
    config.online_store.return_expired = True
    assert read(store, config, table, 1, 2, 3) == [(10, "a"), (20, "b"), None]


def test_a_view_that_changes_keeps_what_it_can(config: RepoConfig, client: pmkv_client.Client) -> None:
    store, table = PmkvOnlineStore(), view()
    store.update(config, [], [table], [], [DRIVER], False)
    assert len(client.tables()) == 1 and read(store, config, table, 1) == [None]
    store.online_write_batch(config, table, [entry(1, 10, LONG), entry(2, 20, "b")], None)
    wider = view(score=Float32, name=String, trips=Int64)
    store.update(config, [], [wider], [], [DRIVER], False)
    assert read(store, config, wider, 1, 2) == [(10, LONG), (20, "b")] and len(client.tables()) == 1
    assert len(list(client.scan_iter(match="feast/value/*"))) == 1
    other = PmkvOnlineStore()
    assert read(other, config, table, 1) == [None]  # nobody has applied this one
    store.update(config, [wider], [], [], [], False)
    assert client.tables() == {}


def test_a_table_created_anew_by_another_process_is_found(config: RepoConfig) -> None:
    store, other, table = PmkvOnlineStore(), PmkvOnlineStore(), view()
    store.online_write_batch(config, table, [entry(1, 10)], None)
    assert read(store, config, table, 1) == [(10, "")]
    other.update(config, [table], [], [], [], False)
    assert read(store, config, table, 1) == [None]
    other.online_write_batch(config, table, [entry(1, 11)], None)
    assert read(store, config, table, 1) == [(11, "")]


async def test_async(config: RepoConfig) -> None:
    store, table = PmkvOnlineStore(), view()
    assert store.async_supported.read and store.async_supported.write
    await store.initialize(config)
    await store.online_write_batch_async(config, table, [entry(1, 10, LONG), entry(2, 20, "b")], None)
    rows = await store.online_read_async(config, table, [key(2), key(1), key(3)], ["name"])
    assert [values and values["name"].string_val for _, values in rows] == ["b", LONG, None]
    await store.close()


def applied(config: RepoConfig) -> FeatureStore:
    """Return a store of two views with rows of drivers 1 and 2, those of 2 expired in one view."""
    feast = FeatureStore(config=config)
    views = [view("drivers", timedelta(minutes=30)), view("scores", score=Float32)]
    feast.apply([DRIVER, *views])
    store = PmkvOnlineStore()
    store.online_write_batch(config, views[0], [entry(1, 10, "a"), entry(2, 20, "b", HOUR)], None)
    scores = [(key(driver), {"score": Value(float_val=driver / 2)}, NOW, None) for driver in (1, 2)]
    store.online_write_batch(config, views[1], scores, None)
    return feast


FEATURES = ["drivers:trips", "drivers:name", "scores:score"]
ROWS = [{"driver_id": driver} for driver in (2, 1, 3, 1)]


def check(response: Any) -> None:
    """Check what was read for ROWS."""
    shown = response.to_dict()
    assert shown["trips"] == [None, 10, None, 10] and shown["name"] == [None, "a", None, "a"]
    assert shown["score"] == [1.0, 0.5, None, 0.5]
    proto = response.proto
    by_name = dict(zip(proto.metadata.feature_names.val, proto.results))
    old, there, unknown = FieldStatus.OUTSIDE_MAX_AGE, FieldStatus.PRESENT, FieldStatus.NOT_FOUND
    assert list(by_name["trips"].statuses) == [old, there, unknown, there]
    assert by_name["score"].event_timestamps[0].ToDatetime(UTC) == NOW


async def test_all_views_of_a_request(config: RepoConfig) -> None:
    feast = applied(config)
    check(feast.get_online_features(FEATURES, ROWS))
    check(await feast.get_online_features_async(FEATURES, ROWS))
    named = feast.get_online_features(FEATURES, ROWS[:1], full_feature_names=True).to_dict()
    assert named["scores__score"] == [1.0]
    config.online_store.return_expired = True
    found = feast.get_online_features(FEATURES, ROWS)
    assert found.to_dict()["trips"] == [20, 10, None, 10]
    assert FieldStatus.OUTSIDE_MAX_AGE in found.proto.results[1].statuses


async def test_all_views_are_read_in_one_call(config: RepoConfig, client: pmkv_client.Client) -> None:
    feast = applied(config)
    feast.get_online_features(FEATURES, ROWS)
    before = client.info("commandstats")["cmdstat_table.mget"]["calls"] if client.info("commandstats") else 0
    feast.get_online_features(FEATURES, ROWS)
    if before:
        assert client.info("commandstats")["cmdstat_table.mget"]["calls"] == before + 1


def test_a_list_of_features_that_changes_has_another_table() -> None:
    tables, one = FeatureTables("p", 48), view()
    dtype = tables.dtype_of(one)
    assert tables.dtype_of(one) is dtype and tables.table_name("v", dtype) is tables.table_name("v", dtype)
    one.features.append(Field(name="more", dtype=Float32))
    assert "more" in tables.dtype_of(one).names and tables.table_name("v", tables.dtype_of(one)) not in (
        tables.table_name("v", dtype),
        tables.table_name("w", tables.dtype_of(one)),
    )


def test_names_of_tables() -> None:
    tables = FeatureTables("my project", 48)
    dtype = tables.dtype_of(view())
    name = tables.table_name("a/b", dtype)
    assert name.startswith("feast.my:20:project.a:2f:b.") and name != tables.table_name(
        "a/b", tables.dtype_of(view(x=Int64))
    )
    assert len(tables.table_name("v" * 300, dtype)) < 128 and tables.stem("v" * 300) != tables.stem("v" * 301)
