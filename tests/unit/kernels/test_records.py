"""Records and rows: what is written is found again by replay and by reads, and damage is seen, against plain Python."""

from __future__ import annotations

import numpy as np
import pytest

from pmkv.kernels.records import (
    ABSENT,
    DAMAGED,
    FLAG_DELETE,
    FLAG_PARTS,
    gather_rows,
    gather_values,
    locate_rows,
    longest_span,
    read_expiries,
    read_records,
    record_sizes,
    scan_records,
    value_bytes,
    write_records,
)

U = np.uint64
OWNER, DELETE, OFFSET = U(1 << 32), 1 << 47, (1 << 47) - 1
AT = 128
ITEMS = [
    (b"", b"", 0, 0), (b"k", b"", 5, 0), (b"", b"v", 0, 0), (b"key", b"a value of some length", 1000, 0),
    (b"gone", b"", 0, FLAG_DELETE), (b"x" * 70, b"y" * 9, 7, FLAG_PARTS), (b"\0\xff", bytes(8), 0, 0),
]  # fmt: skip
N = len(ITEMS)


def joined(items: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    ends = np.cumsum([len(item) for item in items]).astype(np.int64)
    bounds = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1).astype(np.int64)
    return np.frombuffer(b"".join(items) + b"\0", np.uint8), np.ascontiguousarray(bounds)


def model(key: bytes, value: bytes, expiry: int, flags: int) -> bytes:
    head = len(value) | len(key) << 32 | flags << 56
    body = head.to_bytes(8, "little") + expiry.to_bytes(8, "little") + key + value
    return body + bytes(-len(body) % 8)


RECORDS = b"".join(model(*item) for item in ITEMS)


@pytest.fixture
def written() -> tuple[np.ndarray, np.ndarray]:
    """(the pool's bytes, locations) with ITEMS at AT."""
    keys, key_bounds = joined([item[0] for item in ITEMS])
    values, value_bounds = joined([item[1] for item in ITEMS])
    data, locations = np.full(1024, 0xAA, np.uint8), np.zeros(N, np.uint64)
    expiries, flags = (np.array([item[i] for item in ITEMS], np.int64) for i in (2, 3))
    write_records(data, AT, OWNER, keys, key_bounds, values, value_bounds, expiries, flags, locations)
    return data, locations


def test_sizes_are_those_of_the_model() -> None:
    sizes = np.zeros(N, np.int64)
    total = record_sizes(joined([i[0] for i in ITEMS])[1], joined([i[1] for i in ITEMS])[1], sizes)
    assert sizes.tolist() == [len(model(*item)) for item in ITEMS]
    assert total == sum(sizes)


def test_the_bytes_are_those_of_the_model(written: tuple[np.ndarray, np.ndarray]) -> None:
    data, locations = written
    assert data[AT : AT + len(RECORDS)].tobytes() == RECORDS
    assert (data[:AT] == 0xAA).all(), "nothing before is touched"
    assert (data[AT + len(RECORDS) :] == 0xAA).all(), "nothing behind is touched"
    starts = np.cumsum([AT, *(len(model(*item)) for item in ITEMS[:-1])]).tolist()
    assert [int(where) & OFFSET for where in locations] == starts
    assert [bool(int(where) & DELETE) for where in locations] == [item[3] == FLAG_DELETE for item in ITEMS]


def test_replay_finds_what_was_written(written: tuple[np.ndarray, np.ndarray]) -> None:
    data, locations = written
    bounds, expiries, found = np.zeros((N, 2), np.int64), np.zeros(N, np.int64), np.zeros(N, np.uint64)
    end = scan_records(data, AT, AT + len(RECORDS), OWNER, bounds, expiries, found)
    assert end == AT + len(RECORDS)
    assert found.tolist() == locations.tolist()
    assert expiries.tolist() == [item[2] for item in ITEMS]
    assert [data[a:b].tobytes() for a, b in bounds.tolist()] == [item[0] for item in ITEMS]


@pytest.mark.parametrize("short", [1, 8, 16, 100])
def test_replay_refuses_records_that_do_not_fit(written: tuple[np.ndarray, np.ndarray], short: int) -> None:
    bounds, expiries, found = np.zeros((N, 2), np.int64), np.zeros(N, np.int64), np.zeros(N, np.uint64)
    assert scan_records(written[0], AT, AT + len(RECORDS) - short, OWNER, bounds, expiries, found) == -1


def read(data: np.ndarray, locations: np.ndarray, now: int = 1, verify: bool = True, owner: U = OWNER) -> list:
    out = np.zeros((len(locations), 4), np.int64)
    read_records(data, locations, owner, now, verify, out)
    return out.tolist()


@pytest.mark.parametrize("now", [1, 5, 6, 1000, 1 << 61])
def test_reads_find_what_lives(written: tuple[np.ndarray, np.ndarray], now: int) -> None:
    data, locations = written
    for (_, value, expiry, flags), row in zip(ITEMS, read(data, locations, now), strict=True):
        if flags == FLAG_DELETE or 0 < expiry <= now:
            assert row == [ABSENT, 0, 0, 0]
        else:
            assert data[row[0] : row[0] + row[1]].tobytes() == value
            assert row[2:] == [expiry, flags]


