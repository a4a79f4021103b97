"""The kernels of runs against plain Python: where entries stand and are found, what is dropped, what it weighs."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pmkv.kernels import runs
from pmkv.kernels.hashing import place_of
from pmkv.kernels.location import DELETE
from pmkv.kernels.probe import hash_keys
from pmkv.kernels.records import FLAG_PARTS, record_sizes, write_records
from pmkv.kernels.runs import (
    FREE,
    PAGE_WORDS,
    WHOLE,
    check_page,
    check_pages,
    choose,
    collect_run,
    count_until,
    fill_slots,
    find_in_run,
    find_keys_in_run,
    key64s_of,
    merge_entries,
    missing_slot_hashes,
    verify_pages,
    weigh,
)

U = np.uint64
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")  # in plain Python
SEED, NONCE, OWNER = U(77), U(0x1234567890), U(1 << 32)
TOP = (1 << 64) - 1


def words(values: list[int]) -> np.ndarray:
    return np.array(values, np.uint64)


def places_of(ids: list[int]) -> np.ndarray:
    return words([int(place_of(U(i % (1 << 64)), SEED)) for i in ids])


def all_of(entries: np.ndarray) -> np.ndarray:
    """Kept, every one."""
    return np.ones(entries.size, np.uint8)


class Slots:
    """Pages of slots with their checksums, none of them seen; entries are sorted here."""

    def __init__(self, places: list[int], locations: list[int], capacity: int, pages: int = 2) -> None:
        self.capacity, self.seen = capacity, np.zeros(pages, np.uint8)
        self.words = np.zeros(pages * PAGE_WORDS, np.uint64)
        self.words[0::2] = FREE
        both = sorted(zip(places, locations, strict=True), key=lambda entry: entry[0])
        self.places, self.locations = words([a for a, _ in both]), words([b for _, b in both])
        done, self.free = fill_slots(self.places, self.locations, all_of(self.places), capacity, 0, 0, self.words, 0)
        assert done == len(both)
        self.checks = np.zeros(pages, np.uint64)
        check_pages(self.words, 0, NONCE, self.checks)

    @property
    def pages(self) -> tuple:
        return self.words, self.checks, NONCE, self.seen

    def find(self, ids: list[int], found: list[int] | None = None) -> tuple[int, list[int]]:
        out, places, which = words(found or [0] * len(ids)), np.zeros(len(ids), np.uint64), np.zeros(len(ids), np.int64)
        count = missing_slot_hashes(np.array(ids, np.int64), SEED, out, places, which)
        assert which[:count].tolist() == [i for i, where in enumerate(out) if not where]
        left, page = find_in_run(*self.pages, self.capacity, places[:count], which[:count], out)
        if page == WHOLE:
            assert which[:left].tolist() == [i for i, where in enumerate(out) if not where], "what is not here"
            assert places[:left].tolist() == places_of([ids[i] for i in which[:left]]).tolist()
        return page, out.tolist()


def test_words_come_back_from_their_places() -> None:
    values = [0, 1, TOP, 1 << 63, *(random.Random(1).getrandbits(64) for _ in range(30))]
    out = np.zeros(len(values), np.uint64)
    places = [int(place_of(U(value), SEED)) for value in values]
    key64s_of(words(places), SEED, out)
    assert out.tolist() == values


@pytest.mark.parametrize("count", [0, 1, 2, 7, 20_000])
def test_words_are_ordered_by_how_their_places_begin(count: int) -> None:
    values = [random.Random(count).getrandbits(64) for _ in range(count)]
    runs.order_by_slot(words(values), SEED, np.zeros(runs.REGIONS, np.int64), order := np.zeros(count, np.int64))
    assert sorted(order.tolist()) == list(range(count))
    regions = [int(place_of(U(values[i]), SEED)) >> 64 - runs.REGION_BITS for i in order]
    assert regions == sorted(regions)
    assert all(i < j for i, j, one, two in zip(order, order[1:], regions, regions[1:]) if one == two)


@pytest.mark.parametrize("capacity", [1, 3, 300, 1 << 20, (1 << 32) - 1])
def test_slots_ascend_with_places_and_are_exact(capacity: int) -> None:
    places = sorted([0, 1, TOP, TOP - 1, 1 << 32, *(random.Random(2).getrandbits(64) for _ in range(40))])
    for place in places:
        slot, one = place * capacity >> 64, words([place])
        buffer = np.zeros(2, np.uint64)
        assert fill_slots(one, words([9]), all_of(one), capacity, slot, 0, buffer, 0) == (1, slot + 1)
        assert buffer.tolist() == [place, 9]


def test_each_entry_stands_in_the_first_free_slot_at_or_behind_its_own() -> None:
    rng = random.Random(3)
    places = sorted(rng.getrandbits(64) for _ in range(200))
    slots = Slots(places, list(range(1, 201)), 230)
    free = 0
    for place, where in zip(places, range(1, 201), strict=True):
        at = max(free, place * 230 >> 64)
        assert slots.words[2 * at : 2 * at + 2].tolist() == [place, where]
        free = at + 1
    assert free == slots.free
    used = slots.words[1::2] != 0
    assert used.sum() == 200 and (slots.words[0::2][~used] == FREE).all()


def test_filling_goes_on_in_the_next_buffer() -> None:
    rng = random.Random(4)
    whole = Slots([rng.getrandbits(64) for _ in range(300)], list(range(1, 301)), 310, pages=2)
    done, free, out = 0, 0, []
    for first in range(0, 512, 32):
        buffer = np.zeros(64, np.uint64)
        buffer[0::2] = FREE
        done, free = fill_slots(whole.places, whole.locations, all_of(whole.places), 310, first, free, buffer, done)
        out += buffer.tolist()
    assert done == 300 and out == whole.words.tolist()


def test_what_is_not_kept_is_not_entered() -> None:
    places, buffer = words([0, 5, 1 << 62, 1 << 63]), np.zeros(8, np.uint64)
    assert fill_slots(places, words([1, 2, 3, 4]), np.array([1, 0, 0, 1], np.uint8), 4, 0, 0, buffer, 0) == (4, 3)
    assert buffer.tolist() == [0, 1, 0, 0, 1 << 63, 4, 0, 0]


def test_ids_are_found_and_what_was_found_before_is_kept() -> None:
    rng = random.Random(5)
    ids = rng.sample(range(-500, 500), 400)
    slots = Slots(places_of(ids).tolist(), list(range(1, 401)), 440)
    model = dict(zip(ids, range(1, 401), strict=True))
    asked = list(range(-520, 520))
    assert slots.find(asked) == (WHOLE, [model.get(i, 0) for i in asked])
    assert slots.find(ids[:20], [7] * 20) == (WHOLE, [7] * 20)


def test_the_highest_place_is_not_taken_for_a_free_slot() -> None:
    out = np.zeros(1, np.uint64)
    key64s_of(words([TOP]), SEED, out)
    one = int(out.view(np.int64)[0])
    assert Slots([1, 2], [5, 6], 4).find([one]) == (WHOLE, [0])
    assert Slots([1, TOP - 1, TOP], [5, 6, 8], 4).find([one]) == (WHOLE, [8])


def test_a_probe_goes_on_in_the_next_page() -> None:
    # all at home in slot 250 of 256 per page
    base = (250 << 64) // 500
    places = [base + i for i in range(1, 41)]
    slots = Slots(places, list(range(1, 41)), 500, pages=3)
    out = np.zeros(40, np.uint64)
    key64s_of(words(places), SEED, out)
    assert slots.find(out.view(np.int64).tolist()) == (WHOLE, list(range(1, 41)))
    assert slots.seen.tolist() == [1, 1, 0]


def test_a_damaged_page_is_named_by_whoever_touches_it_first() -> None:
    rng = random.Random(6)
    ids = rng.sample(range(10_000), 400)
    slots = Slots(places_of(ids).tolist(), list(range(1, 401)), 500)
    first = [i for i in ids if int(place_of(U(i), SEED)) * 500 >> 64 < 200]
    second = [i for i in ids if int(place_of(U(i), SEED)) * 500 >> 64 > 260]
    slots.words[2 * 256 + 8] ^= U(1 << 40)
    assert slots.find(first)[0] == WHOLE and all(slots.find(first)[1])
    assert slots.find(second)[0] == 1 == slots.find(ids)[0]
    assert verify_pages(*slots.pages, 0, 1) == WHOLE
    assert verify_pages(*slots.pages, 0, 2) == 1
    slots.words[2 * 256 + 8] ^= U(1 << 40)
    assert slots.find(ids) == (WHOLE, list(range(1, 401)))
    slots.words[8] ^= U(1)
    assert slots.find(first)[0] == WHOLE, "seen before"


def test_a_probe_near_the_end_of_a_page_relies_on_no_unseen_page() -> None:
    base = (253 << 64) // 500
    places = [base + i for i in range(1, 9)]  # slots 253 to 260
    slots = Slots(places, list(range(1, 9)), 500)
    out = np.zeros(8, np.uint64)
    key64s_of(words(places), SEED, out)
    slots.words[PAGE_WORDS] = U(0)  # slot 256: now as if it came before everything
    assert slots.find(out[:1].view(np.int64).tolist()) == (1, [0])


def test_the_checksum_is_of_the_bytes_the_number_and_the_nonce() -> None:
    page = np.arange(2 * PAGE_WORDS, dtype=np.uint64)
    sums = {int(check_page(page, at, number, U(n))) for at in (0, 1) for number in (0, 1, 5) for n in (0, 1, 9)}
    zeros = {int(check_page(np.zeros(PAGE_WORDS, np.uint64), 0, number, NONCE)) for number in (0, 1)}
    assert len(sums) == 18 and len(zeros) == 2 and 0 not in zeros
    for at in random.Random(7).sample(range(PAGE_WORDS), 12):
        page[at] ^= U(1 << (at % 64))
        assert int(check_page(page, 0, 0, U(0))) not in sums
        page[at] ^= U(1 << (at % 64))


def test_collecting_takes_what_is_at_a_place_or_behind() -> None:
    slots = Slots([10, 1 << 61, 1 << 62, 1 << 63], [1, 2, 3, 4], 16)
    places, locations = np.zeros(256, np.uint64), np.zeros(256, np.uint64)
    assert collect_run(slots.words, 0, 256, U(0), places, locations) == 4
    assert places[:4].tolist() == [10, 1 << 61, 1 << 62, 1 << 63] and locations[:4].tolist() == [1, 2, 3, 4]
    assert collect_run(slots.words, 0, 256, U((1 << 61) + 1), places, locations) == 2
    assert locations[:2].tolist() == [3, 4]


@pytest.mark.parametrize("limit", [0, 4, 5, 6, 30, 31, TOP])
def test_counting_up_to_a_limit(limit: int) -> None:
    data = words([*range(PAGE_WORDS), 5, 5, 6, 30, *[0] * (PAGE_WORDS - 4)])
    checks, seen = np.zeros(2, np.uint64), np.zeros(2, np.uint8)
    check_pages(data, 0, NONCE, checks)
    expected = sum(value <= limit for value in (5, 5, 6, 30))
    assert count_until(data, checks, NONCE, seen, PAGE_WORDS, 4, U(limit)) == (expected, WHOLE)
    assert count_until(data, checks, NONCE, seen, PAGE_WORDS, 0, U(limit)) == (0, WHOLE)
    assert seen.tolist() == [0, 1]
    data[PAGE_WORDS] += U(1)
    seen[:] = 0
    assert count_until(data, checks, NONCE, seen, PAGE_WORDS, 4, U(limit)) == (0, 1)


def test_merging_keeps_order_and_puts_the_newer_first() -> None:
    newer = words([1, 3, 3, 9]), words([11, 12, 13, 14]), np.zeros(4, np.uint8)
    older = words([0, 3, 10]), words([21, 22, 23]), np.ones(3, np.uint8)
    for a, b in ((newer, older), (newer, tuple(x[:0] for x in older)), (tuple(x[:0] for x in newer), older)):
        out = np.zeros(a[0].size + b[0].size, np.uint64), np.zeros(a[0].size + b[0].size, np.uint64), None
        marks = np.zeros(out[0].size, np.uint8)
        merge_entries(*a, *b, out[0], out[1], marks)
        both = [*zip(*(x.tolist() for x in a), strict=True), *zip(*(x.tolist() for x in b), strict=True)]
        expected = sorted(both, key=lambda entry: entry[0])
        assert list(zip(out[0].tolist(), out[1].tolist(), marks.tolist(), strict=True)) == expected


def write(keys: list[bytes], values: list[bytes], flags: list[int], size: int = 4096, at: int = 64) -> tuple:
    """(the pool's bytes, locations) of records one behind the other."""

    def joined(items: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
        ends = np.cumsum([len(item) for item in items]).astype(np.int64)
        bounds = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1).astype(np.int64)
        return np.frombuffer(b"".join(items) + b"\0", np.uint8), np.ascontiguousarray(bounds)

    data, locations, none = np.zeros(size, np.uint8), np.zeros(len(keys), np.uint64), np.zeros(len(keys), np.int64)
    columns = joined(keys), joined(values)
    write_records(data, at, OWNER, *columns[0], *columns[1], none, np.array(flags, np.int64), locations)
    return data, locations, columns[0]


KEYS = [b"", b"a", b"b", b"aaaaaaaa", b"aaaaaaab", b"aaaaaaaab", b"\0", b"\0\0"]


def find_keys(
    slots: Slots, data: np.ndarray, hashes: np.ndarray, columns: tuple, verify: bool, emptied: tuple[int, ...] = ()
) -> tuple[int, list]:
    found, segments = np.zeros(hashes.size, np.uint64), (np.array(emptied, np.uint8), 64, 24)
    page = find_keys_in_run(*slots.pages, slots.capacity, SEED, data, hashes, *columns, OWNER, verify, *segments, found)
    return page, found.tolist()


@pytest.mark.parametrize("equal", [False, True])
def test_keys_are_told_apart_by_their_bytes(equal: bool) -> None:
    data, locations, columns = write(KEYS, [b"v"] * len(KEYS), [0] * len(KEYS))
    hashes = np.full(len(KEYS), 42, np.uint64)
    if not equal:
        hash_keys(*columns, U(1), U(2), hashes)
    places = [int(place_of(word, SEED)) for word in hashes]
    slots = Slots(places, locations.tolist(), 10)
    assert find_keys(slots, data, hashes, columns, True) == (WHOLE, locations.tolist())
    other = write([b"zz", b"aa"], [b"", b""], [0, 0])[2]
    assert find_keys(slots, data, hashes[:2].copy(), other, True) == (WHOLE, [0, 0])
    slots.seen[:] = 0
    slots.words[1] ^= U(1)
    assert find_keys(slots, data, hashes, columns, True)[0] == 0


@pytest.mark.parametrize("verify", [False, True])
def test_a_key_of_the_highest_place_is_not_looked_for_in_free_slots(verify: bool) -> None:
    data, _, columns = write([b"key"], [b"v"], [0])
    hashes = np.zeros(1, np.uint64)
    key64s_of(words([TOP]), SEED, hashes)
    assert find_keys(Slots([5], [64], 4), data, hashes, columns, verify) == (WHOLE, [0])
    assert find_keys(Slots([5, TOP], [64, 64], 4), data, hashes, columns, verify) == (WHOLE, [64])


def test_a_damaged_record_hides_the_older_one_of_its_key() -> None:
    data, locations, columns = write([b"key", b"key"], [b"new", b"old"], [0, 0])
    hashes = np.full(2, 42, np.uint64)
    slots = Slots([int(place_of(U(42), SEED))] * 2, locations.tolist(), 4)
    data[64 + 16] ^= 1  # the newer one's key
    assert find_keys(slots, data, hashes, columns, True) == (WHOLE, [int(locations[0])] * 2)
    assert find_keys(slots, data, hashes, columns, False) == (WHOLE, [int(locations[1])] * 2)


def chosen(places: list[int], locations: list[int], bottom: bool, data: np.ndarray | None = None) -> list[int]:
    keep = np.full(len(places), 9, np.uint8)
    data, keyed = (np.zeros(8, np.uint8), False) if data is None else (data, True)
    count = choose(words(places), words(locations), data, keyed, bottom, keep)
    assert count == keep.sum()
    return keep.tolist()


def test_the_newest_of_a_word_is_kept_and_a_delete_unless_at_the_bottom() -> None:
    gone = int(DELETE) | 7
    places, locations = [1, 1, 2, 3, 3, 4], [5, 6, gone, gone, 5, 8]
    assert chosen(places, locations, False) == [1, 0, 1, 1, 0, 1]
    assert chosen(places, locations, True) == [1, 0, 0, 0, 0, 1]
    assert chosen([], [], True) == []


def test_of_equal_hashes_only_the_same_key_is_dropped() -> None:
    data, locations, _ = write([b"a", b"b", b"a", b"b", b"c"], [b"1", b"2", b"3", b"4", b"5"], [0, 16, 0, 0, 0])
    assert chosen([7] * 5, locations.tolist(), False, data) == [1, 1, 0, 0, 1]
    assert chosen([7] * 5, locations.tolist(), True, data) == [1, 1, 0, 0, 1], "a delete among other keys stays"
    assert chosen([7, 7, 8, 8, 8], locations[[1, 3, 0, 2, 4]].tolist(), True, data) == [0, 0, 1, 0, 1]


def test_a_delete_whose_key_cannot_be_read_is_kept() -> None:
    data, locations, _ = write([b"key", b"key"], [b"", b"old"], [16, 0])
    assert chosen([7, 7], locations.tolist(), True, data) == [0, 0]
    data[64 + 17] ^= 1
    assert chosen([7, 7], locations.tolist(), True, data) == [1, 1]
    for record in 64, 64 + 24:
        data[record + 4 : record + 7] = 255  # a length far beyond the pool
        assert chosen([7, 7], locations.tolist(), True, data) == [1, 1]
    assert chosen([7, 7], locations[[0, 0]].tolist(), False, data) == [1, 1]


def test_rows_weigh_their_width_and_deletes_nothing() -> None:
    out = np.zeros(4, np.int64)
    where = words([100, 355, 356, 900, 356 | int(DELETE)])
    no, yes = np.zeros(5, np.uint8), np.ones(5, np.uint8)
    weigh(np.zeros(8, np.uint8), where, no, yes, 20, 100, 256, 64, out)
    assert out.tolist() == [40, 20, 0, 20]
    weigh(np.zeros(8, np.uint8), where, yes, np.array([0, 1, 1, 1, 0], np.uint8), 20, 100, 256, 64, out)
    assert out.tolist() == [20, 20, 0, 20], "taken off: the first, and a delete"
    weigh(np.zeros(8, np.uint8), where, no, no, 20, 100, 256, 64, out)
    weigh(np.zeros(8, np.uint8), where, yes, yes, 20, 100, 256, 64, out)
    assert out.tolist() == [20, 20, 0, 20]


def test_records_weigh_what_they_take_and_parts_where_they_stand() -> None:
    keys, values, flags = [b"k", b"", b"gone", b"p" * 9], [b"v" * 30, b"", b"", b""], [0, 0, 16, FLAG_PARTS]
    values[3] = words([150, 2000, 1500, 2100]).tobytes()  # 150 bytes in parts of 64
    data, locations, _ = write(keys, values, flags)
    sizes = np.zeros(4, np.int64)
    bounds = [np.array([[0, len(item)] for item in items], np.int64) for items in (keys, values)]
    record_sizes(*bounds, sizes)
    out = np.zeros(4, np.int64)
    no, yes = np.zeros(4, np.uint8), np.ones(4, np.uint8)
    weigh(data, locations, no, yes, 0, 64, 1024, 64, out)
    assert out.tolist() == [sizes.sum(), 64 + 64 + 22, 0, 0]
    weigh(data, locations, yes, no, 0, 64, 1024, 64, out)
    assert not out.any()


def test_a_damaged_record_weighs_its_header_and_touches_nothing_else() -> None:
    data, locations, _ = write([b"k"], [words([100, 2000]).tobytes()], [FLAG_PARTS])
    data[64:68] = 255
    out = np.zeros(4, np.int64)
    weigh(data, locations, np.zeros(1, np.uint8), np.ones(1, np.uint8), 0, 64, 1024, 64, out)
    assert out.tolist() == [16, 0, 0, 0]


def test_a_record_in_an_emptied_segment_is_not_looked_at() -> None:
    """Something else may stand there by now, even another record of the key."""
    data, locations, columns = write([b"key", b"key"], [b"new", b"old"], [0, 0])
    hashes = np.full(2, 42, np.uint64)
    slots = Slots([int(place_of(U(42), SEED))] * 2, locations.tolist(), 4)
    assert int(locations[1]) & 0xFFFF == 64 + 24, "in the second segment of 24 bytes"
    for emptied, expected in (((0, 1), locations[0]), ((1,), locations[1]), ((1, 1), 0), ((0, 0), locations[0])):
        assert find_keys(slots, data, hashes, columns, True, emptied) == (WHOLE, [int(expected)] * 2)
