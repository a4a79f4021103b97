"""A publisher to be killed: reloads table `a` on a branch and promotes it, while others write table `b` and keyspace 0.

    python -m tests.property.publisher DIR

Prints what was acknowledged, a line each: `a`, `b` or `k`, and a number. Table `a` holds its number in every row, `b`
in as many rows as are written together, keyspace 0 in the key of this name.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from itertools import count

import numpy as np

import pmkv

ROWS = 200
A, B = np.arange(ROWS), 7  # ids of `a`; rows of `b` that are written together
CAPACITY = 64 << 20


def say(kind: str, number: int) -> None:
    os.write(1, f"{kind} {number}\n".encode())


def filled(number: int, rows: int = ROWS) -> np.ndarray:
    return np.full((rows, 4), number, "f4")


def publish(store: pmkv.Store, number: int) -> None:
    """Load, and promote; sometimes go back, and change one's mind."""
    store.snapshot("before")
    branch = store.branch("next")
    for part in np.array_split(A, 4):
        branch.table("a").put(part, filled(number, part.size))
    store.promote("next")
    if number % 3 == 0:
        store.rollback("before", tables=["a"])
        store.undo()
    store.delete_view("next")
    store.delete_view("before")
    say("a", number)


def write_rows(store: pmkv.Store, number: int) -> None:
    ids = np.arange(number * B, number * B + B)
    store.table("b").put(ids, filled(number, B))
    say("b", number)


def write_key(store: pmkv.Store, number: int) -> None:
    store.put(b"%d" % number, b"%d" % number)
    say("k", number)


def run(work: Callable[[pmkv.Store, int], None], store: pmkv.Store, first: int) -> None:
    try:
        for number in count(first):
            work(store, number)
    except BaseException as error:
        os.write(2, f"{work.__name__}: {error!r}\n".encode())
        os._exit(3)


def main(folder: str) -> None:
    store = pmkv.open(folder, capacity=CAPACITY)
    if "a" not in store.tables():
        for name in "ab":
            store.create_table(name, ("f4", 4))
    for name in ("before", "next"):
        if name in store.views():
            store.delete_view(name)
    firsts = int(store.table("a").get([0])[0, 0]) + 1, len(store.table("b")) // B, len(store.keyspace(0))
    say("opened", 0)
    for work, first in zip((publish, write_rows, write_key), firsts):
        threading.Thread(target=run, args=(work, store, first)).start()


if __name__ == "__main__":
    main(sys.argv[1])
