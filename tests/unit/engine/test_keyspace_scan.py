"""Ordered scans: pages merged from memory and the directory, bounds, and keys that die or come meanwhile."""

from __future__ import annotations

import pytest

from pmkv.engine import keyspace_scan
from pmkv.engine.keyspace import Keyspace
from tests.engines import small_engine


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> Keyspace:
    monkeypatch.setattr(keyspace_scan, "SCAN_PAGE_KEYS", 3)
    space = small_engine().keyspaces[0]
    space.put_many({b"%02d" % i: b"v" for i in range(20)})
    return space


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("start", "stop"), [(None, None), (b"03", None), (None, b"11"), (b"03", b"11"), (b"9", None)])
def test_pages_join_to_one_ordered_scan(
    space: Keyspace, reverse: bool, start: bytes | None, stop: bytes | None
) -> None:
    keys = [b"%02d" % i for i in range(20)]
    wanted = sorted((key for key in keys if (start or b"") <= key < (stop or b"~")), reverse=reverse)
    for limit in (None, 1, 4):
        assert [key for key, _ in space.scan(b"", start, stop, reverse, limit)] == wanted[:limit]


def test_a_scan_under_way_sees_what_is_written_after_its_place(space: Keyspace) -> None:
    scan = space.scan()
    assert [next(scan)[0] for _ in range(3)] == [b"00", b"01", b"02"]
    space.put(b"055", b"new")
    space.delete(b"06")
    rest = [key for key, _ in scan]
    assert b"055" in rest and b"06" not in rest and rest == sorted(rest)


def test_a_scan_under_way_follows_a_rollback(space: Keyspace) -> None:
    engine = small_engine(segments=32)
    space = engine.keyspaces[0]
    engine.versions.snapshot("s")
    space.put_many({b"%02d" % i: b"" for i in range(9)})
    scan = space.scan()
    next(scan)
    engine.versions.rollback("s")
    space.put(b"99", b"after")
    assert [key for key, _ in scan][-1] == b"99"


def test_deleted_keys_leave_the_order_unless_they_come_back(space: Keyspace) -> None:
    assert len(list(space.scan())) == 20
    space.delete_many([b"00", b"01"])
    space.put(b"01", b"again")
    assert [key for key, _ in space.scan(limit=2)] == [b"01", b"02"]
    space.check()
