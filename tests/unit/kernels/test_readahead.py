"""Starting reads of many pages: which pages rows and probes touch, and how many calls neighbours take."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from pmkv.kernels.location import CACHED, DELETE
from pmkv.kernels.readahead import CALL_PAGES, PAGE_BYTES, row_pages, slot_pages, start_reads

U = np.uint64


def pages_of_rows(locations: list[int], width: int) -> list[int]:
    pages = np.zeros(2 * len(locations), np.int64)
    return pages[: row_pages(np.array(locations, np.uint64), width, pages)].tolist()


def test_a_row_stands_on_one_page_or_on_two() -> None:
    assert pages_of_rows([4096, 8192 - 64, 8192 - 63, 3 * 4096 + 5], 64) == [1, 1, 1, 2, 3]


def test_what_does_not_stand_in_the_pool_has_no_page() -> None:
    assert pages_of_rows([0, int(CACHED), 8192 | int(DELETE), 8192], 8) == [2]


def test_the_check_in_a_location_is_no_part_of_its_page() -> None:
    assert pages_of_rows([8192 | 0xFFFF << 48], 8) == [2]


def test_a_probe_begins_on_the_page_of_its_slot() -> None:
    pages = np.zeros(3, np.int64)
    slot_pages(np.array([0, 1 << 63, (1 << 64) - 1], np.uint64), 1024, 10, pages)
    assert pages.tolist() == [10, 12, 13], "1,024 slots of 16 bytes on four pages"


def calls_for(folder: Path, pages: list[int], step: int) -> int:
    (path := folder / "file").write_bytes(bytes((max(pages, default=0) + 1) * PAGE_BYTES))
    with open(path, "rb") as file:
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8)
    calls = start_reads(U(data.ctypes.data), np.array(pages, np.int64), step)
    assert not data.any()
    return calls


@pytest.mark.parametrize(("pages", "calls"), [([], 0), ([3], 1), ([0, 1, 2, 3], 1), ([0, 2, 3, 7], 3), ([1, 1, 2], 1)])
def test_neighbours_are_started_by_one_call(tmp_path: Path, pages: list[int], calls: int) -> None:
    assert calls_for(tmp_path, pages, 1) == calls


@pytest.mark.parametrize(("pages", "calls"), [([0, 4, 8], 1), ([0, 4, 9, 12], 2), ([5, 10], 2)])
def test_pages_between_near_ones_are_read_with_them(tmp_path: Path, pages: list[int], calls: int) -> None:
    assert calls_for(tmp_path, pages, 4) == calls


@pytest.mark.parametrize(("count", "calls"), [(CALL_PAGES, 1), (CALL_PAGES + 1, 2), (3 * CALL_PAGES, 3)])
def test_no_call_asks_for_more_than_the_system_reads(tmp_path: Path, count: int, calls: int) -> None:
    assert calls_for(tmp_path, list(range(count)), 1) == calls
