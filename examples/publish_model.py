"""Publish a model, then a better one, then a bad one, and go back, while a reader is served all the time.

    python examples/publish_model.py [--data DIR]

Trains three small click models, publishes each on a branch (tables of embeddings, the dense part in a keyspace of its
own) and promotes it. The reader scores clicks that no model has seen, measures its own latency, and checks that each
batch is wholly of one model; sessions are written to keyspace 0 meanwhile. Ends with 1 if a batch was mixed, a session
lost, or the bad model not found out.
"""

from __future__ import annotations

import argparse
import collections
import io
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clicks
import numpy as np
from clicks import Clicks, Model

import pmkv

USERS, ITEMS, SHOWN = 4_000, 1_500, 260_000
EARLY, LATE = 130_000, 220_000  # clicks that the first model learns from, and the second
ROW = np.dtype([("model", "<i4"), ("embedding", "<f4", (clicks.WIDTH,))])  # every row says which model it is of
TABLES = ["users", "items"]
DENSE = 1  # the number of the keyspace that holds the dense part: keyspace 0 is for what changes all the time
BATCH, JUDGED = 512, 200_000  # pairs that are scored together; pairs that a served model is judged by
TOLERATED = 0.03  # of AUC lost
SWITCH = 0.0002  # seconds a thread keeps the interpreter: here reader and publisher share one


# Publishing


def create(view: Any) -> None:
    for name in TABLES:
        view.create_table(name, ROW)


def load(view: Any, number: int, model: Model) -> None:
    """Write a whole model into a view: a branch is written like a store."""
    for name, embeddings in zip(TABLES, (model.users, model.items)):
        rows = np.zeros(len(embeddings), ROW)
        rows["model"], rows["embedding"] = number, embeddings
        view.table(name).put(np.arange(len(rows)), rows)
    blob = io.BytesIO()
    np.savez(blob, number=number, weights=model.dense)
    view.keyspace(DENSE).put(b"dense", blob.getvalue())


@dataclass(frozen=True)
class Dense:
    """The dense part of a model, with the number of the model."""

    number: int
    weights: np.ndarray

    @classmethod
    def read(cls, view: Any) -> Dense:
        found = np.load(io.BytesIO(view.keyspace(DENSE).get(b"dense")))
        return cls(int(found["number"]), found["weights"])


# Serving


def models_in(rows: dict[str, np.ndarray]) -> set[int]:
    """Return the numbers of the models that the rows of a batch belong to; more than one is a fault."""
    return {int(number) for some in rows.values() for number in np.unique(some["model"])}


class Inference:
    """Scores pairs by the rows of a view, and by a dense part that is read again when the model changes."""

    def __init__(self, view: Any) -> None:
        self.view, self.dense = view, Dense.read(view)
        self.mixed = 0

    def score(self, batch: Clicks) -> tuple[int, np.ndarray]:
        """Return the number of the model and its score of each pair."""
        while True:
            rows = self.view.gather({"users": batch.users, "items": batch.items})  # one call, one version
            numbers = models_in(rows)
            self.mixed += len(numbers) > 1
            if numbers == {self.dense.number}:
                users, items = (rows[name]["embedding"] for name in TABLES)
                return self.dense.number, clicks.score(users, items, batch.times, self.dense.weights)
            self.dense = Dense.read(self.view)


def judge(view: Any, shown: Clicks) -> float:
    """Return the AUC of the model in a view."""
    return clicks.auc(Inference(view).score(shown)[1], shown.clicked)


