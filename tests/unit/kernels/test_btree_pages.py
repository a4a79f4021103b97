"""The walk of LMDB's trees: whole trees are counted, and each kind of damage has its name and its page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lmdb
import numpy as np
import pytest

from pmkv.kernels.btree_pages import (
    ANOTHER,
    BAD_PAGE,
    BOUNDS,
    BRANCHES,
    COUNTS,
    DEPTH_MAX,
    ENTRIES,
    FLAGS,
    LEAVES,
    NODES,
    ORDER,
    OUTSIDE,
    PAGE_BYTES,
    REPEATED,
    SEPARATOR,
    WHOLE_TREE,
    compare,
    walk_tree,
)

KEYS = 300


class Walk:
    """A tree of two levels, and the result of a walk through it."""

    def __init__(self, folder: Path) -> None:
        with lmdb.open(str(folder), map_size=1 << 20) as env:
            with env.begin(write=True) as txn:
                for i in range(KEYS):
                    txn.put(b"key:%03d" % i, b"value" * 4)
            self.depth, self.leaves = env.stat()["depth"], env.stat()["leaf_pages"]
            self.last = env.info()["last_pgno"]
        self.data = np.fromfile(folder / "data.mdb", np.uint8)
        metas = [int.from_bytes(self.data[at + 144 : at + 152].tobytes(), "little") for at in (0, PAGE_BYTES)]
        at = PAGE_BYTES * metas.index(max(metas))
        self.root = int.from_bytes(self.data[at + 128 : at + 136].tobytes(), "little")

    def __call__(self, root: int | None = None) -> tuple[int, int, np.ndarray]:
        counts, marks = np.zeros(COUNTS, np.int64), np.zeros(self.last + 1, np.uint8)
        stack, covered = np.zeros(2 * DEPTH_MAX + 4, np.int64), np.zeros(PAGE_BYTES, np.uint8)
        problem = walk_tree(
            self.data, self.root if root is None else root, self.depth, self.last, False, False, marks, counts, stack,
            covered,
        )  # fmt: skip
        return problem, int(counts[BAD_PAGE]), counts

    def node(self, page: int, number: int) -> int:
        """Return where a node of a page is."""
        at = page * PAGE_BYTES + 16 + 2 * number
        return page * PAGE_BYTES + int.from_bytes(self.data[at : at + 2].tobytes(), "little")

    def child(self, number: int) -> int:
        """Return the page of a child of the root."""
        at = self.node(self.root, number)
        return int.from_bytes(self.data[at : at + 4].tobytes(), "little")


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    return Walk(tmp_path)


def test_a_whole_tree_is_counted(walk: Walk) -> None:
    problem, _, counts = walk()
    assert (problem, walk.depth) == (WHOLE_TREE, 2)
    assert counts[[ENTRIES, BRANCHES, LEAVES]].tolist() == [KEYS, 1, walk.leaves] and walk.leaves > 2


def number_of_page(walk: Walk) -> int:
    walk.data[walk.child(1) * PAGE_BYTES] += 1
    return walk.child(1)


def kind_of_page(walk: Walk) -> int:
    walk.data[walk.child(1) * PAGE_BYTES + 10] = 1
    return walk.child(1)


def lower_bound(walk: Walk) -> int:
    walk.data[walk.child(1) * PAGE_BYTES + 12] += 1
    return walk.child(1)


def fewer_nodes(walk: Walk) -> int:
    walk.data[walk.child(1) * PAGE_BYTES + 12] -= 2
    return walk.child(1)


def length_of_key(walk: Walk) -> int:
    walk.data[walk.node(walk.child(1), 3) + 6] ^= 64
    return walk.child(1)


def order_of_keys(walk: Walk) -> int:
    at = walk.child(1) * PAGE_BYTES + 16
    walk.data[at : at + 4] = walk.data[[at + 2, at + 3, at, at + 1]]
    return walk.child(1)


def child_outside(walk: Walk) -> int:
    walk.data[walk.node(walk.root, 1) + 1] = 255
    return walk.child(1)


def child_twice(walk: Walk) -> int:
    at, other = walk.node(walk.root, 1), walk.node(walk.root, 0)
    walk.data[at : at + 4] = walk.data[other : other + 4]
    return walk.child(1)


def separator_too_high(walk: Walk) -> int:
    walk.data[walk.node(walk.root, 1) + 8] += 1
    return walk.child(1)


def separator_too_low(walk: Walk) -> int:
    walk.data[walk.node(walk.root, 1) + 8] -= 1
    return walk.root


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (number_of_page, ANOTHER), (kind_of_page, FLAGS), (lower_bound, BOUNDS), (fewer_nodes, NODES),
        (length_of_key, NODES), (order_of_keys, ORDER), (child_outside, OUTSIDE), (child_twice, REPEATED),
        (separator_too_high, SEPARATOR), (separator_too_low, SEPARATOR),
    ],
)  # fmt: skip
def test_damage_has_its_name(walk: Walk, damage: Callable[[Walk], int], problem: int) -> None:
    page = damage(walk)
    assert walk()[:2] == (problem, page)


def test_a_root_outside_is_refused(walk: Walk) -> None:
    assert walk(root=walk.last + 1)[:2] == (OUTSIDE, walk.last + 1)


def test_keys_compare_as_bytes_or_as_numbers() -> None:
    data = np.frombuffer(b"ab\0\0\0\0\0\0" + b"b\0\0\0\0\0\0\0" + b"abc", np.uint8)
    assert compare(data, 0, 2, 16, 3, False) < 0 < compare(data, 16, 3, 0, 2, False)
    assert compare(data, 0, 2, 16, 2, False) == 0
    assert compare(data, 0, 8, 8, 8, True) > 0 > compare(data, 0, 8, 8, 8, False)
