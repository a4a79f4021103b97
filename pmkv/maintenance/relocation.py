"""Move the records of one layer out of segments that are to be emptied, while the layer's runs are written anew.

Each record is verified by its location's check before it is copied, so that damage never gets a fresh checksum; the
cleaner has verified the frames of the segments before. All versions are kept: what a run names is moved, whichever
view needs it.
"""

from __future__ import annotations

import numpy as np
import orjson

from ..errors import CorruptionError
from ..kernels.hashing import check16
from ..kernels.location import CHECK_SHIFT, DELETE, OFFSET_MASK
from ..kernels.records import RECORD_HEADER, mark_lists, move_records, move_rows, verify_records
from ..kernels.runs import key64s_of, weigh
from ..log.format import Flag
from ..log.large_values import chunk_size
from ..log.log import Log
from ..versions.layer import LayerTree

MASK, SHIFT = int(OFFSET_MASK), int(CHECK_SHIFT)


class Relocation:
    """Moves the records of one layer. Called as a function, it is what `write_run` takes as `relocate`.

    emptied: bool for each segment; chunks: old and new locations of the chunks that this pass has moved, as several
    records may list one; lists: whether any record may list chunks."""

    def __init__(
        self, log: Log, tree: LayerTree, layer: int, lsn: int, emptied: np.ndarray, chunks: dict[int, int], lists: bool
    ) -> None:
        self._log, self._tree, self._owner = log, tree, np.uint64(tree.owner)
        self._frame = {"table": tree.number, "layer": layer, "lsn": lsn}
        self._emptied, self._chunks, self._lists = emptied, chunks, lists and tree.keyed
        self._chunk_size, self._is_declared = chunk_size(log), tree.keyed
        self.records = 0  # moved

    def __call__(
        self, slot_hashes: np.ndarray, locations: np.ndarray, keep: np.ndarray, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Move what must be moved of a window of entries; return their locations and the weights of segments then."""
        kept = np.flatnonzero(keep)
        hit = self._are_emptied(locations[kept])
        lists = self._listing(locations, kept)
        which = kept[hit & ~np.isin(kept, lists)] if lists.size else kept[hit]
        changed = np.concatenate([which, lists])
        if not changed.size:
            return locations, weights
        after = locations.copy()
        if self._tree.keyed:
            after[which] = self._move_records(locations[which])
            after[lists] = np.array([self._move_list(int(one)) for one in locations[lists].tolist()], np.uint64)
        else:
            after[which] = self._move_rows(slot_hashes[which], locations[which])
        self.records += changed.size
        return after, self._weighed(locations[changed], after[changed], weights)

    def _segments(self, locations: np.ndarray) -> np.ndarray:
        pool = self._log.pool
        return ((locations & OFFSET_MASK).astype(np.int64) - pool.start(0)) // pool.segment_size

    def _are_emptied(self, locations: np.ndarray) -> np.ndarray:
        segments = self._segments(locations)
        last = self._emptied.size - 1  # at the time of the choice; the pool may have grown
        return (segments >= 0) & (segments <= last) & self._emptied[segments.clip(0, last)]

    def _weighed(self, before: np.ndarray, after: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the weights with records at other places."""
        pool, none, all_ = self._log.pool, np.zeros(before.size, np.uint8), np.ones(before.size, np.uint8)
        if weights.size < pool.count:  # the pool has grown
            weights = np.pad(weights, (0, pool.count - weights.size))
        rest = self._tree.width, pool.start(0), pool.segment_size, self._chunk_size, weights
        weigh(self._log.data, before, all_, none, *rest)
        weigh(self._log.data, after, none, all_, *rest)
        return weights

    # rows

    def _move_rows(self, slot_hashes: np.ndarray, locations: np.ndarray) -> np.ndarray:
        after = np.full(locations.size, DELETE)  # the place of a deleted id tells nothing
        live = np.flatnonzero((locations & DELETE) == 0)
        if live.size:
            self._declare()
        key64s_of(slot_hashes, np.uint64(self._tree.seed), ids := np.empty(slot_hashes.size, np.uint64))
        width, first = self._tree.width, 0
        while first < live.size:
            step = max(1, self._log.mover.next_body(self._log.frame_limit) // (8 + width))
            some = live[first : first + step]
            old, moved = locations[some], np.empty(some.size, np.uint64)

            def fill(at: int, some: np.ndarray = some, old: np.ndarray = old, moved: np.ndarray = moved) -> None:
                bad = move_rows(self._log.data, old, ids[some], width, self._owner, at, moved)
                if bad >= 0:
                    raise self._damage(int(old[bad]))

            self._log.mover.append(0, (8 + width) * some.size, fill, count=some.size, **self._frame)
            after[some], first = moved, first + step
        return after

    def _declare(self) -> None:
        """Write what the table is before its first rows: the frame that created it may be gone one day, and a salvage
        needs it."""
        if not self._is_declared:
            self._is_declared = True
            body = orjson.dumps(self._tree.decision)
            self._append(Flag.DECISION, body, 0)

    # records

    def _listing(self, locations: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Return which of the entries are records with lists of chunks that must be written anew."""
        if not self._lists:
            return kept[:0]
        mark_lists(self._log.data, locations[kept], found := np.empty(kept.size, np.uint8))
        lists = [i for i in kept[np.flatnonzero(found)].tolist() if not locations[i] & DELETE]
        return np.array([i for i in lists if self._is_touched(int(locations[i]))], np.int64)

    def _is_touched(self, where: int) -> bool:
        """Return whether a record or one of its chunks stands in a segment to be emptied."""
        chunks = self._list_at(where)[2]
        return bool(self._are_emptied(np.append(chunks, np.uint64(where & MASK))).any())

    def _list_at(self, where: int) -> tuple[bytes, bytes, np.ndarray]:
        """Return a record's bytes up to its value, its value and the chunks that this lists. CorruptionError: it is
        damaged."""
        at, data = where & MASK, self._log.data
        size = np.empty(1, np.int64)
        if verify_records(data, np.array([where], np.uint64), self._owner, size) >= 0:
            raise self._damage(where)
        word = int.from_bytes(data[at : at + 8].tobytes(), "little")
        value = at + RECORD_HEADER + (word >> 32 & 0xFFFFFF)
        stop = value + (word & 0xFFFFFFFF)
        head, raw = data[at:value].tobytes(), data[value:stop].tobytes()
        return head, raw, np.frombuffer(raw, np.uint64, offset=8)

    def _move_list(self, where: int) -> int:
        """Move the chunks of a value that must be moved, then write its record with the list of them anew."""
        head, raw, chunks = self._list_at(where)
        length = int.from_bytes(raw[:8], "little")
        new = chunks.copy()
        for i in np.flatnonzero(self._are_emptied(chunks)).tolist():
            taken = min(self._chunk_size, length - i * self._chunk_size)
            new[i] = self._move_chunk(int(chunks[i]), i, taken)
        record = head + raw[:8] + new.tobytes()
        at = self._append(Flag.RECORDS, record.ljust(-(-len(record) // 8) * 8, b"\0"), 1)
        return at | int(check16(self._log.data, at, len(record), self._owner, np.uint64(0))) << SHIFT

    def _move_chunk(self, where: int, number: int, length: int) -> int:
        """Copy one chunk, unless this pass did already; return its new location."""
        if where not in self._chunks:
            at, data = where & MASK, self._log.data
            if check16(data, at, length, self._owner, np.uint64(number)) != where >> SHIFT:
                raise self._damage(where)
            new = self._append(Flag.CHUNK, data[at : at + length].tobytes(), 1)
            self._chunks[where] = new | (where >> SHIFT) << SHIFT
        return self._chunks[where]

    def _append(self, flag: Flag, body: bytes, count: int) -> int:
        """Append a frame with this body; return the offset of the body."""
        placed: list[int] = []

        def fill(at: int) -> None:
            self._log.data[at : at + len(body)] = memoryview(body)
            placed.append(at)

        self._log.mover.append(flag, len(body), fill, count=count, **self._frame)
        return placed[0]

    def _move_records(self, locations: np.ndarray) -> np.ndarray:
        sizes, after = np.empty(locations.size, np.int64), np.empty(locations.size, np.uint64)
        bad = verify_records(self._log.data, locations, self._owner, sizes)
        if bad >= 0:
            raise self._damage(int(locations[bad]))
        ends, first = np.cumsum(sizes), 0
        while first < locations.size:
            start = int(ends[first] - sizes[first])
            limit = self._log.mover.next_body(self._log.frame_limit)
            stop = max(first + 1, int(np.searchsorted(ends, start + limit, "right")))
            old, lengths, moved = locations[first:stop], sizes[first:stop], np.empty(stop - first, np.uint64)

            def fill(at: int, old: np.ndarray = old, lengths: np.ndarray = lengths, moved: np.ndarray = moved) -> None:
                move_records(self._log.data, old, lengths, at, moved)

            self._log.mover.append(Flag.RECORDS, int(ends[stop - 1]) - start, fill, count=moved.size, **self._frame)
            after[first:stop], first = moved, stop
        return after

    def _damage(self, where: int) -> CorruptionError:
        return CorruptionError(
            f"what {self._tree.name} has at offset {where & MASK:,} of the pool is damaged: its check does not hold. "
            "So it was not moved, and its segment is not freed; restore a backup, or write it again"
        )
