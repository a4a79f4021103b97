"""A stand-in for pmkv.Store in plain dicts, until the engine can be used here. Durable at once, or when a test says so."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from types import SimpleNamespace

import numpy as np

from pmkv import errors


class FakeKeyspace:
    def __init__(self, store):
        self.store, self.d = store, {}

    def _live(self, key):
        e = self.d.get(key)
        if e and e[1] and e[1] <= time.time() * 1000:
            del self.d[key]
            return None
        return e

    def get(self, key):
        self.store.read()
        e = self._live(key)
        return e and e[0]

    def get_many(self, keys):
        return [self.get(k) for k in keys]

    def put(self, key, value, ttl=None, *, expire_at=None):
        if len(key) > 65536:
            raise errors.InvalidError("a key of more than 65536 bytes")
        self.store.write()
        self.d[bytes(key)] = (bytes(value), expire_at or 0)

    def put_many(self, pairs, ttl=None, *, expire_at=None):
        for k, v in pairs:
            self.put(k, v)

    def delete(self, key):
        return self.delete_many([key]) == 1

    def delete_many(self, keys):
        self.store.write()
        n = 0
        for k in keys:
            if self._live(k):
                del self.d[k]
                n += 1
        return n

    def contains_many(self, keys):
        return [self._live(k) is not None for k in keys]

    def __contains__(self, key):
        return self._live(key) is not None

    def expiry(self, key):
        e = self._live(key)
        return None if e is None else e[1]

    def expire(self, key, at):
        self.store.write()
        e = self._live(key)
        if e:
            self.d[key] = (e[0], at)
        return e is not None

    def size(self, key):
        e = self._live(key)
        return None if e is None else len(e[0])

    def entry(self, key):
        return self._live(key)

    def __len__(self):
        return sum(self._live(k) is not None for k in list(self.d))

    def clear(self):
        self.store.write()
        self.d.clear()

    def random_key(self):
        return random.choice(list(self.d)) if self.d else None

    def keys(self, cursor=0, count=10):
        names = sorted(self.d)
        part = names[cursor : cursor + count]
        return (cursor + count if cursor + count < len(names) else 0), [k for k in part if self._live(k)]


class FakeTable:
    def __init__(self, name, dtype, rows, id):
        self.name, self.rows, self.id = name, rows, id
        full = np.dtype(dtype)
        self.row_dtype = full
        self.dtype, self.shape = full.subdtype if full.subdtype else (full, ())
        self.width = full.itemsize
        self.d = {}

    def put(self, ids, rows):
        for i, r in zip(ids.tolist(), rows):
            self.d[i] = r.copy()

    def get(self, ids, default=0.0, return_found=False, fields=None):
        out = np.zeros((len(ids), *self.shape), self.dtype)
        if not self.dtype.names:
            out[...] = default
        found = np.zeros(len(ids), bool)
        for n, i in enumerate(ids.tolist()):
            if i in self.d:
                out[n] = self.d[i]
                found[n] = True
        if fields:
            packed = np.zeros(len(ids), [(f, self.dtype[f]) for f in fields])
            for f in fields:
                packed[f] = out[f]
            out = packed
        return (out, found) if return_found else out

    def contains(self, ids):
        return np.array([i in self.d for i in ids.tolist()], bool)

    def add(self, ids, rows):
        for i, r in zip(ids.tolist(), rows):
            self.d[i] = self.d.get(i, np.zeros(self.shape, self.dtype)) + r

    def delete(self, ids):
        return sum(self.d.pop(i, None) is not None for i in ids.tolist())

    def pool(self, ids, offsets, weights=None, mode="sum"):
        ends = [*offsets.tolist()[1:], len(ids)]
        return np.array([self.get(ids[a:b]).sum(0) for a, b in zip(offsets.tolist(), ends)], np.float32)

    def scan_from(self, cursor, count):
        ids = sorted(self.d)[cursor : cursor + count]
        more = cursor + count < len(self.d)
        arr = np.array(ids, np.int64)
        return (cursor + count if more else 0), arr, self.get(arr)

    def __len__(self):
        return len(self.d)


class FakeStore:
    """`manual=True`: durability advances when the test calls `sync`."""

    def __init__(self, manual=False, delay=0.0):
        self.manual, self.delay = manual, delay
        self.lsn = self.durable_lsn = 0
        self.failed = None
        self.local = threading.local()
        self.lock = threading.RLock()
        self.spaces = [FakeKeyspace(self) for _ in range(16)]
        self._tables = {}
        self.callbacks = []
        self.readonly, self.path, self.granularity, self.durability = False, None, "byte", "commit"
        self.capacity = 1 << 30
        self.full = False
        self.event = threading.Event()
        if delay:
            threading.Thread(target=self._flusher, daemon=True).start()

    def _flusher(self):
        while True:
            self.event.wait()
            self.event.clear()
            lsn = self.lsn
            time.sleep(self.delay)
            self.durable_lsn = lsn
            for c in self.callbacks:
                c()

    def write(self):
        if self.full:
            raise errors.FullError("the pool is full")
        if self.failed:
            raise errors.ReadOnlyError("a flush failed")
        self.lsn += 1
        self.read()

    def read(self):
        d = getattr(self.local, "d", None)
        if d is not None and self.lsn > self.durable_lsn:
            d.lsn = self.lsn

    def keyspace(self, n):
        return self.spaces[n]

    @contextlib.contextmanager
    def deferred(self):
        before = getattr(self.local, "d", None)
        self.local.d = SimpleNamespace(lsn=0)
        try:
            yield self.local.d
        finally:
            self.local.d = before

    @contextlib.contextmanager
    def batch(self, reserve=0):
        with self.lock:
            yield

    def flush_soon(self):
        if self.delay:
            self.event.set()
        elif not self.manual:
            self.sync()

    def sync(self):
        self.durable_lsn = self.lsn
        for c in self.callbacks:
            c()

    def fail(self, problem):
        self.failed = problem
        for c in self.callbacks:
            c()

    def on_durable(self, callback):
        self.callbacks.append(callback)

    def create_table(self, name, dtype, rows=None):
        if name in self._tables:
            raise errors.ExistsError(f"table '{name}' exists")
        self.write()
        self._tables[name] = FakeTable(name, dtype, rows, len(self._tables) + 1)

    def table(self, name):
        if name not in self._tables:
            raise errors.UnknownNameError(f"no table '{name}'")
        return self._tables[name]

    def tables(self):
        return dict(self._tables)

    def drop_table(self, name):
        self.table(name)
        del self._tables[name]

    def gather(self, wanted):
        return {n: self.table(n).get(i) for n, i in wanted.items()}

    def pool(self, wanted, mode="sum"):
        return {n: self.table(n).pool(*b, mode=mode) for n, b in wanted.items()}

    def flush_all(self):
        for s in self.spaces:
            s.clear()

    def stats(self):
        return SimpleNamespace(asdict=lambda: {"lsn": self.lsn})

    def close(self):
        pass