def test_location_zero_is_absent(written: tuple[np.ndarray, np.ndarray]) -> None:
    many = np.zeros(30, np.uint64)
    assert read(written[0], many) == [[ABSENT, 0, 0, 0]] * 30


def test_every_flipped_bit_of_a_record_is_damage(written: tuple[np.ndarray, np.ndarray]) -> None:
    data, locations = written
    one, size = locations[3:4], 16 + len(ITEMS[3][0]) + len(ITEMS[3][1])
    start = int(one[0]) & OFFSET
    for bit in range(8 * size):
        data[start + bit // 8] ^= 1 << bit % 8
        assert read(data, one)[0][0] == DAMAGED, bit
        data[start + bit // 8] ^= 1 << bit % 8
    assert read(data, one, verify=False)[0][0] > 0


def test_a_record_of_another_owner_is_damage(written: tuple[np.ndarray, np.ndarray]) -> None:
    rows = read(*written, owner=U(2 << 32))
    assert all(row[0] == DAMAGED for row, item in zip(rows, ITEMS, strict=True) if item[3] != FLAG_DELETE)


def test_expiries_of_what_lives(written: tuple[np.ndarray, np.ndarray]) -> None:
    out = np.full(N + 1, -1, np.int64)
    read_expiries(written[0], np.append(written[1], U(0)), out)
    assert out.tolist() == [0 if item[3] == FLAG_DELETE else item[2] for item in ITEMS] + [0]


WIDTHS = [1, 3, 8, 20, 64]
IDS = np.array([5, -1, 0, 2**62, -(2**63), 7, 8, 9, 10, 11, 12], np.int64)


def rows_of(width: int) -> tuple[np.ndarray, np.ndarray]:
    """(the pool's bytes, locations): rows of IDS at AT."""
    data = np.random.default_rng(width).integers(0, 256, 1024, np.uint8)
    locations = np.zeros(IDS.size, np.uint64)
    locate_rows(data, AT, IDS, width, U(3), locations)
    return data, locations


def gather(data: np.ndarray, locations: np.ndarray, width: int, ids: np.ndarray = IDS, verify: bool = True) -> tuple:
    out, found = np.zeros(ids.size * width, np.uint8), np.zeros(ids.size, np.uint8)
    default = np.full(width, 0x55, np.uint8)
    bad = gather_rows(data, locations, ids, width, U(3), default, verify, out, found)
    return bad, out.reshape(ids.size, width), found.tolist()


@pytest.mark.parametrize("width", WIDTHS)
def test_rows_are_gathered(width: int) -> None:
    data, locations = rows_of(width)
    locations[1] = 0
    locations[4] |= U(DELETE)
    bad, out, found = gather(data, locations, width)
    assert bad == -1
    for i in range(IDS.size):
        expected = bytes([0x55]) * width if i in (1, 4) else data[AT + i * width : AT + (i + 1) * width].tobytes()
        assert out[i].tobytes() == expected
        assert found[i] == (i not in (1, 4))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_first_damaged_row_is_named(width: int) -> None:
    data, locations = rows_of(width)
    data[AT + 2 * width] ^= 1
    data[AT + 6 * width] ^= 1
    assert gather(data, locations, width)[0] == 2
    assert gather(data, locations, width, verify=False)[0] == -1


def test_a_row_of_another_id_is_damage() -> None:
    data, locations = rows_of(8)
    others = IDS.copy()
    others[3] += 1
    assert gather(data, locations, 8, others)[0] == 3


def test_a_location_beyond_the_pool_is_damage() -> None:
    data, locations = rows_of(8)
    locations[0] += U(900)
    assert gather(data[:1020], locations, 8)[0] == 0


def test_values_are_gathered_into_one_array(written: tuple[np.ndarray, np.ndarray]) -> None:
    data, locations = written
    rows = np.zeros((N, 4), np.int64)
    read_records(data, locations, OWNER, 6, True, rows)  # the second has expired
    there = [b"" if flags & FLAG_DELETE or 0 < expiry <= 6 else value for _, value, expiry, flags in ITEMS]
    total = value_bytes(rows, 0)
    assert total == sum(map(len, there))
    assert value_bytes(rows, FLAG_PARTS) == -1
    out, bounds = np.zeros(total, np.uint8), np.zeros((N, 2), np.int64)
    gather_values(data, rows, out, bounds)
    assert [a < 0 for a, _ in bounds.tolist()] == [row[0] == ABSENT for row in rows.tolist()]
    assert [out[a:b].tobytes() for a, b in bounds.tolist() if a >= 0] == [
        value for value, row in zip(there, rows.tolist(), strict=True) if row[0] != ABSENT
    ]


def test_the_longest_span() -> None:
    assert longest_span(np.array([[0, 3], [10, 17], [-1, -1], [5, 5]])) == 7
    assert longest_span(np.empty((0, 2), np.int64)) == 0
