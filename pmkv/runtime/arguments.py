"""Checks of what callers pass: an argument that has none of the documented types is refused with words.

Names, keys and numbers come from notebooks and configuration files, so a wrong type is a mistake of the caller."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import InvalidError


def whole_number(given: Any, label: str) -> int:
    """Return an integer of Python or NumPy as an int. InvalidError: it is none. label: what it is, for the message."""
    if isinstance(given, bool | np.bool_) or not isinstance(given, int | np.integer):
        raise InvalidError(f"{label} must be an integer, not {type(given).__name__}")
    return int(given)


def check_text(given: Any, label: str) -> None:
    """Raise InvalidError unless `given` is a str."""
    if not isinstance(given, str):
        raise InvalidError(f"{label} must be a str, not {type(given).__name__}")


def check_bytes(given: Any, label: str) -> None:
    """Raise InvalidError unless `given` is bytes."""
    if not isinstance(given, bytes):
        raise InvalidError(f"{label} must be bytes, not {type(given).__name__}{encode_advice(type(given))}")


def encode_advice(kind: type) -> str:
    """Return what to do where text was given for bytes, as the end of a message; nothing for another type."""
    return ": encode text, as by .encode()" if issubclass(kind, str) else ""


def check_mapping(given: Any, label: str) -> None:
    """Raise InvalidError unless `given` is a mapping, such as a dict."""
    if not isinstance(given, Mapping):
        raise InvalidError(f"{label}, not {type(given).__name__}")


def columns_of_pairs(items: Any) -> tuple[list[Any], list[Any]]:
    """Return the keys and the values of a mapping or of an iterable of pairs. InvalidError: it is neither."""
    given = items.items() if isinstance(items, Mapping) else items
    if not isinstance(given, Iterable):
        raise InvalidError(f"items must be a mapping, or pairs of key and value, not {type(items).__name__}")
    pairs = list(given)
    try:
        return [key for key, _ in pairs], [value for _, value in pairs]
    except (TypeError, ValueError) as error:
        raise InvalidError(f"items must be a mapping, or pairs of key and value: {error}") from error


def place_of(given: Any, label: str) -> str:
    """Return a path or URL as text. InvalidError: it is none, or no file can have this name."""
    if not isinstance(given, str | os.PathLike):
        raise InvalidError(f"{label} must be a path, not {type(given).__name__}")
    text = os.fspath(given)
    if isinstance(text, bytes) or not text or "\0" in text or not _is_encodable(text):
        raise InvalidError(f"{label}: {given!r:.200} names no file: give text that is not empty and has no NUL")
    return text


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True
