"""The arena of index pages."""

from __future__ import annotations

import gc
import platform
import threading
from pathlib import Path
from resource import RUSAGE_THREAD, getrusage

import pytest

from pmkv.index.arena import PAGE_WORDS, Arena

LINUX = tuple(int(number) for number in platform.release().split(".")[:2])


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_what_is_handed_out_is_zero_also_the_second_time() -> None:
    arena = Arena()
    start = arena.allocate(2 * PAGE_WORDS)
    other = arena.allocate(PAGE_WORDS)
    assert other >= start + 2 * PAGE_WORDS and arena.used == 3 * PAGE_WORDS
    arena.words[start : start + 2 * PAGE_WORDS] = 5
    arena.words[other] = 6
    arena.free(start, 2 * PAGE_WORDS)
    again = arena.allocate(2 * PAGE_WORDS)
    assert again == start and not arena.words[again : again + 2 * PAGE_WORDS].any() and arena.words[other] == 6


def test_reserved_space_takes_no_memory_and_freed_space_goes_back() -> None:
    gc.collect()  # or arenas of other tests go meanwhile
    before = resident()
    arena = Arena()
    assert resident() - before < 4 << 20
    words = 4096 * PAGE_WORDS  # 16 MiB
    start = arena.allocate(words)
    arena.words[start : start + words] = 1
    assert resident() - before >= 16 << 20
    arena.free(start, words)
    assert resident() - before < 4 << 20


@pytest.mark.skipif(LINUX < (5, 14), reason="this system cannot make pages ready ahead")
def test_much_is_there_at_once() -> None:
    """Who stores to pages in no order would wait for each."""
    arena = Arena()
    words = 1024 * PAGE_WORDS
    for _ in range(2):
        start = arena.allocate(words)
        before = getrusage(RUSAGE_THREAD).ru_minflt
        arena.words[start : start + words : PAGE_WORDS] = 1
        faults = getrusage(RUSAGE_THREAD).ru_minflt - before
        assert faults < 64
        arena.free(start, words)


def test_a_system_that_does_not_take_pages_back_leaves_zeros_to_us(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = Arena()
    start = arena.allocate(2 * PAGE_WORDS)
    arena.words[start : start + 2 * PAGE_WORDS] = 5
    monkeypatch.setattr(arena, "_advise", lambda *_: -1)
    arena.free(start, 2 * PAGE_WORDS)
    assert arena.allocate(2 * PAGE_WORDS) == start and not arena.words[start : start + 2 * PAGE_WORDS].any()


def test_the_lock_is_held_for_the_accounts_and_not_for_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    arena, lock, told = Arena(), threading.Lock(), []
    advise = arena._advise
    monkeypatch.setattr(arena, "_advise", lambda *what: told.append(lock.locked()) or advise(*what))
    arena.free(arena.allocate(64 * PAGE_WORDS, lock), 64 * PAGE_WORDS, lock)
    assert told == [False, False] and not lock.locked() and not arena.used


def test_more_than_the_system_grants_is_an_error() -> None:
    arena = Arena()
    with pytest.raises(MemoryError, match="address space"):
        arena.allocate(arena.words.size + PAGE_WORDS)
