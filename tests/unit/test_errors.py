"""One tree of errors, raised and caught by the names that users see."""

from __future__ import annotations

import inspect

import pytest

import pmkv
from pmkv import errors

ALL = [value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == errors.__name__]


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_every_error_is_of_the_tree_and_says_when(error: type[Exception]) -> None:
    assert issubclass(error, pmkv.PmkvError)
    assert error.__doc__ and error.__doc__.strip().endswith((".", "on purpose."))
    assert getattr(pmkv, error.__name__) is error, "reachable as pmkv.<name>"


def test_who_knows_only_python_catches_them_too() -> None:
    with pmkv.open(pool=":memory:", capacity=4 << 20) as store:
        with pytest.raises(LookupError, match="there is no table 'items'"):
            store.table("items")
        with pytest.raises(ValueError, match="there is no keyspace 16"):
            store.keyspace(16)


def test_the_package_has_no_other_errors() -> None:
    with pytest.raises(AttributeError, match="NoSuchError"):
        _ = pmkv.NoSuchError
    with pytest.raises(AttributeError, match="nothing"):
        _ = pmkv.nothing
