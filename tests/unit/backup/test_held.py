"""Holding views during a backup: all heads at one moment, and nothing is left afterwards."""

from __future__ import annotations

from pathlib import Path

import pmkv
from pmkv.backup.held import HELD, drop_held, held


def test_heads_are_held_at_one_moment(tmp_path: Path) -> None:
    with pmkv.open(tmp_path / "store", capacity="8MiB") as store:
        store.put(b"a", b"1")
        branch = store.branch("next")
        branch.put(b"b", b"2")
        store.snapshot("v1")
        engine = store._engine
        with held(engine, None) as heads:
            assert sorted(heads.names) == ["main", "next"] and list(heads.cuts) == ["next"]
            store.put(b"a", b"3")
            branch.delete(b"b")
            assert store.view(heads.names["main"]).get(b"a") == b"1"
            assert store.view(heads.names["next"]).get(b"b") == b"2"
            assert heads.lsn <= heads.log.lsn
            store.check()
        assert sorted(store.views()) == ["main", "next", "v1"]
        store.check()


def test_one_head_is_held_alone(tmp_path: Path) -> None:
    with pmkv.open(tmp_path / "store", capacity="8MiB") as store:
        store.branch("next")
        with held(store._engine, "next") as heads:
            assert list(heads.names) == ["next"] and not heads.cuts


def test_what_a_crash_left_is_dropped() -> None:
    with pmkv.open(pool=":memory:", capacity="8MiB") as store:
        store.snapshot(f"{HELD}1")
        store.snapshot("v1")
        drop_held(store._engine)
        assert sorted(store.views()) == ["main", "v1"]
