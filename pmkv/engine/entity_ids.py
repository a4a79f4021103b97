"""Ids of entities that are named by text: a hash of 63 bits, and the key kept in a table beside, to notice collisions.

The id of a key is the first 8 bytes of its BLAKE2b hash (digest size 8, no key), read as a little-endian integer
without the highest bit; a key that is text is hashed as UTF-8. The table `items` has its keys in `items.keys`, a table
of `S64` by id; create that one first, of a wider `S` dtype, for longer keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from ..errors import InvalidError
from .array_forms import as_array

KEYS_SUFFIX = ".keys"
KEPT_KEY = "S64"
ID_BITS = (1 << 63) - 1


def id_of(key: bytes) -> int:
    """Return the id of one key."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little") & ID_BITS


def as_keys(keys: Any, label: str) -> tuple[list[bytes], tuple[int, ...]]:
    """Return keys as bytes, and the shape that they came in. InvalidError: one is neither text nor bytes, or no key."""
    given = as_array(keys, label, object)  # an array of S would lose NULs
    try:
        found = [key.encode() if isinstance(key, str) else key for key in given.reshape(-1).tolist()]
    except UnicodeEncodeError as error:
        raise InvalidError(f"{label}: {error.object!r:.80} is no text that UTF-8 can hold") from error
    bad = next((key for key in found if not isinstance(key, bytes) or not key or key.endswith(b"\0")), None)
    if bad is not None or None in found:
        raise InvalidError(f"{label}: {bad!r} is no key: keys are text or bytes, not empty, and do not end with a NUL")
    return found, given.shape


def ids_of_keys(keys: Sequence[bytes]) -> np.ndarray:
    """Return the ids of keys, int64[n]."""
    return np.fromiter(map(id_of, keys), np.int64, len(keys))


def refuse_collisions(ids: np.ndarray, keys: Sequence[bytes], kept: np.ndarray, found: np.ndarray, label: str) -> None:
    """Raise InvalidError if an id is that of another key. kept: keys by id, where `found`."""
    known = dict(zip(ids[found].tolist(), kept[found].tolist()))
    for id, key in zip(ids.tolist(), keys):
        other = known.setdefault(id, key)
        if other != key:
            raise InvalidError(f"{label}: keys {other!r} and {key!r} have the same id, {id}: rename one of them")