class Worker(threading.Thread):
    """A thread that repeats `step` until it is stopped. `stop` raises the exception that ended it, if any."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._stopped, self._error = threading.Event(), None

    def run(self) -> None:
        try:
            while not self._stopped.is_set():
                self.step()
        except Exception as error:
            self._error = error

    def step(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        self._stopped.set()
        self.join()
        if self._error is not None:
            raise self._error


class Reader(Worker):
    """A reader that scores batch after batch, and records latencies and how well the scores fit the clicks."""

    def __init__(self, view: Any, shown: Clicks) -> None:
        super().__init__()
        self.inference, self.shown, self.random = Inference(view), shown, np.random.default_rng(9)
        self.latencies: list[float] = []
        self.served: collections.Counter[int] = collections.Counter()
        self.current = self.inference.dense.number
        self._recent: collections.deque[tuple[np.ndarray, np.ndarray]] = collections.deque(maxlen=JUDGED // BATCH)

    def step(self) -> None:
        batch = self.shown.some(self.random.integers(0, len(self.shown), BATCH))
        start = time.perf_counter()
        number, scores = self.inference.score(batch)
        self.latencies.append((time.perf_counter() - start) * 1e3)
        if number != self.current:
            self.current = number
            self._recent.clear()
        self.served[number] += 1
        self._recent.append((scores, batch.clicked))
        time.sleep(0.0005)  # others ask, too

    def recent_auc(self, number: int) -> float:
        """Of the last pairs, once enough were scored by this model."""
        while self.current != number or len(self._recent) < JUDGED // BATCH:
            if not self.is_alive():
                self.stop()
            time.sleep(0.005)
        scores, clicked = (np.concatenate(part) for part in zip(*list(self._recent)))
        return clicks.auc(scores, clicked)


class Sessions(Worker):
    """Writes a session after another into keyspace 0."""

    def __init__(self, store: pmkv.Store) -> None:
        super().__init__()
        self.store, self.count = store, 0

    def step(self) -> None:
        self.store.put(b"session:%d" % self.count, b"user %d" % (self.count % USERS), ttl=3600)
        self.count += 1
        time.sleep(0.002)

    def lost(self) -> int:
        values = self.store.get_many([b"session:%d" % i for i in range(self.count)])
        return sum(value is None for value in values)


# The story


def milliseconds(call: Callable[[], Any]) -> str:
    start = time.perf_counter()
    call()
    return f"{(time.perf_counter() - start) * 1e3:.2f} ms"


def train_all() -> tuple[list[Model], Clicks]:
    """Two models, a bad one, and clicks that none of them has seen."""
    random = np.random.default_rng(2)
    shown = clicks.generate(random, USERS, ITEMS, SHOWN)
    early, late, rest = shown.some(slice(EARLY)), shown.some(slice(LATE)), shown.some(slice(LATE, None))
    return [clicks.train(some, USERS, ITEMS) for some in (early, late, late.shuffled(random))], rest


def publish_first(store: pmkv.Store, model: Model) -> None:
    branch = store.branch("model-1")
    create(branch)
    print(f"model 1: loaded into a branch in {milliseconds(lambda: load(branch, 1, model))},", end=" ")
    print(f"promoted in {milliseconds(lambda: store.promote('model-1'))}; served from now on")


def publish_better(store: pmkv.Store, model: Model, reader: Reader, shown: Clicks) -> bool:
    """As it should be done: judged on the branch before it is promoted."""
    store.snapshot("before-2")
    branch = store.branch("model-2")
    taken = milliseconds(lambda: load(branch, 2, model))
    print(f"model 2: loaded into a branch in {taken}; served meanwhile: model {reader.current}")
    before, after = judge(store, shown), judge(branch, shown)
    print(f"         shadow-read on {len(shown):,} pairs: AUC {after:.3f}, of what is served {before:.3f}")
    if after < before - TOLERATED:
        return False
    print(f"         promoted in {milliseconds(lambda: store.promote('model-2'))};", end=" ")
    print(f"AUC of what is served: {reader.recent_auc(2):.3f}")
    return True


def publish_bad(store: pmkv.Store, model: Model, reader: Reader) -> bool:
    """As it should not be done. Was it found out?"""
    good = reader.recent_auc(2)
    load(store.branch("model-3"), 3, model)
    print(f"model 3, of shuffled clicks: promoted unseen in {milliseconds(lambda: store.promote('model-3'))};", end=" ")
    bad = reader.recent_auc(3)
    print(f"AUC of what is served: {bad:.3f}")
    if bad >= good - TOLERATED:
        return False
    print(f"         undone in {milliseconds(store.undo)};", end=" ")
    print(f"AUC of what is served: {reader.recent_auc(2):.3f}")
    return True


def go_back_further(store: pmkv.Store, reader: Reader) -> None:
    """To a snapshot, tables and the dense part alone; and back again."""
    back = milliseconds(lambda: store.rollback("before-2", tables=TABLES, keys=[DENSE]))
    print(f"model 1: rolled back to in {back}; AUC of what is served: {reader.recent_auc(1):.3f}", end="; ")
    print(f"undone in {milliseconds(store.undo)}: {reader.recent_auc(2):.3f}")


def tell(reader: Reader, sessions: Sessions) -> Iterator[str]:
    """What the two saw."""
    p50, p99 = np.percentile(reader.latencies, [50, 99])
    served = ", ".join(f"{count:,} of model {number}" for number, count in sorted(reader.served.items()))
    yield f"reader: {len(reader.latencies):,} batches of {BATCH} pairs ({served});"
    yield f"        p50 {p50:.2f} ms, p99 {p99:.2f} ms, slowest {max(reader.latencies):.1f} ms;"
    yield f"        {reader.inference.mixed} batches of more than one model"
    yield f"sessions: {sessions.count:,} written meanwhile, {sessions.lost()} lost"


def run(folder: Path) -> int:
    sys.setswitchinterval(SWITCH)
    start = time.perf_counter()
    models, shown = train_all()
    print(f"three models of {USERS + ITEMS:,} rows trained in {time.perf_counter() - start:.1f} s")
    with pmkv.open(folder, capacity="1GiB") as store:
        publish_first(store, models[0])
        reader, sessions = Reader(store, shown), Sessions(store)
        reader.start()
        sessions.start()
        found_out = publish_better(store, models[1], reader, shown) and publish_bad(store, models[2], reader)
        if found_out:
            go_back_further(store, reader)
        reader.stop()
        sessions.stop()
        print(*tell(reader, sessions), sep="\n")
        print("views:", ", ".join(f"{info.name} ({info.kind})" for info in store.views().values()))
        return 0 if found_out and not reader.inference.mixed and not sessions.lost() else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="an empty folder to keep the store in; a temporary one if not given")
    folder = parser.parse_args().data
    if folder is not None:
        return run(folder)
    with tempfile.TemporaryDirectory(prefix="pmkv-publish-") as temporary:
        return run(Path(temporary) / "data")


if __name__ == "__main__":
    sys.exit(main())
