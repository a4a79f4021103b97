"""A keyspace: byte keys to byte values with an optional expiry, in batches.

A write is one PUT frame (or several of one batch), entered in the index; a read is one probe and one verified look at
the records. A value longer than a part is written as PART frames first, each group durable before the next, and exists
once a small record lists them. Expiry is judged by the clock at each read, never by replay. Waiting for durability
happens in `Log.wait_durable` alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from numbers import Real

import numpy as np

from ..catalog.lmdb_catalog import Catalog
from ..errors import CorruptionError, InvalidError, PmkvError
from ..index.hash_table import check_cursor
from ..index.lookup_batch import KeyBatch, lives
from ..kernels import location
from ..kernels.probe import RECORD_HEADER, hash_keys
from ..kernels.records import (
    DAMAGED,
    FLAG_DELETE,
    FLAG_PARTS,
    gather_values,
    key_bounds,
    read_expiries,
    read_records,
    record_sizes,
    scan_records,
    value_bytes,
    write_records,
)
from ..log import large_values
from ..log.format import OWNER, Frame, Kind
from ..log.log import Log
from ..log.room import with_room
from ..log.segments import Reserve
from ..runtime.arguments import columns_of_pairs, whole_number
from ..versions.expired_records import Record
from ..versions.layer import Layer
from .byte_batch import BytesArray, as_values, check_keys, cut_batches, join
from .collection import Collection
from .deletion import delete_in_pieces
from .keyspace_scan import KeyspaceScan
from .lookup_counts import LookupCounts
from .seen_expired import SeenExpired
from .watches import KeyWatches

MAX_ARRAY_BYTES = 4 << 20  # bytes of values that `get_spans` returns in one array
RANDOM_KEYS, MAX_RANDOM_KEYS = 16, 4096  # looked at together for a random key, at first and at most
YEAR_2001_MS = 978_307_200_000  # an earlier expiry is a mistake of the unit, most likely
Pairs = Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]


def stored_expiry(at_ms: int) -> int:
    """Return an expiry as records hold it: 1 for any time before 1970, as 0 stands for none."""
    if at_ms >= 1 << 62:
        raise InvalidError(f"an expiry at {at_ms} ms is too far away: below {1 << 62}")
    return max(1, at_ms)


def columns(rows: np.ndarray) -> list[list[int]]:
    """Return offsets, lengths, expiries and flags: four lists, however many rows there are.

    A list for each row would be work for Python's garbage collector, which holds up all threads."""
    return [column.tolist() for column in rows.T]


