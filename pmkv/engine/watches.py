"""Watched keys: a transaction is told when anyone writes one of them, even if the key ends as it began.

A write marks the watches of its keys in the same hold of locks.state as its insert. Where a decision exchanges the
layers of a keyspace (clear, promote, rollback, undo), a watch is marked if the key has another record afterwards. So
nothing that happens in the background, such as a checkpoint, decides whether a transaction conflicts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .keyspace import Keyspace


class Watch:
    """The keys that one transaction watches, of any keyspaces. `written`: the first of them that anyone wrote."""

    def __init__(self) -> None:
        self.written: bytes | None = None
        self.keys: dict[tuple[Keyspace, bytes], tuple[int, int | None]] = {}  # each as `records` had it

    def add(self, keyspace: Keyspace, key: bytes) -> None:
        """Watch one more key from now on."""
        if (keyspace, key) not in self.keys:
            keyspace.watches.add(key, self)

    def changed_key(self) -> bytes | None:
        """Return a key that was written or has expired since it was added, None for none. Such a key reveals what may
        be pending, so the result depends on all that was appended. The caller holds locks.append and locks.state,
        within `deferred`."""
        expired = (key for (space, key), (_, at) in self.keys.items() if at is not None and not space.is_future(at))
        changed = self.written if self.written is not None else next(expired, None)
        if changed is not None:
            log = next(iter(self.keys))[0]._log
            log.wait_durable(log.lsn)
        return changed

    def release(self) -> None:
        """Forget all keys."""
        for keyspace, key in self.keys:
            keyspace.watches.remove(key, self)
        self.keys, self.written = {}, None


class KeyWatches:
    """The watches on keys of one keyspace. It is true if there are any, so that a write asks no more than that."""

    def __init__(self, keyspace: Keyspace) -> None:
        self._keyspace = keyspace
        self._by_hash: dict[int, dict[tuple[bytes, Watch], None]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_hash)

    def add(self, key: bytes, watch: Watch) -> None:
        """Mark the watch as soon as this key is written, or at once if readers are still shown the state of the key
        before a promote or rollback that is pending. It must be removed again."""
        keyspace, key64 = self._keyspace, self._keyspace.hash_of(key)
        keyspace._guard()
        with keyspace._log.locks.state:
            keyspace._guard()
            watch.keys[keyspace, key] = record = keyspace.records([key])[0]
            self._by_hash.setdefault(key64, {})[key, watch] = None
            if keyspace.records([key], shown=True)[0] != record:
                watch.written = key

    def remove(self, key: bytes, watch: Watch) -> None:
        """Undo `add`."""
        key64 = self._keyspace.hash_of(key)
        with self._keyspace._log.locks.state:
            entries = self._by_hash.get(key64, {})
            entries.pop((key, watch), None)
            if not entries:
                self._by_hash.pop(key64, None)

    def mark(self, key64s: np.ndarray) -> None:
        """Mark the watches of keys with these hashes: they were written. The caller holds locks.state."""
        for key, watch in self._of(key64s):
            watch.written = key

    def mark_expired(self, key64s: np.ndarray) -> None:
        """Mark the watches of keys with these hashes that were alive when the watch began: somebody saw that they have
        expired. The caller holds locks.state."""
        for key, watch in self._of(key64s):
            if watch.keys[self._keyspace, key][1] is not None:
                watch.written = key

    def _of(self, key64s: np.ndarray) -> Iterator[tuple[bytes, Watch]]:
        """Yield the watched keys with these hashes, and who watches them."""
        if key64s.size < len(self._by_hash):
            hits = [key64 for key64 in key64s.tolist() if key64 in self._by_hash]
        else:
            watched = np.fromiter(self._by_hash, np.uint64, len(self._by_hash))
            hits = watched[np.isin(watched, key64s)].tolist()
        for key64 in hits:
            yield from self._by_hash[key64]

    def mark_all(self) -> None:
        """Mark every watch: the keyspace is gone, or was rebuilt. The caller holds locks.state."""
        for entries in self._by_hash.values():
            for key, watch in entries:
                watch.written = key

    def mark_exchanged(self) -> None:
        """Mark the watches of keys that have another record than when the watch began. A key that was absent or had
        expired then, and is or has so now, was not changed. The caller holds locks.state."""
        entries = [entry for some in self._by_hash.values() for entry in some]
        records = self._keyspace.records([key for key, _ in entries])
        for (key, watch), (record, expiry) in zip(entries, records, strict=True):
            before, alive_until = watch.keys[self._keyspace, key]
            if record != before and (expiry is not None or alive_until is not None):
                watch.written = key
