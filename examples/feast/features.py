"""The features of drivers: two views of one entity, read from a Parquet file or pushed."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource
from feast.types import Array, Float32, Float64, Int64, String

driver = Entity(name="driver", join_keys=["driver_id"])
trips = FileSource(name="trips", path="data/trips.parquet", timestamp_field="at", created_timestamp_column="created")
pushed = PushSource(name="trips_now", batch_source=trips)

driver_trips = FeatureView(
    name="driver_trips",
    entities=[driver],
    ttl=timedelta(days=7),
    schema=[Field(name="trips", dtype=Int64), Field(name="rating", dtype=Float32), Field(name="earned", dtype=Float64)],
    source=pushed,
)
driver_profile = FeatureView(
    name="driver_profile",
    entities=[driver],
    ttl=timedelta(0),  # for ever
    schema=[
        Field(name="name", dtype=String),
        Field(name="languages", dtype=Array(String)),
        Field(name="taste", dtype=Array(Float32)),
    ],
    source=trips,
)
ranking = FeatureService(name="ranking", features=[driver_trips, driver_profile])
