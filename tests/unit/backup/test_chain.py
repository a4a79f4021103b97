"""Chains of pieces: the newest entry counts, ranges of two sequences agree, order is checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pmkv.backup.backup_manifest import Part, Piece, PieceFiles
from pmkv.backup.chain import SLOT_HASHES, aligned, differences, merged, paged
from pmkv.backup.entries import RowEntries
from pmkv.backup.target import Directory
from pmkv.errors import CorruptionError
from pmkv.kernels.location import DELETE


class Bench:
    """Writes pieces of a table with rows of one byte, whose location is 64 times the byte; None: a delete."""

    def __init__(self, folder: Path) -> None:
        self.target, self.count = Directory(folder), 0
        self.files = PieceFiles(self.target, {})

    def piece(self, entries: dict[int, int | None]) -> Piece:
        self.count += 1
        values = [value or 0 for value in entries.values()]
        locations = [int(DELETE) if value is None else 64 * value for value in entries.values()]
        rows = np.array(values, np.uint8).reshape(-1, 1)
        encoded = RowEntries(np.array(list(entries), np.uint64), np.array(locations, np.uint64), rows).encoded()
        name = f"0123456789abcdef-01234567-{self.count:06}.piece"
        self.target.write(name, b"".join(encoded))
        return Piece.of(name, len(entries), *encoded)

    def part(self, *deltas: list[dict[int, int | None]]) -> Part:
        chain = tuple(tuple(self.piece(one) for one in delta) for delta in deltas)
        return Part("table/1", {"name": "t"}, 1, 0, None, 0, chain)

    def read(self, part: Part, **options: object) -> dict[int, int]:
        found: dict[int, int] = {}
        for window in merged(self.files, part, True, **options):
            found |= zip(window.slots.tolist(), window.rows[:, 0].tolist())
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_the_newest_entry_counts(bench: Bench) -> None:
    oldest: list[dict[int, int | None]] = [{1: 1, 2: 2}, {5: 5, 6: 6}, {9: 9}]
    part = bench.part([{2: None, 4: 44}, {9: 99}], [{1: 11}, {4: 4}], oldest)
    assert bench.read(part) == {1: 11, 4: 44, 5: 5, 6: 6, 9: 99}
    assert bench.read(part, newest=1) == {4: 44, 9: 99}
    assert bench.read(part, newest=1, with_deletes=True) == {2: 0, 4: 44, 9: 99}
    assert bench.read(bench.part()) == {}


def test_windows_ascend(bench: Bench) -> None:
    part = bench.part([{3: 3, 7: 7}], [{1: 1, 2: 2, 4: 4}, {6: 6, 8: 8}])
    slots = [slot for window in merged(bench.files, part, False) for slot in window.slots.tolist()]
    assert slots == [1, 2, 3, 4, 6, 7, 8]


def test_aligned_ranges(bench: Bench) -> None:
    left, right = bench.part([{1: 1, 2: 2}, {7: 7}]), bench.part([{2: 3}, {3: 3, 5: 5}, {6: 6, 9: 9}])
    pairs = aligned(*(paged(part, merged(bench.files, part, False)) for part in (left, right)))
    found = [(one.slots.tolist(), other.slots.tolist()) for one, other in pairs]
    assert [slot for one, _ in found for slot in one] == [1, 2, 7]
    assert [slot for _, other in found for slot in other] == [2, 3, 5, 6, 9]
    edges = [max(one + other, default=0) for one, other in found]
    assert edges[:-1] == sorted(edges[:-1]) and found[0] == ([1, 2], [2])


def test_the_last_slot_hash_has_its_page(bench: Bench) -> None:
    part = bench.part([{1: 1, SLOT_HASHES - 2: 2}])
    pairs = list(aligned(*(paged(part, merged(bench.files, part, False)) for _ in range(2))))
    assert sum(len(one) for one, _ in pairs) == sum(len(other) for _, other in pairs) == 2


def test_differences() -> None:
    def entries(**locations: int) -> RowEntries:
        slots = np.array([int(name[1:]) for name in locations], np.uint64)
        return RowEntries(slots, np.array(list(locations.values()), np.uint64))

    new, earlier = entries(s1=64, s2=128, s4=192), entries(s1=64, s2=64, s3=64)
    changed, gone = differences(new, earlier, lambda locations: np.ones(locations.size, bool))
    assert (changed.slots.tolist(), gone.slots.tolist()) == ([2, 4], [3])
    changed, _ = differences(new, earlier, lambda locations: np.zeros(locations.size, bool))
    assert changed.slots.tolist() == [1, 2, 4]  # equal locations that may mean something else now


@pytest.mark.parametrize("order", [(0, 0), (1, 0)])
def test_pieces_out_of_order_are_refused(bench: Bench, order: tuple[int, int]) -> None:
    pieces = [bench.piece({1: 1, 2: 2}), bench.piece({3: 3})]
    part = Part("table/1", {}, 1, 0, None, 0, (tuple(pieces[i] for i in order),))
    with pytest.raises(CorruptionError, match=rf"{pieces[order[1]].file}.*repeated or out of order in table/1"):
        bench.read(part)


def test_a_piece_out_of_order_in_itself_is_refused(bench: Bench) -> None:
    with pytest.raises(CorruptionError, match="entries out of order"):
        bench.read(bench.part([{5: 5, 1: 1}]))
