"""What every catalog promises, in DRAM or in LMDB."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from pmkv.catalog.key_directory import Key, entry
from pmkv.catalog.lmdb_catalog import Catalog, LmdbCatalog, MemoryCatalog
from pmkv.errors import InvalidError

POOL = bytes(range(16))
Make = Callable[[], Catalog]


@pytest.fixture(params=["memory", "lmdb"])
def make(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    made: list[Catalog] = []

    def one() -> Catalog:
        path: Path = tmp_path_factory.mktemp("catalog")
        made.append(MemoryCatalog(POOL) if request.param == "memory" else LmdbCatalog(path, POOL))
        return made[-1]

    yield one
    for catalog in made:
        catalog.close()


def word_of(key: bytes) -> int:
    """Few, so that long keys collide."""
    return xxh3_64_intdigest(key) % 3


def full(keyspace: int, keys: Iterable[bytes]) -> list[Key]:
    return [(keyspace, key, word_of(key)) for key in keys]


def resolver(live: Iterable[bytes]) -> Callable[[bytes, int], list[bytes]]:
    live = list(live)
    return lambda prefix, word: [
        key for key in live if len(key) > 500 and key.startswith(prefix) and word_of(key) == word
    ]


def test_nothing_is_there_before_the_first_commit(make: Make) -> None:
    catalog = make()
    assert catalog.load() is None
    assert catalog.keys(0, b"", None, False, 10, resolver([])) == []
    catalog.check()


def test_a_state_is_replaced_whole(make: Make) -> None:
    catalog = make()
    assert catalog.commit({"tables": {"items": [1, 2**63, None]}, "y": 7}) == 1
    assert catalog.load() == {"tables": {"items": [1, 2**63, None]}, "y": 7}
    assert catalog.commit({"y": 8, "heads": "main"}) == 2
    assert catalog.load() == {"y": 8, "heads": "main"}
    catalog.commit({})
    assert catalog.load() == {}
    catalog.check()


@pytest.mark.parametrize("name", ["", "a\0b", "n" * 512])
def test_a_name_that_cannot_be_kept_is_refused_and_nothing_changes(make: Make, name: str) -> None:
    catalog = make()
    catalog.commit({"y": 1})
    with pytest.raises(InvalidError):
        catalog.commit({"y": 2, name: 3}, full(0, [b"k"]))
    assert catalog.load() == {"y": 1}
    assert catalog.keys(0, b"", None, False, 10, resolver([])) == []


def test_an_error_among_the_keys_changes_nothing(make: Make) -> None:
    catalog = make()
    catalog.commit({"y": 1}, full(0, [b"a"]))
    with pytest.raises(InvalidError):
        catalog.commit({"y": 2}, full(0, [b"b"]) + full(255, [b"c"]), full(0, [b"a"]))
    assert catalog.load() == {"y": 1}
    assert catalog.keys(0, b"", None, False, 10, resolver([])) == [b"a"]
    assert catalog.commit({"y": 3}) == 2


def test_keys_come_in_the_order_of_their_bytes(make: Make) -> None:
    catalog = make()
    keys = [b"", b"\0", b"a", b"a\0", b"a\xff", b"b" * 499, b"b" * 500, b"b" * 500 + b"\0" * 8, b"b" * 501]
    keys.append(b"\xff" * 600)
    catalog.commit({}, full(3, reversed(keys)) + full(2, [b"other"]) + full(4, [b""]))
    assert catalog.keys(3, b"", None, False, 100, resolver(keys)) == keys
    assert catalog.keys(3, b"", None, True, 100, resolver(keys)) == keys[::-1]
    assert catalog.keys(3, b"a", b"a\xff", False, 100, resolver(keys)) == [b"a", b"a\0"]
    assert catalog.keys(3, b"a", b"a\xff", True, 1, resolver(keys))[:1] == [b"a\0"]
    assert catalog.keys(3, b"x", b"a", False, 100, resolver(keys)) == []
    catalog.check()


def test_who_is_dead_and_new_at_once_is_there(make: Make) -> None:
    catalog = make()
    catalog.commit({}, full(0, [b"a", b"b"]))
    catalog.commit({}, full(0, [b"a"]), full(0, [b"a", b"b", b"never"]))
    assert catalog.keys(0, b"", None, False, 10, resolver([])) == [b"a"]
    catalog.check()


def test_long_keys_that_died_resolve_to_nothing_and_the_rest_is_found(make: Make) -> None:
    catalog = make()
    dead, live = [b"p" * 500 + b"%d" % one for one in range(300)], [b"q%d" % one for one in range(5)]
    catalog.commit({}, full(0, dead + live))
    assert catalog.keys(0, b"", None, False, 2, resolver([]))[:2] == [b"q0", b"q1"]
    assert catalog.keys(0, b"", None, True, 9, resolver([])) == live[::-1]


def page_through(catalog: Catalog, low: bytes, high: bytes | None, reverse: bool, count: int, live: set[bytes]) -> list:
    keys: list[bytes] = []
    while some := catalog.keys(1, low, high, reverse, count, resolver(live)):
        keys += some
        low, high = (low, some[-1]) if reverse else (some[-1] + b"\0", high)
    return keys


stems = st.sampled_from([b"", b"p" * 498, b"p" * 500, b"p" * 507, b"q" * 600, b"\xff" * 500])
some_keys = st.builds(bytes.__add__, stems, st.binary(max_size=4))
changes = st.lists(st.tuples(st.sets(some_keys, max_size=25), st.sets(some_keys, max_size=8)), max_size=4)


@pytest.mark.parametrize("kind", ["memory", "lmdb"])
def test_the_directory_is_a_set_in_order(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    @settings(max_examples=40, deadline=None)
    @given(changes, some_keys, st.none() | some_keys, st.booleans(), st.integers(1, 30))
    def explore(commits: list, low: bytes, high: bytes | None, reverse: bool, count: int) -> None:
        path = tmp_path_factory.mktemp("set")
        catalog = MemoryCatalog(POOL) if kind == "memory" else LmdbCatalog(path, POOL)
        live: set[bytes] = set()
        for new, dead in commits:
            live = live - dead | new
            held = {entry(*key) for key in full(1, live)}
            dead = [key for key in full(1, dead) if entry(*key) not in held]
            catalog.commit({"n": len(new)}, full(1, sorted(new, reverse=True)), dead)
        expected = sorted((key for key in live if key >= low and (high is None or key < high)), reverse=reverse)
        assert page_through(catalog, low, high, reverse, count, live) == expected
        catalog.check()
        catalog.close()

    explore()


@pytest.mark.parametrize("calls", [1, 2, 40])
def test_a_commit_may_be_given_up(make: Make, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pmkv.runtime.scheduling.MAX_TURN_S", 0.0)
    catalog, left = make(), calls
    catalog.commit({"n": 1}, full(0, [b"a", b"b"]))

    def pause() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise InterruptedError

    many = [b"%05d" % i for i in range(15_000)]
    if calls == 1 or isinstance(catalog, LmdbCatalog):  # the one in DRAM asks once, at the beginning
        with pytest.raises(InterruptedError):
            catalog.commit({"n": 2}, full(0, many), full(0, [b"a"]), pause)
        assert catalog.load() == {"n": 1}
        assert catalog.keys(0, b"", None, False, 10, resolver([])) == [b"a", b"b"]
    assert catalog.commit({"n": 3}, full(0, [b"c"]), full(0, [b"b"])) == 2
    assert catalog.keys(0, b"", None, False, 10, resolver([])) == [b"a", b"c"]
    catalog.check()
