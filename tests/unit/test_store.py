"""A store on a data directory: its life, its threads, its processes."""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import pmkv
from pmkv.engine.table import PIPELINED_FRAMES
from pmkv.errors import ClosedError, FlushError, InvalidError, LockedError, ReadOnlyError
from pmkv.runtime.byte_locks import is_any_held_below, let_go_of_byte, share_byte
from tests.engines import at_the_same_time

SMALL = "8MiB"


def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    with pmkv.open(tmp_path / "s", capacity=SMALL) as store:
        store.put(b"k", b"v")
        store.create_table("t", ("f4", 2)).put([1], [[1, 2]])
        first = store.epoch
    with pmkv.open(tmp_path / "s", capacity=SMALL) as store:
        assert store.get(b"k") == b"v" and store.table("t").get([1]).tolist() == [[1, 2]]
        assert store.epoch == first + 1 and store.version[0] == 0
        assert (store.path, store.granularity, store.durability, store.readonly) == (
            tmp_path / "s",
            "page",
            "commit",
            False,
        )
        store.check()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = pmkv.open(tmp_path, capacity=SMALL)
    table = store.create_table("t", "f4")
    store.close()
    store.close()
    for call in (lambda: store.get(b"k"), lambda: store.put(b"k", b""), lambda: table.get([1]), lambda: store.tables()):
        with pytest.raises(ClosedError, match="closed"):
            call()


def test_in_memory_needs_no_directory() -> None:
    with pmkv.open(pool=":memory:", capacity=SMALL) as store:
        store.put(b"k", b"v")
        assert store.get(b"k") == b"v" and store.path is None and store.granularity == "byte"


@pytest.mark.parametrize(
    "options", [{"durability": "maybe"}, {"require": "atom"}, {"capacity": "much"}, {"require": "byte"}]
)
def test_options_are_checked(tmp_path: Path, options: dict) -> None:
    with pytest.raises(InvalidError):
        pmkv.open(tmp_path, **{"capacity": SMALL, **options})
    pmkv.open(tmp_path, capacity=SMALL).close()  # and the directory is free again


def test_a_keyspace_has_a_number_below_16() -> None:
    with pmkv.open(pool=":memory:", capacity=SMALL) as store:
        store.keyspace(15).put(b"k", b"v")
        assert store.stats().keys == {15: 1}
        for number in (-1, 16):
            with pytest.raises(InvalidError, match="0 to 15"):
                store.keyspace(number)


