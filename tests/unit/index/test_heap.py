"""The heap of index pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from pmkv.index.heap import PAGE_WORDS, Heap


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_what_is_handed_out_is_zero_also_the_second_time() -> None:
    heap = Heap()
    start = heap.allocate(2 * PAGE_WORDS)
    other = heap.allocate(PAGE_WORDS)
    assert other >= start + 2 * PAGE_WORDS and heap.used == 3 * PAGE_WORDS
    heap.words[start : start + 2 * PAGE_WORDS] = 5
    heap.words[other] = 6
    heap.free(start, 2 * PAGE_WORDS)
    again = heap.allocate(2 * PAGE_WORDS)
    assert again == start and not heap.words[again : again + 2 * PAGE_WORDS].any() and heap.words[other] == 6


def test_reserved_space_takes_no_memory_and_freed_space_goes_back() -> None:
    before = resident()
    heap = Heap()
    words = 4096 * PAGE_WORDS  # 16 MiB
    start = heap.allocate(words)
    assert resident() - before < 4 << 20
    heap.words[start : start + words] = 1
    assert resident() - before >= 16 << 20
    heap.free(start, words)
    assert resident() - before < 4 << 20


def test_more_than_the_system_grants_is_an_error() -> None:
    heap = Heap()
    with pytest.raises(MemoryError, match="address space"):
        heap.allocate(heap.words.size + PAGE_WORDS)
