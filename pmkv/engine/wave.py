"""Many commands on keys of one keyspace at one moment: all keys are looked up in one call, then the caller decides what
is written, and that is appended as one batch.

What the caller decides by still holds when it is written, since nobody else writes meanwhile. An exception before the
append leaves nothing, and one after it takes the batch back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..index.lookup_batch import KeyBatch
from ..kernels.records import ABSENT, record_sizes
from ..kernels.waves import number_keys
from ..log.segments import Reserve
from .byte_batch import BytesArray
from .keyspace import Keyspace


class WaveFound(NamedTuple):
    """The keys of a wave as they were found, for the caller to decide by.

    numbers: of each key among the different ones.
    rows: for each different key (offset of its value in `data`, negative if absent; length; expiry; flags).
    now: unix ms, by which expiries were judged. longest: bytes of the longest value that may be written."""

    data: np.ndarray
    numbers: np.ndarray
    rows: np.ndarray
    now: int
    longest: int


class WaveRecords(NamedTuple):
    """The records that a wave writes, in this order.

    keys: places of their keys in the wave; flags: those of records. are_deletes: all of them are deletes, for which
    there is room in a full pool, too."""

    keys: np.ndarray
    values: BytesArray
    expiries: np.ndarray
    flags: np.ndarray
    are_deletes: bool


Decide = Callable[[WaveFound], WaveRecords | None]


def run_wave(
    keyspace: Keyspace, keys: BytesArray, reads: np.ndarray, may_write: bool, decide: Decide
) -> tuple[int, int]:
    """Look up `keys`, call `decide` with what was found, and append the records that it returns. Return the LSN that
    what was read depends on, and the one that what was written depends on, 0 for none.

    reads: for each key whether it has to be looked up; a key that has not, at any of its places, is found absent.
    may_write: `decide` may return records, so nobody else writes meanwhile. Raises FullError with nothing changed."""
    log, key64s = keyspace._log, np.empty(len(keys), np.uint64)
    _lease = log.lease  # `decide` reads the records that were found
    if not may_write:
        found, read = log.deferring(lambda: _find(keyspace, keys, key64s, reads))
        decide(found)
        log.wait_durable(read)
        return read, 0
    keyspace._guard_write()
    with log.locks.append, log.locks.state:
        found, read = log.deferring(lambda: _find(keyspace, keys, key64s, reads))
        records = decide(found)
        written = _append(keyspace, keys, key64s, records) if records is not None else 0
    log.wait_durable(max(read, written))
    return read, written if log.durability == "commit" else 0


def _find(keyspace: Keyspace, keys: BytesArray, key64s: np.ndarray, reads: np.ndarray) -> WaveFound:
    """Look up what is read, and set the hashes of all keys."""
    log, size = keyspace._log, key64s.size
    numbers, firsts, table = (
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.zeros(1 << (2 * size).bit_length(), np.int64),
    )
    read_key64s, read_bounds = np.empty(size, np.uint64), np.empty((size, 2), np.int64)
    arrays = reads, key64s, table, numbers, firsts, read_key64s, read_bounds
    read, count = number_keys(keys.blob, keys.bounds, *log.pool.hash_words, *arrays)
    now = log.now()
    if read:
        wanted = read_key64s[:read], keys.blob, read_bounds[:read], log.data, keyspace._owner, keyspace._verify
        rows = keyspace._locate(KeyBatch(*wanted), now, True)[1]
    if read < count:
        absent = np.full((count, 4), ABSENT, np.int64)
        if read:
            absent[:read] = rows
        rows = absent
    return WaveFound(log.data, numbers, rows, now, keyspace._part)


def _append(keyspace: Keyspace, keys: BytesArray, key64s: np.ndarray, records: WaveRecords) -> int:
    """Append records and index them; return the LSN to wait for. The caller holds locks.append and locks.state."""
    log, which = keyspace._log, records.keys
    key64s, bounds, values = key64s[which], keys.bounds[which], records.values
    total = record_sizes(bounds, values.bounds, np.empty(which.size, np.int64))
    purpose = Reserve.DELETE if records.are_deletes else Reserve.WRITE
    if total > log.frame_limit:
        return keyspace._write(BytesArray(keys.blob, bounds), values, records.expiries, records.flags, purpose)
    keyspace._guard()  # again: the view may have been deleted since

    def append() -> None:
        spans = keys.blob, bounds, values.blob, values.bounds
        keyspace._append(key64s, *spans, records.expiries, records.flags, total, purpose)
        keyspace.ordered.note(BytesArray(keys.blob, bounds))

    log.reserve([total], purpose)
    log.atomic(append)
    return keyspace._changed
