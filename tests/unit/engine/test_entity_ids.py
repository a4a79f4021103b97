"""Ids of entities named by text: the hash is the documented one, keys are kept, and collisions are refused."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from pmkv.engine.engine import Engine
from pmkv.engine.entity_ids import as_keys, id_of, refuse_collisions
from pmkv.errors import InvalidError
from tests.engines import small_engine


@pytest.fixture
def engine() -> Engine:
    return small_engine(segments=32)


def test_the_hash_is_the_documented_one() -> None:
    digest = hashlib.blake2b("Zoë".encode(), digest_size=8).digest()
    assert id_of("Zoë".encode()) == int.from_bytes(digest, "little") % 2**63
    assert id_of(b"user:1") == 1304368944307141588


def test_keys_of_any_form() -> None:
    for keys in (["a", "b"], np.array(["a", "b"]), np.array([b"a", b"b"]), (b"a", "b")):
        assert as_keys(keys, "keys") == ([b"a", b"b"], (2,))
    assert as_keys([["a"], ["b"]], "keys")[1] == (2, 1)
    for keys in ([1], ["a", None], [""], [b"a\0"], [1.5]):
        with pytest.raises(InvalidError, match="is no key"):
            as_keys(keys, "keys")


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_keys_in_a_column(library: str) -> None:
    assert as_keys(pytest.importorskip(library).Series(["a", "b"]), "keys") == ([b"a", b"b"], (2,))


def test_keys_are_kept_beside(engine: Engine) -> None:
    users = engine.create_table("users", "f4")
    ids = users.ids_of([["a", "b"], ["a", "c"]])
    assert ids.shape == (2, 2) and ids[0, 0] == ids[1, 0] == id_of(b"a")
    kept = engine.table("users.keys")
    assert kept.get(ids[1]).tolist() == [b"a", b"c"] and len(kept) == 3
    assert (users.ids_of(["a", "d"], keep=False) == [id_of(b"a"), id_of(b"d")]).all() and len(kept) == 3


def test_a_collision_is_refused_and_keeps_nothing(engine: Engine) -> None:
    users = engine.create_table("users", "f4")
    users.ids_of(["a"])
    engine.table("users.keys").put([id_of(b"b")], np.array([b"other"], "S64"))
    for keep in (True, False):
        with pytest.raises(InvalidError, match=r"b'other' and b'b' have the same id"):
            users.ids_of(["c", "b"], keep)
    assert not engine.table("users.keys").contains([id_of(b"c")]).any()
    with pytest.raises(InvalidError, match="rename one"):
        refuse_collisions(np.array([5, 5]), [b"x", b"y"], np.empty(2, "S1"), np.zeros(2, bool), "keys")


def test_a_view_compares_with_its_own_keys(engine: Engine) -> None:
    engine.create_table("users", "f4").ids_of(["a"])
    engine.versions.snapshot("v")
    engine.versions.branch("b")
    frozen, branch = engine.table("users", "v"), engine.table("users", "b")
    assert frozen.ids_of(["n"]) == branch.ids_of(["n"])
    assert [len(engine.table("users.keys", view)) for view in ("v", "b", "main")] == [1, 2, 1]


def test_what_cannot_have_such_ids(engine: Engine) -> None:
    with pytest.raises(InvalidError, match="it is dense"):
        engine.create_table("dense", "f4", rows=10).ids_of(["a"])
    users = engine.create_table("users", "f4")
    with pytest.raises(InvalidError, match="create it with dtype 'S65' first"):
        users.ids_of(["x" * 65])
    engine.create_table("wide", "f4")
    engine.create_table("wide.keys", "S100")
    assert engine.table("wide").ids_of(["x" * 65]).size == 1
