"""The state of a store as records of the catalog, and back."""

from __future__ import annotations

import orjson
import pytest

from pmkv.errors import CorruptionError
from pmkv.index.run import RunInfo
from pmkv.log.replay import LogEnd
from pmkv.versions.layer import SkipRun
from pmkv.versions.manifest import CollectionRecord, LayerRecord, Manifest, ViewRecord, run_name

END = LogEnd(lsn=(3 << 40) + 7, previous=123, last=4224, position=4352, segments=[[0, 1], [5, 1]])
DECISION = {"op": "create_table", "id": 4, "name": "t", "descr": ["<f4", [2]], "rows": None}


class Mapped:
    """Stands for a run that is mapped."""

    def __init__(self, info: RunInfo) -> None:
        self.info = info

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mapped) and other.info == self.info

    __hash__ = None


def run(file: str, offset: int) -> Mapped:
    return Mapped(RunInfo(file, offset, 100, 28, 80, -3, 0, 0, 9, {0: 640, 5: 8}, 1, 2))


def state() -> Manifest:
    collections = {
        "keyspace/0": CollectionRecord((LayerRecord(0, None, (run("b.runs", 4096), run("a.runs", 4096)), 5, 77, 3),)),
        "keyspace/3": CollectionRecord((LayerRecord(17, None),)),
        "table/4": CollectionRecord(
            (LayerRecord(12, None, (run("b.runs", 8192),), 1, 13), LayerRecord(19, 12)),
            DECISION,
            (SkipRun(run("d.runs", 4096), 12, None),),
        ),
    }
    views = {
        "main": ViewRecord("main", tops={"keyspace/0": 0, "keyspace/3": 17, "table/4": 19}),
        "undo": ViewRecord("undo", 19, 7, "main", {"table/4": None}, {"table/4": 12}, ("table/4",), (), ("b", 9)),
        "b": ViewRecord("branch", 20, 1000, "main", {"table/4": 19}, bases={"table/4": 12, "keyspace/0": None}),
    }
    return Manifest(END, 4, collections, views, (3, 19))


def test_through_json_and_back() -> None:
    records = orjson.loads(orjson.dumps(state().to_records()))
    assert Manifest.from_records(records, Mapped) == state()


def test_a_fold_changes_one_part_and_few_records() -> None:
    before = state()
    part = before.collections["keyspace/0"].with_runs(0, (run("c.runs", 4096),))
    after = before.with_collection("keyspace/0", part)
    old, new = before.to_records(), after.to_records()
    assert {name for name in old | new if old.get(name) != new.get(name)} == {
        "keyspace/0", "run/a.runs:4096", "run/b.runs:4096", "run/c.runs:4096"}  # fmt: skip
    assert before.files == {"a.runs", "b.runs", "d.runs"} and after.files == {"b.runs", "c.runs", "d.runs"}


def test_a_run_that_is_named_and_not_described_is_damage() -> None:
    records = state().to_records()
    del records["run/" + run_name(run("b.runs", 8192).info)]
    with pytest.raises(CorruptionError, match=r"names run b\.runs:8192 in table/4, and does not describe it"):
        Manifest.from_records(records, Mapped)
