"""Bodies of row requests and replies, in any format.

A request is decoded into a `Message` of arrays and options; a reply of named arrays and a few scalars is encoded in the
format that the client accepts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pmkv_server.rest.arrow as arrow
import pmkv_server.rest.jsonrows as jsonrows
import pmkv_server.rest.npy as npy
from pmkv_server.parsing import SHORT_FLOATS

from .formats import ARROW, JSON, NPY, NPZ
from .problems import Problem, invalid

Array = NDArray[Any]
INTEGERS = ("ids", "offsets")
NAMES = ("ids", "rows", "offsets", "weights")


@dataclass(frozen=True, slots=True)
class Row:
    """The layout of a table's row: the dtype of an element and the row's shape."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(slots=True)
class Message:
    """The arrays and options of a request; `arrays` has those of ids, rows, offsets and weights that were sent."""

    arrays: dict[str, Array] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def require(self, name: str) -> Array:
        """Return an array by name. Raises Problem 400 if it was not sent."""
        if name not in self.arrays:
            raise invalid(f"the request has no '{name}'")
        return self.arrays[name]


def widened(array: Array) -> Array:
    """Return short floats as f4, and other arrays as they are."""
    return array.astype("<f4") if array.dtype.name in SHORT_FLOATS else array


def decode(body: bytes, form: str, row: Row, limit: int, stored: Row | None = None) -> Message:
    """Decode a request about one table. Raises Problem 400 or 415.

    stored: the layout of its rows if a JSON body says that they are `encoded`; None: such a table has no codec."""
    if form == JSON:
        return _from_json(body, row, stored)
    if form == ARROW:
        return Message(_from_arrow(arrow.read_arrow(body), row))
    arrays = {"ids": npy.read_npy(body)} if form == NPY else npy.read_npz(body, limit)
    unknown = arrays.keys() - set(NAMES)
    if unknown:
        raise invalid(f"the .npz has {sorted(unknown)}; it may have {', '.join(NAMES)}")
    return Message({name: _checked(array, name) for name, array in arrays.items()})


def decode_ids(body: bytes, form: str, limit: int) -> dict[str, Array]:
    """Decode a request about several tables: ids by table. JSON: {"tables": {name: ids}}; .npz: one array per table."""
    if form == NPZ:
        return {name: _checked(array, "ids") for name, array in npy.read_npz(body, limit).items()}
    if form != JSON:
        raise Problem(415, "format", f"ids of several tables travel as {JSON} or {NPZ}")
    value = jsonrows.parse(body)
    tables = value.get("tables") if isinstance(value, dict) else None
    if not isinstance(tables, dict) or value.keys() != {"tables"}:
        raise invalid('the body must be {"tables": {name: [ids]}}')
    return {name: jsonrows.to_integers(ids, f"tables.{name}") for name, ids in tables.items()}


def _from_json(body: bytes, row: Row, stored: Row | None) -> Message:
    value = jsonrows.parse(body) if body else {}
    if not isinstance(value, dict):
        raise invalid("the body must be a JSON object")
    row = stored if stored is not None and value.get("encoded") is True else row
    message = Message()
    for name, item in value.items():
        if name in INTEGERS:
            message.arrays[name] = jsonrows.to_integers(item, name)
        elif name == "rows":
            message.arrays[name] = jsonrows.to_rows(item, row.dtype, row.shape)
        elif name == "weights" and item is not None:
            message.arrays[name] = jsonrows.to_rows(item, np.dtype("<f4"), (), name)
        elif name != "weights":
            message.options[name] = item
    return message


def _from_arrow(columns: dict[str, Any], row: Row) -> dict[str, Array]:
    unknown = columns.keys() - {"ids", "rows", "weights"}
    if unknown:
        raise invalid(f"the stream has columns {sorted(unknown)}; it may have ids, rows and, for bags, weights")
    arrays: dict[str, Array] = {}
    ids = columns.get("ids")
    if ids is not None and arrow.is_lists(ids):
        ids, arrays["offsets"] = arrow.lists(ids, "ids")
    if ids is not None:
        arrays["ids"] = arrow.to_array(ids, np.dtype("<i8"), (), "ids")
    if "rows" in columns:
        arrays["rows"] = arrow.to_array(columns["rows"], row.dtype, row.shape, "rows")
    if "weights" in columns:
        arrays["weights"] = arrow.to_array(
            arrow.lists(columns["weights"], "weights")[0], np.dtype("<f4"), (), "weights"
        )
    return arrays


def _checked(array: Array, name: str) -> Array:
    """Return ids and offsets as one-dimensional int64; leave the check of rows to the table."""
    if name not in INTEGERS:
        return array
    if array.ndim != 1 or array.dtype.kind not in "iu" or not np.can_cast(array.dtype, np.int64):
        raise invalid(f"'{name}' must be a one-dimensional array of int64, not {array.dtype} of shape {array.shape}")
    return np.ascontiguousarray(array, "<i8")


def encode(form: str, arrays: Mapping[str, Array], scalars: Mapping[str, Any] | None = None) -> bytes:
    """Encode a reply. JSON holds the scalars; other formats have no place for them, so headers carry them as well.

    Short floats, which no format has, become f4, which holds all of their values."""
    arrays = {name: widened(array) for name, array in arrays.items()}
    if form == JSON:
        return jsonrows.dump({**(scalars or {}), **{name: jsonrows.jsonable(array) for name, array in arrays.items()}})
    if form == ARROW:
        return arrow.write_arrow(arrays)
    if form == NPZ:
        return npy.write_npz(arrays)
    if len(arrays) > 1:
        raise Problem(406, "format", f"{' and '.join(arrays)} are more than the one array of a .npy: accept {NPZ}")
    return npy.write_npy(next(iter(arrays.values())))
