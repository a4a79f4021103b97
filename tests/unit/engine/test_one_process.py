"""Pickling and copying what belongs to an open store says what to do instead."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

import pmkv


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
def test_advice_instead_of_a_copy(how: Callable) -> None:
    with pmkv.open(pool=":memory:", capacity="64MiB") as store:
        table = store.create_table("t", "f4")
        with store.transaction() as transaction:
            owned = [store, table, store.keyspace(1), store.branch("b"), transaction, transaction.keyspace(0)]
            for one in owned:
                with pytest.raises(TypeError, match=f"a {type(one).__name__} of an open store .* readonly=True"):
                    how(one)