@pytest.mark.parametrize("durability", ["commit", "interval", "none"])
def test_every_durability_survives_the_death_of_the_process(tmp_path: Path, durability: str) -> None:
    code = (
        "import pmkv, sys, os, signal\n"
        f"store = pmkv.open(sys.argv[1], capacity={SMALL!r}, durability={durability!r})\n"
        "for i in range(200): store.put(b'%d' % i, b'x' * i)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], timeout=60).returncode == -signal.SIGKILL
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        assert [store.get(b"%d" % i) for i in range(200)] == [b"x" * i for i in range(200)]


def test_interval_syncs_by_itself(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity=SMALL, durability="interval") as store:
        store.put(b"k", b"v")
        lsn = store.version[1]
        assert store.durable_lsn < lsn
        deadline = time.monotonic() + 10
        while store.durable_lsn < lsn and time.monotonic() < deadline:
            time.sleep(0.05)
        assert store.durable_lsn >= lsn


def test_an_idle_store_marks_its_log(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        store.put(b"k", b"v")
        lsn = store.version[1]
        deadline = time.monotonic() + 10
        while store.version[1] == lsn and time.monotonic() < deadline:
            time.sleep(0.02)
        assert store.version[1] == lsn + 1
        time.sleep(0.3)
        assert store.version[1] == lsn + 1 == store.durable_lsn  # one MARK, not one every 100 ms


def test_a_second_process_is_told_who_has_it(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        store.put(b"k", b"v")
        code = (
            "import pmkv, sys\n"
            "try: pmkv.open(sys.argv[1])\n"
            "except pmkv.LockedError as error: print(error)\n"
            "reader = pmkv.open(sys.argv[1], readonly=True)\n"
            "print(reader.get(b'k'), reader.readonly)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, timeout=60)
        assert f"locked by process {os.getpid()}" in done.stdout and "b'v' True" in done.stdout, done.stderr
        with pytest.raises(LockedError):
            pmkv.open(tmp_path)


def child(store: pmkv.Store, answers: multiprocessing.Queue) -> None:
    for call in (lambda: store.get(b"k"), lambda: store.put(b"k", b"child"), store.stats):
        try:
            answers.put(repr(call()))
        except ClosedError as error:
            answers.put(str(error))


def test_a_forked_child_gets_closed_error(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        store.put(b"k", b"parent")
        context = multiprocessing.get_context("fork")
        answers = context.Queue()
        process = context.Process(target=child, args=(store, answers))
        process.start()
        said = [answers.get(timeout=30) for _ in range(3)]
        process.join(30)
        assert all("parent process" in one for one in said), said
        store.put(b"k", b"still mine")
        assert store.get(b"k") == b"still mine"


def test_writers_and_readers_side_by_side(tmp_path: Path) -> None:
    """Each writer's keys are its own: what it was told is stored is there, at once and at the end."""
    store = pmkv.open(tmp_path, capacity="64MiB")
    table = store.create_table("t", ("i8", 4))
    problems: list[str] = []
    counts = [0] * 4
    stop = threading.Event()

    def write(number: int) -> None:
        rng = random.Random(number)
        while not stop.is_set():
            n = counts[number]
            store.put(b"%d:%d" % (number, n % 50), b"%d" % n * rng.randrange(1, 200))
            ids = np.arange(8) + 8 * number
            table.put(ids, np.full((8, 4), n))
            got = store.get(b"%d:%d" % (number, n % 50))
            if got is None or not got.startswith(b"%d" % n):
                problems.append(f"writer {number} read {got!r} after writing {n}")
            counts[number] += 1

    def read() -> None:
        while not stop.is_set():
            for number in range(4):
                rows = table.get(np.arange(8) + 8 * number)
                if len(set(rows.reshape(-1).tolist())) != 1:
                    problems.append(f"half of a put was seen: {rows[:, 0]}")
            list(store.scan(limit=20))
            len(store.keyspace(0))

    def guarded(target, *arguments: int) -> None:
        try:
            target(*arguments)
        except Exception as error:
            problems.append(repr(error))
            stop.set()

    threads = [threading.Thread(target=guarded, args=(write, number), daemon=True) for number in range(4)]
    threads += [threading.Thread(target=guarded, args=(read,), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    stop.wait(2.0)
    # readers that never rest leave the interpreter to others every 5 ms only: on a busy machine two seconds are short
    deadline = time.monotonic() + 20
    while min(counts) <= 5 and time.monotonic() < deadline and not stop.wait(0.05):
        continue
    stop.set()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"
    assert not problems, problems[:3]
    assert min(counts) > 5
    last = [table.get([8 * number])[0, 0] for number in range(4)]
    store.close()
    with pmkv.open(tmp_path) as again:
        assert [again.table("t").get([8 * number])[0, 0] for number in range(4)] == last == [n - 1 for n in counts]
        again.check()


def test_threads_share_flushes(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        before = store.stats().flushes

        def write(number: int) -> None:
            for i in range(40):
                store.put(b"%d:%d" % (number, i), b"")

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(store.keyspace(0)) == 320 and store.stats().flushes - before < 320


def test_after_a_failed_flush_the_store_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = pmkv.open(tmp_path, capacity=SMALL)
    store.put(b"a", b"1")
    called = threading.Event()
    store.on_durable(called.set)
    real = os.fdatasync

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail)
    # the background thread, which prepares a segment, may be the first to be told
    with pytest.raises((FlushError, ReadOnlyError), match="Input/output error"):
        store.put(b"a", b"2")
    monkeypatch.setattr(os, "fdatasync", real)
    assert called.is_set() and isinstance(store.failed, FlushError) and store.readonly
    assert store.get(b"a") == b"1" and store.stats().failed
    with pytest.raises(ReadOnlyError):
        store.put(b"b", b"")
    store.close()
    with pmkv.open(tmp_path, capacity=SMALL) as again:
        assert again.get(b"a") in (b"1", b"2")  # it was never acknowledged; it may have survived


def test_flush_soon_and_on_durable(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        told = threading.Event()
        store.on_durable(told.set)
        with store.deferred() as seen:
            store.put(b"k", b"v")
            assert seen.lsn > store.durable_lsn
            told.clear()
            store.flush_soon()
            assert told.wait(10) and store.durable_lsn >= seen.lsn
        store.wait(seen.lsn)


def test_grow_while_it_is_used(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity="4MiB") as store:
        stored = 0
        with pytest.raises(pmkv.FullError):
            while True:
                store.put(b"%d" % stored, bytes(100_000))
                stored += 1
        store.grow("16MiB")
        assert store.capacity == 16 << 20
        for i in range(stored, 2 * stored):
            store.put(b"%d" % i, bytes(100_000))
        assert len(store.keyspace(0)) == 2 * stored and store.get(b"0") == bytes(100_000)
    with pmkv.open(tmp_path) as store:  # the capacity stays
        assert store.capacity == 16 << 20 and len(store.keyspace(0)) == 2 * stored


def test_no_checkpoint_and_no_end_within_a_batch(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        with store.batch():
            store.put(b"a", b"1")
            with pytest.raises(InvalidError, match="within a batch"):
                store.checkpoint()
            with pytest.raises(InvalidError, match="within a batch"):
                store.close()
        store.checkpoint()
        assert store.get(b"a") == b"1"


def test_a_child_forked_under_the_lock_is_told_that_the_store_is_not_its_own(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        table = store.create_table("t", "i8")
        held, go = threading.Event(), threading.Event()

        def hold() -> None:
            with store.batch():
                held.set()
                go.wait(10)

        with at_the_same_time(hold):
            held.wait(10)
            child = os.fork()
            if child == 0:
                signal.alarm(5)  # a child that hangs is killed by it
                try:
                    for call in (lambda: store.get(b"a"), lambda: table.get([1]), lambda: len(table)):
                        with pytest.raises(ClosedError):
                            call()
                    store.close()
                    os._exit(0)
                finally:
                    os._exit(1)
            go.set()
        assert os.waitpid(child, 0)[1] == 0


def test_many_files_of_runs_take_no_descriptors(tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with pmkv.open(tmp_path, capacity=SMALL) as store:
        store.put(b"0", b"v")
        store.checkpoint()
        before = descriptors()
        for i in range(20):
            store.create_table(f"t{i}", "i8").put([1], [i])
            store.checkpoint()
        assert len(list((tmp_path / "runs").iterdir())) >= 20 and descriptors() <= before


def test_a_reader_keeps_what_it_reads_while_files_come_and_go(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity=SMALL) as store:
        table = store.create_table("t", "i8")
        table.put(np.arange(100), np.arange(100))
        store.checkpoint()
        reader = subprocess.Popen([sys.executable, "-c", READER, os.fspath(tmp_path)], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)  # fmt: skip
        assert reader.stdout.readline() == "open\n"
        for i in range(20):
            table.put(np.arange(100), np.arange(100) + i)
            store.checkpoint()
        assert len(list((tmp_path / "runs").iterdir())) < 15, "a reader keeps no file from being removed"
        assert reader.communicate("go\n", timeout=20)[0] == "right\n"


READER = """
import sys, pmkv, numpy as np
with pmkv.open(sys.argv[1], readonly=True, follow=False) as store:
    print("open", flush=True)
    sys.stdin.readline()
    print("right" if (store.table("t").get(np.arange(100)) == np.arange(100)).all() else "wrong")
"""


def test_reads_while_the_pool_grows(tmp_path: Path) -> None:
    """What is written behind the old end is found by who had begun to look before."""
    with pmkv.open(tmp_path, capacity="8MiB", durability="none", verify_reads=False) as store:
        store.put(b"key", b"0")
        end = threading.Event()

        def read() -> None:
            while not end.is_set():
                assert store.get(b"key") is not None

        with at_the_same_time(read, read):
            for i in range(5):
                store.grow((24 + 16 * i) << 20)
                for _ in range(30):
                    store.put(b"key", bytes(100_000))
            end.set()


def test_a_long_put_is_made_durable_beside_itself_and_lets_readers_in(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity="256MiB") as store:
        table = store.create_table("t", ("u1", 1024))
        table.put([0], np.zeros((1, 1024), "u1"))
        seen, done = [], threading.Event()

        def read() -> None:
            while not done.is_set():
                seen.append(len(table))

        reader = threading.Thread(target=read)
        reader.start()
        ids, piece = np.arange(60_000), PIPELINED_FRAMES * table._per_frame(1024)
        table.put(ids, np.full((ids.size, 1024), 7, "u1"))
        done.set()
        reader.join()
        assert len(table) == 60_000 and store.durable_lsn == store.version[1]
        pieces = {1, 60_000, *range(piece, 60_000, piece)}
        assert len(set(seen)) > 1 and set(seen) <= pieces, "each of them wholly or not at all"


def test_a_store_that_is_dropped_without_close_warns(tmp_path: Path) -> None:
    store = pmkv.open(tmp_path, capacity="64MiB")
    flusher, background, place = store._flusher, store._background, store._place
    store.put(b"k", b"1")
    with pytest.warns(ResourceWarning, match=r"dropped without close\(\): its threads go on"):
        del store
        gc.collect()
    flusher.stop()
    background.stop()
    place.close()


def test_a_store_that_was_closed_does_not_warn(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    with pmkv.open(tmp_path, capacity="64MiB"):
        pass
    gc.collect()
    assert not [one for one in recwarn if one.category is ResourceWarning and "dropped" in str(one.message)]


def test_compacting_gives_back_what_nobody_needs(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity="8MiB") as store:
        table = store.create_table("t", ("f4", 64))
        for number in range(12):
            table.put(np.arange(1000), np.full((1000, 64), number))
        used = store.stats().space.used
        assert store.compact() >= 0 and store.stats().space.used < used / 2
        assert (table.get(np.arange(1000)) == 11).all() and store.stats().space.takes_writes
        store.drop_table("t")
        store.compact()
        assert store.stats().space.used <= 2 * store.stats().segment_size
        store.check()


def test_emptied_segments_wait_for_readers_in_other_processes(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity="8MiB") as store:
        table, pool = store.create_table("t", ("f4", 64)), store._engine.pool
        for number in range(12):
            table.put(np.arange(1000), np.full((1000, 64), number))
        reader = os.open(tmp_path / "pmkv.json", os.O_RDONLY)
        share_byte(reader, 1)  # as a readonly store holds it that stands on commit 0
        before = store.stats().space.used
        store.compact()
        commit = store._engine.maintenance.catalog.commits
        assert not pool.leases.may_reuse(commit) and pool.leases.retired, "they are retired, and not free"
        share_byte(reader, 1 + commit)
        let_go_of_byte(reader, 1)
        store.compact()
        assert pool.leases.may_reuse(commit) and not pool.leases.retired and store.stats().space.used < before / 2
        os.close(reader)
    with pmkv.open(tmp_path, readonly=True):
        handle = os.open(tmp_path / "pmkv.json", os.O_RDONLY)
        assert is_any_held_below(handle, 1 << 40)
        os.close(handle)


def test_a_restarted_writer_waits_for_readers_of_before(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity="8MiB") as store:
        table = store.create_table("t", ("f4", 64))
        reader = os.open(tmp_path / "pmkv.json", os.O_RDONLY)
        share_byte(reader, 0)
        for number in range(12):
            table.put(np.arange(1000), np.full((1000, 64), number))
        store.compact()
        assert store._engine.pool.leases.retired
    with pmkv.open(tmp_path) as store:
        assert store._engine.pool.leases.retired, "the reader may still look at what was emptied"
        store.check()
        os.close(reader)
        store.compact()
        assert not store._engine.pool.leases.retired


def test_a_store_in_memory_gives_nothing_back() -> None:
    with pmkv.open(pool=":memory:", capacity="8MiB") as store:
        store.put(b"k", b"v")
        assert store.compact() == 0 and store.stats().space.live > 0


def test_a_pool_is_overwritten_many_times_while_it_serves(tmp_path: Path) -> None:
    with pmkv.open(tmp_path, capacity="8MiB") as store:
        table, rng = store.create_table("t", ("f4", 64)), np.random.default_rng(1)
        model = np.zeros(8000)
        for number in range(100):
            ids = rng.permutation(8000)[:600]
            table.put(ids, np.repeat(np.full((600, 1), number), 64, 1))
            model[ids] = number
        rows = table.get(np.arange(8000))
        assert (rows == model[:, None]).all()
        store.check()
