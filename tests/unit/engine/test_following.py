"""Following: after each refresh a readonly engine shows what its writer shows, whatever was done meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pmkv.catalog.lmdb_catalog import MemoryCatalog
from pmkv.engine import following
from pmkv.engine.engine import Engine
from pmkv.engine.following import Follower
from pmkv.engine.keyspace_scan import KeyspaceScan
from pmkv.engine.recovery import Replayer
from pmkv.errors import (
    ConflictError,
    CorruptionError,
    ExistsError,
    FlushError,
    InvalidError,
    PmkvError,
    UnknownNameError,
    UnknownViewError,
)
from pmkv.index.run_files import MemoryRunFiles
from pmkv.log import replay as replay_module
from pmkv.log.segments import Pool
from tests.engines import Clock, small_medium


class Place:
    """A directory with a pool of this length, and the commits that a reader said to stand on."""

    def __init__(self, length: int) -> None:
        self.length, self.stands_on = length, [-1]

    def pool_length(self) -> int:
        return self.length

    def stand_on(self, commit: int) -> None:
        self.stands_on.append(commit)

    def leave_earlier(self) -> None:
        del self.stands_on[:-1]


Pair = tuple[Engine, Engine, Follower]


def make_pair(segments: int = 64) -> Pair:
    """A writer and a reader on one medium and one catalog, as two processes have one file."""
    medium, clock = small_medium(segments), Clock()
    pool = Pool.create(medium, 16 << 10)
    files = MemoryCatalog(pool.pool_id), MemoryRunFiles(pool.pool_id)
    writer = Engine(pool, files=files, now=clock, rows=1 << 20)
    reader = Engine(Pool.load(medium), readonly=True, files=files, now=clock, rows=1 << 20)
    return writer, reader, Follower(reader, Place(medium.data.size))


def shown(engine: Engine) -> dict[str, Any]:
    """Everything that every view shows."""
    found: dict[str, Any] = {"views": sorted(engine.views()), "switches": engine.main_changes[0]}
    for name in engine.views():
        view = engine.view(name)
        found[name] = {number: dict(view.keyspace(number).scan()) for number in (0, 3)}
        for table in view.tables.values():
            rows = {int(one): row.tobytes() for ids, rows in table.scan() for one, row in zip(ids, rows)}
            found[name][table.name] = len(table), table.get(np.arange(8)).tobytes(), rows
    return found


class History:
    """Draws what a writer does, from a seed."""

    def __init__(self, writer: Engine, seed: int) -> None:
        self.engine, self.random = writer, random.Random(seed)

    def step(self) -> None:
        names = [one for one in dir(self) if one.startswith("do_")]
        try:
            getattr(self, self.random.choice(names))()
        except (ConflictError, ExistsError, InvalidError, UnknownNameError, UnknownViewError):
            pass

    def _head(self) -> str:
        return self.random.choice([name for name, one in self.engine.views().items() if one.kind in ("main", "branch")])

    def do_create(self) -> None:
        codec = self.random.choice([None, "int8"])
        self.engine.create_table(self.random.choice("ab"), ("f4", 4), None, self._head(), codec=codec)

    def do_drop(self) -> None:
        if self.random.randrange(4) == 0:
            self.engine.drop_table(self.random.choice("ab"), self._head())

    def do_rows(self) -> None:
        table = self.engine.table(self.random.choice("ab"), self._head())
        ids = [self.random.randrange(10) for _ in range(self.random.randrange(1, 300))]
        table.put(ids, np.random.default_rng(self.random.randrange(99)).random((len(ids), 4)))

    def do_delete_rows(self) -> None:
        self.engine.table(self.random.choice("ab"), self._head()).delete([self.random.randrange(10)])

    def do_keys(self) -> None:
        keys = self.engine.view(self._head()).keyspace(self.random.choice((0, 3)))
        keys.put_many({b"%d" % self.random.randrange(30): self.random.randbytes(20) for _ in range(9)})
        keys.delete(b"%d" % self.random.randrange(30))

    def do_batch(self) -> None:
        with self.engine.batch():
            self.do_keys()
            self.do_rows()

    def do_clear(self) -> None:
        if self.random.randrange(4) == 0:
            self.engine.clear_all(self._head())

    def do_snapshot(self) -> None:
        self.engine.versions.snapshot(self.random.choice("xy"), self._head())

    def do_branch(self) -> None:
        self.engine.versions.branch(self.random.choice("vw"), self.random.choice(sorted(self.engine.views())))

    def do_promote(self) -> None:
        self.engine.versions.promote(self.random.choice("vw"), force=True)

    def do_rollback(self) -> None:
        self.engine.versions.rollback(self.random.choice("xy"), None, None, "main")

    def do_undo(self) -> None:
        self.engine.versions.undo(True)

    def do_delete_view(self) -> None:
        self.engine.versions.delete_view(self.random.choice("vwxy"))

    def do_checkpoint(self) -> None:
        list(self.engine.maintenance.checkpoint())

    def do_compact(self) -> None:
        list(self.engine.maintenance.compact())


@pytest.mark.parametrize("seed", range(12))
def test_a_reader_shows_what_its_writer_shows(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "APPLIED_AT_ONCE", 50)
    monkeypatch.setattr(following, "REBUILT_AFTER_SECONDS", -1.0 if seed % 2 else 1e9)
    monkeypatch.setattr(Follower, "_is_time", lambda self: True)
    writer, reader, follower = make_pair()
    history = History(writer, seed)
    for _ in range(60):
        for _ in range(history.random.randrange(4)):
            history.step()
        follower.refresh()
        assert shown(reader) == shown(writer)
        assert follower.refresh() == 0
    reader.view_set.check()


def test_handles_go_on_and_a_promote_is_seen() -> None:
    writer, reader, follower = make_pair()
    table = writer.create_table("t", ("f4", 2))
    follower.refresh()
    held, main = reader.table("t"), reader.main
    table.put([1], [[1, 2]])
    assert held.get([1]).tolist() == [[0, 0]], "nothing is shown before a refresh"
    assert follower.has_news() and follower.refresh() == 1
    assert held.get([1]).tolist() == [[1, 2]] and reader.main is main
    switched: list[int] = []
    reader.versions.on_main_changed = lambda: switched.append(1)
    branch = writer.versions.branch("next", "main")
    branch.table("t").put([1], [[3, 4]])
    writer.versions.promote("next", None, None, False)
    follower.refresh()
    assert held.get([1]).tolist() == [[3, 4]] and switched == [1] and reader.main_changes == writer.main_changes
    with pytest.raises(PmkvError):
        held.put([1], [[0, 0]])


def test_half_a_batch_is_never_shown() -> None:
    writer, reader, follower = make_pair()
    table = writer.create_table("t", ("f4", 256))
    follower.refresh()
    seen = []
    with writer.batch():
        table.put(np.arange(30), np.ones((30, 256)))  # several frames
        seen.append((follower.refresh(), len(reader.table("t"))))
        table.put(np.arange(30), np.full((30, 256), 2))
        seen.append((follower.refresh(), len(reader.table("t"))))
    assert seen == [(0, 0), (0, 0)]
    assert follower.refresh() > 10 and (reader.table("t").get(np.arange(30)) == 2).all()


def test_what_a_killed_writer_left_half_is_not_shown_and_its_successor_is_followed() -> None:
    writer, reader, follower = make_pair()
    table = writer.create_table("t", ("f4", 256))
    table.put([1], np.ones((1, 256)))
    follower.refresh()
    with pytest.raises(KeyboardInterrupt), writer.batch():
        table.put(np.arange(30), np.ones((30, 256)))
        at = writer.log.position
        left = writer.log.data[:at].copy()
        raise KeyboardInterrupt
    writer.log.data[:at] = left  # a process that was killed took nothing back
    assert follower.refresh() == 0 and len(reader.table("t")) == 1
    files = writer.maintenance.catalog, writer.maintenance.run_files
    successor = Engine(Pool.load(writer.pool.medium), files=files)
    successor.table("t").put([2], np.ones((1, 256)))
    follower.refresh()
    assert len(reader.table("t")) == 2 and reader.log.lsn == successor.log.lsn


def test_a_pool_that_grew_is_mapped_again() -> None:
    writer, reader, follower = make_pair(segments=8)
    length = writer.pool.medium.data.size + (64 << 14)
    writer.log.grow(length)
    reader.pool.medium, writer_medium = small_medium(8), writer.pool.medium
    reader.pool.medium.data = writer_medium.data[: small_medium(8).data.size]
    reader.pool.medium.grow = lambda _: setattr(reader.pool.medium, "data", writer_medium.data)  # type: ignore[method-assign]
    follower = Follower(reader, Place(length))
    table = writer.create_table("t", ("f4", 256))
    for _ in range(20):
        table.put(np.arange(10), np.ones((10, 256)))
    follower.refresh()
    assert reader.log.data.size == length and (reader.table("t").get(np.arange(10)) == 1).all()


def test_a_log_that_lost_what_was_shown_is_told_and_not_read_on() -> None:
    writer, reader, follower = make_pair()
    table = writer.create_table("t", ("f4", 2))
    table.put([1], [[1, 2]])
    follower.refresh()
    reached = reader.replayer.reached
    assert reached is not None
    writer.log.data[reached.last + 20] ^= 1
    with pytest.raises(CorruptionError, match=r"the log ends at LSN .* and was read up to"):
        follower.refresh()
    with pytest.raises(FlushError, match="open the store again"):
        reader.table("t").get([1])


def test_a_log_that_went_another_way_is_followed_on_that_one() -> None:
    writer, reader, follower = make_pair()
    table = writer.create_table("t", ("f4", 2))
    table.put([1], [[1, 2]])
    held, before = reader, writer.log.data.copy()
    follower.refresh()
    table.put([1], [[3, 4]])
    follower.refresh()
    assert held.table("t").get([1]).tolist() == [[3, 4]]
    writer.log.data[:] = before  # the disk refused what the reader had seen in memory
    files = writer.maintenance.catalog, writer.maintenance.run_files
    Engine(Pool.load(writer.pool.medium), files=files).table("t").put([2], [[5, 6]])
    follower.refresh()
    assert held.table("t").get([1, 2]).tolist() == [[1, 2], [5, 6]]


def without_names(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(KeyspaceScan, "is_built", False)


def without_whole_batches(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(replay_module, "MORE", 0)


def without_the_place_reached(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Replayer, "stand_at", lambda self, replay: self._engine.log.resume(replay))


def without_a_newer_manifest(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(following, "REBUILT_AFTER_SECONDS", -1.0)
    patch.setattr(Follower, "_renew", lambda self: True)
    patch.setattr(
        Replayer, "_restore", lambda self: self._engine.maintenance.manifest and self._engine.maintenance.manifest.end
    )


@pytest.mark.parametrize(
    "safeguard", [without_names, without_whole_batches, without_the_place_reached, without_a_newer_manifest]
)
def test_a_follower_without_a_safeguard_is_noticed(
    safeguard: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Follower, "_is_time", lambda self: True)
    safeguard(monkeypatch)
    with pytest.raises((AssertionError, PmkvError, KeyError)):
        for seed in range(20):
            writer, reader, follower = make_pair()
            history = History(writer, seed)
            for _ in range(30):
                history.step()
                with writer.batch():
                    writer.keyspaces[0].put(b"batch", b"1")
                    writer.keyspaces[0].put(b"of two", b"2")
                    follower.refresh()
                    assert reader.keyspaces[0].get(b"of two") is not None or reader.keyspaces[0].get(b"batch") is None
                follower.refresh()
                assert shown(reader) == shown(writer)


def test_a_writer_is_told_by_which_commit_a_reader_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "REBUILT_AFTER_SECONDS", -1.0)
    monkeypatch.setattr(Follower, "_is_time", lambda self: True)
    writer, reader, _ = make_pair()
    follower = Follower(reader, place := Place(reader.log.data.size))
    assert place.stands_on == [0], "nothing was ever committed"
    writer.create_table("t", ("f4", 2)).put([1], [[1, 2]])
    list(writer.maintenance.checkpoint())
    reading = reader.log.lease  # as a reader holds it that has looked something up
    follower.refresh()
    assert place.stands_on == [0, 1], "somebody may still read by the earlier one"
    del reading
    follower.refresh()
    assert place.stands_on == [1]


@pytest.mark.parametrize("honest", [True, False])
def test_segments_are_used_again_beside_a_reader_that_goes_on(honest: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many times what the pool holds written, and each row read between refreshes; a writer that does not wait for
    the reader is noticed."""
    monkeypatch.setattr(following, "REBUILT_AFTER_SECONDS", -1.0)
    monkeypatch.setattr(Follower, "_is_time", lambda self: True)
    writer, reader, _ = make_pair(segments=24)
    follower = Follower(reader, place := Place(reader.log.data.size))
    if honest:
        writer.pool.leases.may_reuse = lambda commit: min(place.stands_on) >= commit
    table, ids, used = writer.create_table("t", ("f4", 16)), np.arange(100), set()
    follower.refresh()

    def run() -> None:
        for number in range(300):
            writer.maintenance.cleaner.recycle()
            if writer.pool.free < 12:
                list(writer.maintenance.checkpoint())
                list(writer.maintenance.clean())
            table.put(ids, np.full((100, 16), number))
            used.update(writer.pool.reused.items())
            if number % 7 == 0 or honest:
                follower.refresh()
            rows = reader.table("t").get(ids)
            assert (rows == rows[0, 0]).all() and number - 7 <= rows[0, 0] <= number

    if honest:
        run()
        assert len(used) > 12 and shown(reader) == shown(writer)
    else:
        with pytest.raises((AssertionError, PmkvError)):
            run()