class Keyspace(Collection):
    """One of the 16 keyspaces of a view. Safe for threads; each call is atomic (put_many up to 16 MiB, then in atomic
    pieces)."""

    def __init__(
        self,
        top: Layer,
        log: Log,
        clear: Callable[[int], int],
        verify: bool = True,
        readonly: str | None = None,
        names: Catalog | None = None,
        expire: Callable[[int, list[Record]], int] = lambda number, records: 0,
        lookups: LookupCounts | None = None,
    ) -> None:
        """clear: empties keyspace `number` by a decision, whose LSN it returns; names: the ordered directory of the
        keys that runs on file hold, of all views; expire: notes that records of keyspace `number` were seen expired,
        and returns the LSN of that; lookups: counters of what is asked for."""
        super().__init__(top, log, verify, readonly)
        self.number, self._clear = top.tree.number, clear
        self._owner = np.uint64(OWNER + self.number)
        self._part = large_values.chunk_size(log)
        self.ordered = KeyspaceScan(self, names)
        self._lookups = lookups or LookupCounts()
        self.watches, self._seen = KeyWatches(self), SeenExpired(self, expire)

    def stand_on(self, top: Layer) -> None:
        """Read and write another top layer, and mark the watches of keys that are not what they were. The caller holds
        locks.state."""
        before = self.stack.top
        super().stand_on(top)
        if self.watches and top is not before:
            if top.tree is not before.tree:  # memory went back to what is durable
                self.watches.mark_all()
            elif top.below is not before:
                self.watches.mark_exchanged()

    def leave(self, why: PmkvError, lsn: int) -> None:
        """Release the layers; later uses raise `why`. Decision `lsn` dropped it. The caller holds locks.state."""
        self.watches.mark_all()
        super().leave(why, lsn)

    def _exchanged(self) -> None:
        self.ordered.reset()

    # reading

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, or None."""
        _lease = self._log.lease
        at, length, _, flags = self._look([key])[0]
        return self._value(at, length, flags) if at >= 0 else None

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of `keys` at one moment, None for absent keys."""
        _lease = self._log.lease
        at, length, _, flags = columns(self._rows(keys))
        return [self._value(*row) if row[0] >= 0 else None for row in zip(at, length, flags)]

    def get_spans(self, keys: Sequence[bytes]) -> BytesArray | None:
        """Return the values as `get_many` does, concatenated in one array; None if they are too long for that."""
        _lease = self._log.lease
        rows = self._rows(keys)
        total = value_bytes(rows, FLAG_PARTS)
        if not 0 <= total <= MAX_ARRAY_BYTES:
            return None
        blob, bounds = np.empty(total, np.uint8), np.empty((len(rows), 2), np.int64)
        return BytesArray(blob, bounds, gather_values(self._log.data, rows, blob, bounds))

    def entry(self, key: bytes) -> tuple[bytes, int] | None:
        """Return (value, expiry in unix ms or 0), or None."""
        _lease = self._log.lease
        at, length, expiry, flags = self._look([key])[0]
        return (self._value(at, length, flags), expiry) if at >= 0 else None

    def expiry(self, key: bytes) -> int | None:
        """Return the expiry of a key in unix ms: 0 for never, None if there is no such key."""
        at, _, expiry, _ = self._look([key])[0]
        return expiry if at >= 0 else None

    def size(self, key: bytes) -> int | None:
        """Return the length of a value, without reading it; None if there is no such key."""
        return self.sizes([key])[0]

    def sizes(self, keys: Sequence[bytes]) -> list[int | None]:
        """Return the lengths of several values at one moment."""
        _lease = self._log.lease
        return [
            None if at < 0 else large_values.value_length(self._log, at) if flags & FLAG_PARTS else length
            for at, length, _, flags in zip(*columns(self._rows(keys)))
        ]

    def contains_many(self, keys: Sequence[bytes]) -> list[bool]:
        """Return for each key whether it exists."""
        return (self._rows(keys)[:, 0] >= 0).tolist()

    def __contains__(self, key: bytes) -> bool:
        return self._look([key])[0][0] >= 0

    def _look(self, keys: Sequence[bytes], asked: bool = True, counted: bool = True) -> list[list[int]]:
        """Return for each key [offset of its value (negative: absent), length, expiry, flags].

        asked: the caller tells somebody which of these keys are absent, so those that have expired stay so."""
        return self._locate(keys, self._log.now(), asked, counted)[1].tolist()

    def _rows(self, keys: Sequence[bytes]) -> np.ndarray:
        return self._locate(keys, self._log.now(), True, True)[1]

    def _locate(
        self, keys: Sequence[bytes] | KeyBatch, now: int, asked: bool = False, counted: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return locations, and for each [offset of its value (negative: absent or expired by `now`), length, expiry,
        flags]."""
        _lease = self._log.lease
        wanted = keys if isinstance(keys, KeyBatch) else self._wanted(keys)
        found, lsn, data = self._look_up(wanted)
        out = np.empty((found.size + 1, 4), np.int64)
        rows = out[:-1]
        if read_records(data, found, self._owner, now, self._verify, out):
            self._complain(found, rows)
        if self.stack.tree.expired.newest > now:
            lsn = max(lsn, self._seen.hide(found, rows))
        expired, alive, _, _ = out[-1].tolist()
        if asked and expired:
            lsn = max(lsn, self._seen.note(wanted.key64s, found, rows))
        if counted:
            self._lookups.hits += alive
            self._lookups.misses += found.size - alive
        self._log.wait_durable(lsn)
        return found, rows

    def _wanted(self, keys: Sequence[bytes]) -> KeyBatch:
        blob, bounds = join(keys)
        return KeyBatch(self._hash(blob, bounds), blob, bounds, self._log.data, self._owner, self._verify)

    def records(self, keys: Sequence[bytes], shown: bool = False) -> list[tuple[int, int | None]]:
        """Return for each key the location of its newest record, pending or not (0: absent or deleted), and its expiry
        (0: none; None: absent or expired). shown: of the version that this thread reads. The caller holds
        locks.state."""
        stack = self._shown() if shown else self.stack
        found, out = stack.find(self._wanted(keys)), np.empty((len(keys), 4), np.int64)
        read_records(self._log.data, found, self._owner, self._log.now(), False, out)
        self._seen.hide(found, out)
        records = np.where(lives(found), found, 0).tolist()
        return [(record, row[2] if row[0] >= 0 else None) for record, row in zip(records, out.tolist(), strict=True)]

    def hash_of(self, key: bytes) -> int:
        """Return the hash of a key by which indexes know it."""
        return int(self._hash(*join([key]))[0])

    def _hash(self, blob: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        key64s = np.empty(len(bounds), np.uint64)
        hash_keys(blob, bounds, *self._log.pool.hash_words, key64s)
        return key64s

    def _complain(self, found: np.ndarray, out: np.ndarray) -> None:
        if self._log.failed:  # what was found was pending when the flush failed, and is gone
            raise self._log.failed
        bad = found[np.flatnonzero(out[:, 0] == DAMAGED)[0]]
        raise CorruptionError(
            f"a record of keyspace {self.number} at offset {int(bad & location.OFFSET_MASK):,} of the pool is damaged: "
            "its check does not hold; restore a backup, or write the key again"
        )

    def _value(self, at: int, length: int, flags: int) -> bytes:
        if flags & FLAG_PARTS:
            return large_values.read(self._log, self._owner, at)
        return self._log.data[at : at + length].tobytes()

    # writing

    def put(self, key: bytes, value: bytes, ttl: float | None = None, *, expire_at: int | None = None) -> None:
        """Store one value. ttl: seconds from now; expire_at: unix ms."""
        self._put([key], [value], self.deadline(ttl, expire_at))

    def put_many(self, items: Pairs, ttl: float | None = None, *, expire_at: int | None = None) -> None:
        """Store many values; of equal keys the last wins. Atomic up to 16 MiB; more is applied in atomic pieces, in
        order."""
        keys, values = columns_of_pairs(items)
        if keys:
            self._put(keys, values, self.deadline(ttl, expire_at))

    def deadline(self, ttl: float | None, expire_at: int | None) -> int:
        if ttl is not None:
            if expire_at is not None:
                raise InvalidError(f"ttl={ttl!r} and expire_at={expire_at!r}: give one of them")
            if isinstance(ttl, bool) or not isinstance(ttl, Real) or not 0 < ttl < 1e15:
                raise InvalidError(f"ttl={ttl!r}: seconds above 0, or None for no expiry")
            expire_at = self._log.now() + max(1, round(ttl * 1000))
        if expire_at is None:
            return 0
        if isinstance(expire_at, bool) or not isinstance(expire_at, int | np.integer):
            raise InvalidError(f"expire_at={expire_at!r}: an integer, milliseconds since 1970, or None for no expiry")
        if expire_at < YEAR_2001_MS <= self._log.now():
            raise InvalidError(
                f"expire_at={expire_at}: milliseconds since 1970 are expected, and this is before 2001; "
                "multiply seconds by 1000, or call delete"
            )
        return stored_expiry(int(expire_at))

    def is_future(self, expiry: int) -> bool:
        """Return whether an entry with this expiry (0: none) is still alive."""
        return expiry == 0 or expiry > self._log.now()

    def check_item(self, key: bytes, value: bytes) -> None:
        """Raise InvalidError if the key or the value cannot be stored."""
        check_keys([key])
        as_values([value])

    def _put(self, keys: list[bytes], values: list[bytes], expiry: int) -> None:
        self.put_entries(keys, values, [expiry] * len(keys))

    def put_entries(
        self,
        keys: Sequence[bytes],
        values: Sequence[bytes],
        expiries: Sequence[int],
        kinds: np.ndarray | None = None,
    ) -> None:
        """Store many values, each with its own expiry (unix ms, 0 for none). kinds: flags of the records, those of
        strings by default."""
        self._guard_write()
        check_keys(keys)
        values, has_large = as_values(values, self._part)
        flags = np.zeros(len(keys), np.int64) if kinds is None else kinds.astype(np.int64)
        times, log = np.asarray(expiries, np.int64), self._log

        def write() -> int:
            if not has_large:
                return self._write(keys, values, times, flags)
            with log.chunk_pins.writing():
                where = log, self.number, self.layer, self._owner
                return self._write(keys, *large_values.in_chunks(*where, values, times, flags, self._part))

        log.wait_durable(with_room(log, write))

    def _write(
        self,
        keys: Sequence[bytes],
        values: Sequence[bytes],
        expiries: np.ndarray,
        flags: np.ndarray,
        purpose: Reserve = Reserve.WRITE,
    ) -> int:
        """Append records and index them; return the LSN to wait for."""
        key_blob, key_bounds = join(keys)
        value_blob, value_bounds = join(values)
        key64s = self._hash(key_blob, key_bounds)
        sizes = np.empty(len(keys), np.int64)
        total = record_sizes(key_bounds, value_bounds, sizes)
        limit = self._log.frame_limit
        with self._log.locks.append, self._log.locks.state:
            self._guard()  # again: the view may have been deleted since

            def append(a: int, b: int, length: int) -> None:
                spans = key_blob, key_bounds[a:b], value_blob, value_bounds[a:b]
                self._append(key64s[a:b], *spans, expiries[a:b], flags[a:b], length, purpose)
                self.ordered.note(keys[a:b])

            first = self._log.appender.next_body(limit)
            if total <= first:  # nearly every call, and a server's tick: one frame needs no batch
                self._log.reserve([total], purpose)
                self._log.atomic(lambda: append(0, len(keys), total))
            else:
                for batch in cut_batches(sizes, limit, first):
                    self._log.reserve([length for _, _, length in batch], purpose)
                    self._log.run_batch(lambda batch=batch: [append(*part) for part in batch])
            return self._changed

    def _append(
        self,
        key64s: np.ndarray,
        keys: np.ndarray,
        key_bounds: np.ndarray,
        values: np.ndarray,
        value_bounds: np.ndarray,
        expiries: np.ndarray,
        flags: np.ndarray,
        length: int,
        purpose: Reserve,
    ) -> None:
        """Append and index one frame."""
        log, locations = self._log, np.empty(key64s.size, np.uint64)
        at = log.begin(Kind.PUT, length, table=self.number, layer=self.layer, count=key64s.size, purpose=purpose)
        write_records(log.data, at, self._owner, keys, key_bounds, values, value_bounds, expiries, flags, locations)
        self._enter(key64s, keys, key_bounds, locations, expiries, log.end())

    def _enter(
        self,
        key64s: np.ndarray,
        keys: np.ndarray,
        bounds: np.ndarray,
        locations: np.ndarray,
        expiries: np.ndarray,
        lsn: int,
    ) -> None:
        data, counter = self._log.data, self.stack.top.memtable_for_write().counter
        wanted = KeyBatch(key64s, keys, bounds, data, self._owner, self._verify)
        before = self.stack.enter(wanted, locations, lsn)
        if self.watches:
            self.watches.mark(key64s)
        if np.count_nonzero(expiries):  # a delete has none
            counter.expiries.add([expiry for expiry in expiries.tolist() if expiry])
        if counter.expiries:
            read_expiries(data, before, gone := np.empty(before.size, np.int64))
            counter.gone.add([expiry for expiry in gone.tolist() if expiry])

    def delete(self, key: bytes) -> bool:
        """Delete a key; return whether it existed."""
        return self.delete_many([key]) == 1

    def delete_many(self, keys: Sequence[bytes]) -> int:
        """Delete keys; return how many of them existed. Atomic up to 8 MiB of keys. Possible in a full pool, too, of
        which space comes back between short pieces."""
        self._guard_write()
        every = BytesArray(*join(keys))

        def delete_present(start: int, stop: int) -> int:
            wanted = self._wanted(every[start:stop])
            found, rows = self._locate(wanted, self._log.now(), asked=True)
            there = np.flatnonzero(rows[:, 0] >= 0)
            if there.size > 1:  # a key that is named twice has one location; no loop in Python, which others wait for
                there = there[np.unique(found.take(there), return_index=True)[1]]
            if there.size:
                present = BytesArray(wanted.blob, wanted.bounds.take(there, axis=0))
                none = np.zeros(there.size, np.int64)
                empty = BytesArray(wanted.blob, np.zeros((there.size, 2), np.int64))
                self._log.wait_durable(self._write(present, empty, none, none + FLAG_DELETE, Reserve.DELETE))
            return there.size

        sizes = every.bounds[:, 1] - every.bounds[:, 0] + RECORD_HEADER
        return delete_in_pieces(self._log, sizes, delete_present)

    def expire(self, key: bytes, at_ms: int) -> bool:
        """Give a key another expiry (unix ms; 0: none). Return False if there is no such key."""
        self._guard_write()
        deadline = stored_expiry(at_ms) if whole_number(at_ms, "an expiry, unix ms,") else 0

        def write_again() -> bool:
            at, length, _, flags = self._look([key], counted=False)[0]
            if at >= 0:
                raw = self._log.data[at : at + length].tobytes()  # of a value in parts: their list
                if flags & FLAG_PARTS:
                    raw = large_values.copied(self._log, self.number, self.layer, self._owner, at, raw, self._part)
                self._log.wait_durable(self._write([key], [raw], np.array([deadline]), np.array([flags])))
            return at >= 0

        is_there, lsn = with_room(self._log, lambda: self._log.exclusively(write_again), frees=True)
        self._log.wait_durable(lsn)
        return is_there

    def clear(self) -> None:
        """Remove every key (FLUSHDB) by one frame, whatever their number."""
        self._guard_write()
        self._guard()

        def clear() -> int:
            with self._log.locks.append, self._log.locks.state:
                self._guard()
                return self._clear(self.number)

        self._log.wait_durable(with_room(self._log, clear, frees=True))

    # looking around

    def __len__(self) -> int:
        """Count the living keys exactly. Keys written since the last count are looked up once."""
        self._guard()
        self.stack.count_ahead(self._log.locks.state)
        with self._log.locks.state:
            self._guard()
            count, lsn = self.stack.count(self._log.now()) - self._seen.count(), self._changed
        self._log.wait_durable(lsn)
        return count

    def keys(self, cursor: int = 0, count: int = 10) -> tuple[int, list[bytes]]:
        """Look at about `count` (at least one) keys from a cursor, 0 to begin; return the next cursor, 0 at the end,
        and those that exist. The order is none in particular. As in Redis, a key that exists all the time is returned
        at least once."""
        check_cursor(cursor)
        count = max(1, whole_number(count, "count"))  # no progress is no scan
        self._guard()
        with self._log.locks.state:
            self._guard()
            lsn = self._changed  # so that keys are looked up in the state that is walked
            (cursor, names), _ = self._log.deferring(lambda: self._walk(cursor, count), lsn)
        self._log.wait_durable(lsn)
        return cursor % (1 << 64), names

    def _walk(self, cursor: int, left: int) -> tuple[int, list[bytes]]:
        """Look at about `left` keys; return the next cursor, and those that exist. The caller holds locks.state."""
        names: list[bytes] = []
        for places, _, found in self.stack.walk(cursor):
            take = places.size
            if take > left:
                # keys of one slot hash stay together: the next cursor begins after it
                take = int(np.searchsorted(places, places[left - 1], "right"))
            left -= take  # also for keys that have expired: nobody writes meanwhile
            names += self._living(self._names(found[:take]))
            cursor = int(places[take - 1]) + 1 if take else cursor
            if left <= 0:
                return cursor, names
        return 0, names

    def _living(self, keys: list[bytes]) -> list[bytes]:
        """Return the keys that exist."""
        return list(compress(keys, (self._locate(keys, self._log.now())[1][:, 0] >= 0).tolist())) if keys else []

    def _names(self, found: np.ndarray) -> list[bytes]:
        """Return the keys of the records at these locations, each once, dead ones too."""
        out, bounds = np.empty((found.size, 4), np.int64), np.empty((found.size, 2), np.int64)
        if read_records(self._log.data, found, self._owner, 0, self._verify, out):  # whose key it was is not known
            self._complain(found, out)
        key_bounds(self._log.data, found, bounds)
        return list(dict.fromkeys(self._log.data[start:stop].tobytes() for start, stop in bounds.tolist()))

    def random_key(self) -> bytes | None:
        """Return any key; None if the keyspace is empty."""
        start = secrets.randbits(64)
        for cursor in (start, 0):
            count = RANDOM_KEYS
            while True:
                cursor, names = self.keys(cursor, count)
                if names:
                    return secrets.choice(names)
                if not cursor:
                    break
                count = min(2 * count, MAX_RANDOM_KEYS)  # many have expired
        return None

    def scan(
        self,
        prefix: bytes = b"",
        start: bytes | None = None,
        stop: bytes | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """(key, value) in the order of keys' bytes; start inclusive, stop exclusive. Goes on in chunks: what is written
        meanwhile behind the place reached is seen."""
        for chunk in self.ordered.chunks(prefix, start, stop, reverse, limit):
            yield from ((key, value) for key, value, _ in chunk)

    # recovery and care

    def replay(self, frame: Frame) -> None:
        """Index the records of a PUT frame, whose checksum was verified."""
        bounds, expiries = np.empty((frame.count, 2), np.int64), np.empty(frame.count, np.int64)
        locations, data = np.empty(frame.count, np.uint64), self._log.data
        end = scan_records(data, frame.body, frame.body + frame.length, self._owner, bounds, expiries, locations)
        if end != frame.body + frame.length:
            raise CorruptionError(
                f"frame {frame.lsn} at offset {frame.offset:,} does not hold {frame.count} records of layer "
                f"{self.layer}"
            )
        self._enter(self._hash(data, bounds), data, bounds, locations, expiries, frame.lsn)
        if self.ordered.is_built:  # the store follows another process, and was scanned
            self.ordered.note([data[start:stop].tobytes() for start, stop in bounds.tolist()])

    def check(self) -> None:
        """Assert that index, counts and expiries agree with the records."""
        with self._log.locks.state:
            self.stack.check()
            expiries: list[int] = []
            for _, _, found in self.stack.walk():
                names = self._names(found)
                locations = self.stack.find(self._wanted(names))
                out = np.empty((len(names), 4), np.int64)
                if read_records(self._log.data, locations, self._owner, 0, True, out):
                    self._complain(locations, out)
                for at, length, _, flags in out[(out[:, 3] & FLAG_PARTS) != 0].tolist():
                    self._value(at, length, flags)  # every part of it
                expiries += out[out[:, 0] >= 0, 2].tolist()
            assert len(expiries) == self.stack.count(0), "the keys counted are not those that are there"
            for now in sorted(set(expiries))[:: max(1, len(expiries) // 16)]:
                there = sum(expiry == 0 or expiry > now for expiry in expiries)
                assert there == self.stack.count(now), f"the expiries counted at {now} are not those of the records"
            self.ordered.check()
