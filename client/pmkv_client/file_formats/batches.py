"""Batches of columns, the names of columns, and the checksum of rows, for all file formats."""

from __future__ import annotations

import contextlib
import pickle
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]
BATCH_BYTES = 4 << 20  # rows of one batch: few enough that some of them fit in little memory
ID_COLUMN, ROW_COLUMN = "id", "row"  # of files that pmkv writes; of a table without fields the rows are one column
CHECKED_BYTES = 256 << 10  # of rows whose checksum is computed at once, in the cache of a core


# what readers of formats raise on damaged bytes: those of zip, zlib, struct, pickle, and NumPy's of its own headers
DAMAGE = (
    OSError, ValueError, TypeError, AttributeError, LookupError, EOFError, SyntaxError, NotImplementedError,
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, pickle.UnpicklingError,
)  # fmt: skip


class FileError(ValueError):
    """A file is damaged, has another layout than was asked for, or no known one."""


@contextlib.contextmanager
def damage_named(path: Path, what: str) -> Iterator[None]:
    """Raise FileError in place of what readers raise on damaged files. what: what is expected of the file."""
    try:
        yield
    except FileError as error:
        raise error if str(path) in str(error) else FileError(f"{path}: {error}") from error
    except DAMAGE as error:
        raise FileError(f"{path}: it is no {what}, or damaged: {error or type(error).__name__}") from error


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a file. ids: int64, or text; None: rows are numbered from `start` on. columns: of one length."""

    start: int
    ids: NDArray[Any] | None
    columns: Columns

    @property
    def count(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns.values())


class Source(Protocol):
    """A file to be read. count: rows in it; None: not known before it is read."""

    path: Path
    count: int | None

    def batches(self, skip: int) -> Iterator[Batch]:
        """Yield all rows but the first `skip`, in order."""
        ...


def chosen(known: Sequence[str], columns: Sequence[str] | None, id_column: str | None, path: Path) -> tuple[Any, Any]:
    """Return the name of the column of ids, None if there is none, and the names of the columns of rows.

    FileError: a name that was asked for is not there."""
    missing = [name for name in (*(columns or ()), *([id_column] if id_column else ())) if name not in known]
    if missing:
        raise FileError(f"{path}: there is no column {missing[0]!r}; there are {', '.join(known)}")
    if id_column is None and ID_COLUMN in known and ID_COLUMN not in (columns or ()):
        id_column = ID_COLUMN
    rest = list(columns) if columns else [name for name in known if name != id_column]
    if not rest:
        raise FileError(f"{path}: there is no column but that of the ids, {id_column!r}")
    return id_column, rest


def rows_per_batch(width: int) -> int:
    """Return how many rows make one batch, given the bytes of a row."""
    return max(1, BATCH_BYTES // max(1, width))


def checksum(ids: NDArray[np.int64], rows: NDArray[Any]) -> int:
    """Return a checksum of 64 bits that does not depend on the order of the rows: the sum of a hash of each of them.

    Of several batches the checksums are added, modulo 2**64. It finds accidents, it does not withstand an attack."""
    if not len(ids):
        return 0
    raw = np.ascontiguousarray(rows).reshape(len(ids), -1).view(np.uint8)
    width = raw.shape[1]
    words_per_row = -(-width // 8)
    factors = _factors(words_per_row + 1)
    total = 0
    step = max(1, CHECKED_BYTES // max(8, width))
    for start in range(0, len(ids), step):
        some = raw[start : start + step]
        if width % 8:
            some = np.pad(some, ((0, 0), (0, 8 * words_per_row - width)))
        words = some.view(np.uint64)
        mixed = words >> np.uint64(31)
        mixed ^= words
        mixed *= factors[1:]
        hashes = mixed.sum(axis=1, dtype=np.uint64)
        hashes += ids[start : start + step].view(np.uint64) * factors[0]
        hashes ^= hashes >> np.uint64(33)
        hashes *= np.uint64(0xFF51AFD7ED558CCD)
        hashes ^= hashes >> np.uint64(33)
        total += int(hashes.sum(dtype=np.uint64))
    return total % (1 << 64)


def _factors(count: int) -> NDArray[np.uint64]:
    """Return odd numbers of 64 bits, one for the id and one for each word of a row."""
    numbers = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    numbers ^= numbers >> np.uint64(30)
    numbers *= np.uint64(0xBF58476D1CE4E5B9)
    numbers ^= numbers >> np.uint64(27)
    return numbers | np.uint64(1)
