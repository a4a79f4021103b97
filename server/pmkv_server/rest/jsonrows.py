"""Conversion of rows to JSON and back.

Numbers are JSON numbers (int64 in full). NaN and the infinities become null; null becomes NaN. A row of a structured
table is an object. Text is a string. Bytes that are not UTF-8 are {"base64": "..."}, and so is text with an unpaired
surrogate, which UTF-8 cannot hold. Complex numbers are [real, imaginary]. datetime64 is ISO 8601, timedelta64 the count
of its unit, NaT null.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

import pmkv_server.rest.json_pieces as json_pieces

from .problems import invalid

NATIVE = {"b1", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"}  # dtypes that orjson writes directly
LEAVES_PER_PIECE = 1 << 16  # numbers converted in one call, which keeps the interpreter
OPTIONS = orjson.OPT_SERIALIZE_NUMPY
LEAVES: dict[str, set[type]] = {"b": {bool}, "i": {int}, "u": {int}, "f": {int, float, type(None)}}

Array = NDArray[Any]


def parse(body: bytes) -> Any:
    try:
        return json_pieces.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"the body is not JSON: {error}") from None


def dump(value: Any) -> bytes:
    return json_pieces.dumps(value, OPTIONS)


# Arrays to JSON


def jsonable(array: Array) -> Any:
    """Return an object that `dump` writes as this array."""
    dtype = array.dtype
    if dtype.str[1:] in NATIVE:
        return np.ascontiguousarray(array, dtype.newbyteorder("="))
    if dtype.names is not None:
        return _structs(array)
    if dtype.kind == "c":
        return jsonable(np.stack([array.real, array.imag], axis=-1))
    if dtype.kind in "Mm":
        shown = np.datetime_as_string(array) if dtype.kind == "M" else array.view("i8")
        return np.where(np.isnat(array), None, shown.astype(object)).tolist()  # type: ignore[call-overload]
    if dtype.kind in "SV":
        return _nested(array, _bytes_to_json)
    if dtype.kind == "U":
        return _nested(array, _text_to_json)
    return np.asarray(array, "f8") if dtype.kind == "f" else array.tolist()


def _structs(array: Array) -> Any:
    names = array.dtype.names or ()
    flat = array.reshape(-1)
    columns = [_items(jsonable(flat[name])) for name in names]
    objects = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    return _fold(objects, array.shape)


def _items(column: Any) -> list[Any]:
    """Return one entry for each row. NumPy scalars stay, as orjson writes float32 with fewer digits than Python
    floats."""
    return list(column)


def _nested(array: Array, convert: Callable[[Any], Any]) -> Any:
    try:
        items = array.reshape(-1).tolist()
    except (ValueError, SystemError) as error:  # a number beyond Unicode, in rows that came as they are
        raise invalid(f"a row is no text, and so none of JSON: {error}; ask for application/x-npy") from None
    return _fold([convert(item) for item in items], array.shape)


def _fold(flat: list[Any], shape: tuple[int, ...]) -> Any:
    """Return a flat list as nested lists of this shape."""
    for width in reversed(shape[1:]):
        flat = [flat[start : start + width] for start in range(0, len(flat), width)] if width else [[]] * shape[0]
    return flat


def _bytes_to_json(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _text_to_json(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:
        return {"base64": base64.b64encode(value.encode(errors="surrogatepass")).decode()}
    return value


# JSON to arrays


def to_integers(value: Any, what: str) -> NDArray[np.int64]:
    """Return a JSON list of integers as one-dimensional int64. Raises Problem 400."""
    if not isinstance(value, list):
        raise invalid(f"'{what}' must be a list of integers")
    array = np.empty(len(value), np.int64)
    try:
        for at in range(0, len(value), LEAVES_PER_PIECE):
            piece = value[at : at + LEAVES_PER_PIECE]
            if set(map(type, piece)) != {int}:
                raise invalid(f"'{what}' must be a list of integers, and {_first_not(piece, int)} is not one")
            array[at : at + len(piece)] = piece
        return array
    except OverflowError:
        raise invalid(f"'{what}' holds a number beyond int64") from None


def _first_not(items: list[Any], kind: type) -> str:
    return dump(next(item for item in items if type(item) is not kind)).decode()[:40]


def to_rows(value: Any, dtype: np.dtype[Any], shape: tuple[int, ...], what: str = "rows") -> Array:
    """Return a JSON list of n rows as (n, *shape) of `dtype`. Raises Problem 400, which names the misfit."""
    if not isinstance(value, list):
        raise invalid(f"'{what}' must be a list with one row per id")
    if dtype.kind in "biuf" and dtype.names is None:
        return _in_pieces(value, dtype, shape, what)
    if dtype.kind == "c":
        parts = _in_pieces(value, np.dtype(f"f{dtype.itemsize // 2}"), (*shape, 2), what)
        return np.ascontiguousarray(parts).view(dtype.newbyteorder("=")).reshape(len(value), *shape)
    flat = _flatten(value, (len(value), *shape), what)
    return _elements(flat, dtype, what).reshape(len(value), *shape)


def _in_pieces(value: list[Any], dtype: np.dtype[Any], shape: tuple[int, ...], what: str) -> Array:
    """Return rows of numbers. Many are converted a piece at a time: NumPy keeps the interpreter meanwhile."""
    count = max(1, LEAVES_PER_PIECE // max(1, math.prod(shape)))
    if len(value) <= count:
        return _numbers(value, dtype, (len(value), *shape), what)
    array = np.empty((len(value), *shape), dtype)
    for at in range(0, len(value), count):
        piece = value[at : at + count]
        array[at : at + count] = _numbers(piece, dtype, (len(piece), *shape), what)
    return array


def _numbers(value: list[Any], dtype: np.dtype[Any], shape: tuple[int, ...], what: str) -> Array:
    try:
        natural = np.array(value) if math.prod(shape) else np.empty(shape, dtype)
        _check_leaves(value, natural.dtype, dtype, what)
        with np.errstate(over="raise"):
            array = np.array(value, dtype) if natural.dtype.kind == "O" or dtype.kind in "iu" else natural.astype(dtype)
    except (ValueError, TypeError, OverflowError, FloatingPointError) as error:
        raise invalid(f"'{what}' cannot be an array of {dtype}: {error}") from None
    array = array if math.prod(shape) else natural
    if array.shape != shape:
        raise invalid(f"'{what}' have shape {array.shape}; {shape} is required")
    return array


def _check_leaves(value: list[Any], natural: np.dtype[Any], dtype: np.dtype[Any], what: str) -> None:
    """Raise Problem 400 for values that NumPy would convert silently: 1.5 to 1, "1.5" to 1.5, true to 1.

    The leaves are inspected one by one only if the dtype that NumPy finds does not decide: float64 may come from
    integers beyond int64, and object from a null.
    """
    if natural.kind in {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}[dtype.kind]:
        return
    alien = _leaf_types(value) - LEAVES[dtype.kind]
    if alien:
        raise invalid(f"'{what}' hold {', '.join(sorted(kind.__name__ for kind in alien))}; {dtype} is required")


def _leaf_types(value: Any) -> set[type]:
    if isinstance(value, list):
        return set().union(*map(_leaf_types, value))
    return {type(value)}


def _flatten(value: Any, shape: tuple[int, ...], what: str) -> list[Any]:
    if not isinstance(value, list) or len(value) != shape[0]:
        raise invalid(f"'{what}' must be lists of shape {shape}")
    if len(shape) == 1:
        return value
    return [item for part in value for item in _flatten(part, shape[1:], what)]


def _elements(flat: list[Any], dtype: np.dtype[Any], what: str) -> Array:
    if dtype.names is not None:
        return _objects(flat, dtype, what)
    try:
        if dtype.kind in "SV":
            return fixed([_bytes_of_json(item) for item in flat], dtype)
        if dtype.kind in "Mm":
            return np.array(["NaT" if item is None else item for item in flat], dtype)
        return fixed([_text_of_json(item) for item in flat], dtype)
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        raise invalid(f"'{what}' are no array of {dtype}: {error}") from None


def _objects(flat: list[Any], dtype: np.dtype[Any], what: str) -> Array:
    array = np.zeros(len(flat), dtype)
    names = set(dtype.names or ())
    for item in flat:
        if not isinstance(item, dict) or item.keys() != names:
            raise invalid(f"each of '{what}' must be an object with the fields {sorted(names)}")
    for name in names:
        field = dtype[name]
        element, shape = field.subdtype or (field, ())
        array[name] = to_rows([item[name] for item in flat], element, shape, f"{what}.{name}")
    return array


def fixed(items: list[Any], dtype: np.dtype[Any]) -> Array:
    """Return text or bytes as an array. Raises ValueError for items that are too long, which NumPy would cut off."""
    kind, width = (str, dtype.itemsize // 4) if dtype.kind == "U" else (bytes, dtype.itemsize)
    for item in items:
        if not isinstance(item, kind) or len(item) > width:
            raise ValueError(f"{str(item)[:40]!r} is not {kind.__name__} of length {width} or less")
    return np.array(items, dtype)


def _bytes_of_json(item: Any) -> bytes:
    if isinstance(item, dict) and item.keys() == {"base64"}:
        return from_base64(item["base64"])
    return bytes(item.encode())


def _text_of_json(item: Any) -> Any:
    if isinstance(item, dict) and item.keys() == {"base64"}:
        return from_base64(item["base64"]).decode(errors="surrogatepass")
    return item


def from_base64(text: Any) -> bytes:
    """Decode base64 of either alphabet, padded or not. Raises Problem 400."""
    try:
        plain = text.encode("ascii").translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, AttributeError, UnicodeEncodeError):
        raise invalid(f"{str(text)[:40]!r} is not base64") from None
