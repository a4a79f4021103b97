"""Values too long for one frame: written as PART frames, each with one chunk, and listed by the value of their record.

The list holds the total length (u64), then the location of every chunk (u64 each). The 16-bit check of a chunk's
location depends on its keyspace and on its number within the value.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np

from ..errors import CorruptionError
from ..kernels import location
from ..kernels.hashing import check16
from ..kernels.records import FLAG_PARTS
from .format import PART_SIZE, Kind
from .log import Log

CHECK_SHIFT = int(location.CHECK_SHIFT)
OFFSET_MASK = int(location.OFFSET_MASK)


def chunk_size(log: Log) -> int:
    """Return the length of the longest value stored within its record, which is also the length of a chunk.

    It is 1 MiB, less in pools with small segments."""
    return min(PART_SIZE, log.pool.segment_size // 4)


def write(log: Log, keyspace: int, layer: int, owner: np.uint64, value: bytes | memoryview, size: int) -> bytes:
    """Append the chunks of a value, `size` bytes each; return the list for its record.

    Outside a batch each chunk is released to the flush on its own, and other writers may append in between."""
    view = memoryview(value).cast("B")
    lengths = [min(size, len(view) - start) for start in range(0, len(view), size)]
    locations = np.empty(len(lengths), np.uint64)
    with log.locks.append:
        log.reserve(lengths)
    before = 0
    for i, length in enumerate(lengths):
        with log.locks.append:
            log.reserve([length])  # again: other writers may have used the room
            chunk = np.frombuffer(view[i * size : i * size + length], np.uint8)
            locations[i], lsn = log.atomic(lambda i=i, chunk=chunk: _append(log, keyspace, layer, owner, chunk, i))
        log.flush_piece(lsn, before)
        before = lsn
    return len(view).to_bytes(8, "little") + locations.tobytes()


def _append(
    log: Log, keyspace: int, layer: int, owner: np.uint64, chunk: np.ndarray, number: int
) -> tuple[np.uint64, int]:
    """Append chunk `number` of a value; return its location and the LSN of its frame. The caller holds locks.append."""
    with log.locks.state:
        at = log.begin(Kind.PART, chunk.size, table=keyspace, layer=layer, count=1)
    log.store(at, chunk)
    check = check16(log.data, at, chunk.size, owner, np.uint64(number))
    with log.locks.state:
        return np.uint64(at | check << CHECK_SHIFT), log.end()


def in_chunks(
    log: Log,
    keyspace: int,
    layer: int,
    owner: np.uint64,
    values: Sequence[bytes],
    expiries: np.ndarray,
    flags: np.ndarray,
    size: int,
) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Write the chunks of all values that are longer than `size`. Return what the records get: values, or lists of
    chunks, their expiries as they are, and their flags. The caller pins what is written (`ChunkPins.writing`)."""
    stored, flags = list(values), flags.copy()
    for i, value in enumerate(stored):
        if len(value) > size:
            stored[i], flags[i] = write(log, keyspace, layer, owner, value, size), flags[i] | FLAG_PARTS
    return stored, expiries, flags


def copied(log: Log, keyspace: int, layer: int, owner: np.uint64, at: int, chunks: bytes, size: int) -> bytes:
    """Return a list of chunks, which stands at offset `at`, for another record.

    The chunks are written again if a cleaner is about to move them, else they are pinned. The caller holds
    locks.append and enters the record before it releases that."""
    segments = segments_of(log, chunks)
    if segments & log.chunk_pins.emptying:
        return write(log, keyspace, layer, owner, read(log, owner, at), size)
    log.chunk_pins.name(segments)
    return chunks


def segments_of(log: Log, chunks: bytes) -> frozenset[int]:
    """Return the segments in which the chunks of such a list stand."""
    offsets = np.frombuffer(chunks, np.uint64, offset=8) & location.OFFSET_MASK
    return frozenset(((offsets.astype(np.int64) - log.pool.start(0)) // log.pool.segment_size).tolist())


def value_length(log: Log, at: int) -> int:
    """Return the length of the value whose list begins at offset `at` of the pool."""
    return int.from_bytes(log.data[at : at + 8].tobytes(), "little")


def read(log: Log, owner: np.uint64, at: int) -> bytes:
    """Return the value whose list begins at offset `at` of the pool; CorruptionError if a chunk is damaged."""
    out = io.BytesIO()  # whose bytes are no copy of what was written to it
    for chunk in _chunks(log, owner, at):
        out.write(chunk)
    return out.getvalue()


def _chunks(log: Log, owner: np.uint64, at: int) -> Iterator[np.ndarray]:
    """Yield the chunks of a value, verified."""
    length, size, data = value_length(log, at), chunk_size(log), log.data
    count = -(-length // size)
    locations = np.frombuffer(data[at + 8 : at + 8 + 8 * count].tobytes(), np.uint64)
    for i, where in enumerate(locations.tolist()):
        start, taken = where & OFFSET_MASK, min(size, length - i * size)
        if check16(data, start, taken, owner, np.uint64(i)) != where >> CHECK_SHIFT:
            raise CorruptionError(
                f"part {i} of a value, at offset {start:,} of the pool, is damaged: its check does not hold"
            )
        yield data[start : start + taken]
