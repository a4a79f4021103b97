"""Tables of both clients have one shape, and that of the embedded table."""

from __future__ import annotations

import inspect

import pytest

import pmkv
from pmkv_client import AsyncTable, Table

METHODS = ["put", "add", "get", "contains", "delete", "pool", "scan"]
READS = ["get", "contains", "pool", "scan"]
ATTRIBUTES = ["name", "id", "dtype", "shape", "row_dtype", "width", "rows"]


def parameters(function: object) -> list[tuple[str, object]]:
    return [(one.name, one.default) for one in inspect.signature(function).parameters.values()]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
def test_arguments_are_those_of_the_embedded_table(name: str) -> None:
    """Reads may be of another view, for which the embedded table has `store.view(name).table(...)`."""
    embedded = parameters(getattr(pmkv.Table, name)) + ([("at", None)] if name in READS else [])
    assert parameters(getattr(Table, name)) == embedded
    assert parameters(getattr(AsyncTable, name)) == embedded


@pytest.mark.parametrize("name", METHODS)
def test_the_twin_is_awaited(name: str) -> None:
    method = getattr(AsyncTable, name)
    assert inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)


def test_what_describes_a_table() -> None:
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as store:
        embedded = store.create_table("items", ("f4", 2))
        for name in ATTRIBUTES:
            assert hasattr(embedded, name) and isinstance(getattr(Table, name), property)
