"""Verify LMDB's file before LMDB walks it.

LMDB trusts its pages: a damaged one ends the process by an assertion or a fault, or hides entries. So the trees are
walked here first: each page must stand under its own number, be filled exactly, have its keys in order and between the
separators above it; entries and pages must be as many as LMDB noted; and each page of the file must be used once, or
free. Damage within a key, which none of this shows, is noticed by the checksum of the entry.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from ..errors import CorruptionError
from ..kernels.btree_pages import (
    ANOTHER,
    BAD_PAGE,
    BIG_VALUE,
    BOUNDS,
    BRANCHES,
    COUNTS,
    DEPTH_MAX,
    ENTRIES,
    FLAGS,
    FREE_COUNT,
    FREE_LIST,
    HEADER,
    LEAVES,
    NODES,
    ORDER,
    OUTSIDE,
    OVERFLOWS,
    PAGE_BYTES,
    REPEATED,
    SEPARATOR,
    WHOLE_TREE,
    walk_tree,
)

ADVICE = (
    "opening the store for writing makes it anew from the log where that is possible; else restore a backup, or copy "
    "what is whole with `pmkv check --salvage`"
)
META = struct.Struct("<IIQQ")  # magic, version, address, size of the map
TREE = struct.Struct("<IHHQQQQQ")  # page size, flags, depth; branch, leaf and overflow pages; entries; root
META_TREES, META_END = HEADER + META.size, struct.Struct("<QQ")  # last page, number of the transaction
META_FLAG, META_MAGIC, META_VERSION = 8, 0xBEEFC0DE, 1
NUMBER_KEYS = 8  # flag of a tree whose keys are numbers
NO_ROOT = (1 << 64) - 1
PROBLEMS = {
    OUTSIDE: "is named, and outside of the file",
    REPEATED: "is named twice",
    ANOTHER: "has another page's content",
    FLAGS: "is of another kind than its place needs",
    BOUNDS: "has impossible bounds",
    NODES: "is not filled by its entries",
    ORDER: "has keys out of order",
    SEPARATOR: "has keys that its parent does not lead to",
    FREE_LIST: "names free pages that are not free",
    BIG_VALUE: "has a value of impossible length",
}


@dataclass(frozen=True)
class Tree:
    """Describes a tree by LMDB's record of it: its root page, its depth and its counts."""

    flags: int
    depth: int
    branches: int
    leaves: int
    overflows: int
    entries: int
    root: int

    @classmethod
    def at(cls, data: np.ndarray, at: int) -> Tree:
        """Read the description at an offset of the file."""
        return cls(*TREE.unpack_from(memoryview(data), at)[1:])


@dataclass(frozen=True)
class Meta:
    """Describes one commit, as one of the first two pages does."""

    commit: int
    last: int
    free: Tree
    main: Tree


class BTreeFile:
    """The file of an LMDB environment as of its last commit, mapped for reading. Pages of that commit must not be
    reused meanwhile."""

    def __init__(self, path: Path) -> None:
        """Read the last commit. CorruptionError: no commit can be told from the first two pages, or the file is cut
        off."""
        self._path, self._part = path, "the state"
        self._data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
        pages = self._data.size // PAGE_BYTES
        if pages < 2:
            self._refuse(0, "is missing: the file is cut off")
        self.meta = max((self._meta(page) for page in range(2)), key=lambda meta: meta.commit)
        if self.meta.last >= pages:
            size = (self.meta.last + 1) * PAGE_BYTES
            raise CorruptionError(
                f"the catalog {path} is cut off: it has {self._data.size:,} bytes of {size:,}; {ADVICE}"
            )
        self._marks = np.zeros(self.meta.last + 1, np.uint8)
        self._free_count = 0
        self._taken = 2  # the pages of the commits themselves

    def _meta(self, page: int) -> Meta:
        start = page * PAGE_BYTES
        flags = int.from_bytes(self._data[start + 10 : start + 12].tobytes(), "little")
        magic, version, *_ = META.unpack_from(memoryview(self._data), start + HEADER)
        if (flags, magic, version) != (META_FLAG, META_MAGIC, META_VERSION):
            self._refuse(page, "does not describe a commit")
        trees = [Tree.at(self._data, start + META_TREES + TREE.size * i) for i in range(2)]
        last, commit = META_END.unpack_from(memoryview(self._data), start + META_TREES + 2 * TREE.size)
        return Meta(commit, last, *trees)

    def _refuse(self, page: int, problem: str) -> NoReturn:
        raise CorruptionError(
            f"page {page} of the catalog {self._path}, in {self._part}, is damaged: it {problem}; {ADVICE}"
        )

    def check_state(self, name: bytes) -> Tree:
        """Verify the tree of trees and the tree `name`; return the description of `keys`, the other one."""
        self._walk(self.meta.main, 0, self.meta.main.root)
        trees = self._subtrees()
        if set(trees) != {name, b"keys"}:
            self._refuse(self.meta.main.root, f"does not name the trees {name.decode()} and keys")
        self._walk(trees[name], 0, self.meta.main.root)
        return trees[b"keys"]

    def check_rest(self, keys: Tree) -> None:
        """Verify the tree of keys and the list of free pages, and that each page is used once, or free."""
        self._part = "the directory of keys"
        self._walk(keys, 0, self.meta.main.root)
        self._part = "the list of free pages"
        self._walk(self.meta.free, NUMBER_KEYS, 0)
        if self._taken + self._free_count != self.meta.last + 1:
            lost = int(np.flatnonzero(self._marks[2:] == 0)[0]) + 2 if (self._marks[2:] == 0).any() else 0
            self._refuse(lost, "is neither used nor free: another page that named it is damaged")

    def _walk(self, tree: Tree, flags: int, above: int) -> None:
        """Verify one tree. above: the page that describes it."""
        if tree.flags != flags or tree.depth > DEPTH_MAX or (tree.root == NO_ROOT) != (tree.depth == 0):
            self._refuse(above, "describes an impossible tree")
        counts = np.zeros(COUNTS, np.int64)
        if tree.depth:
            if tree.root > self.meta.last:
                self._refuse(above, "names a page outside of the file")
            stack, covered = np.zeros(2 * DEPTH_MAX + 4, np.int64), np.zeros(PAGE_BYTES, np.uint8)
            is_number = flags == NUMBER_KEYS
            problem = walk_tree(
                self._data, tree.root, tree.depth, self.meta.last, is_number, is_number, self._marks, counts, stack,
                covered,
            )  # fmt: skip
            if problem != WHOLE_TREE:
                self._refuse(int(counts[BAD_PAGE]), PROBLEMS[problem])
        found = tuple(counts[[BRANCHES, LEAVES, OVERFLOWS, ENTRIES]].tolist())
        if found != (tree.branches, tree.leaves, tree.overflows, tree.entries):
            self._refuse(above, f"tells of {tree.entries:,} entries in a tree that has {found[3]:,}")
        self._taken += sum(found[:3])
        self._free_count += int(counts[FREE_COUNT])

    def _subtrees(self) -> dict[bytes, Tree]:
        """Return the trees that the tree of trees names: it is one leaf."""
        data, start = self._data, self.meta.main.root * PAGE_BYTES
        found: dict[bytes, Tree] = {}
        if self.meta.main.depth != 1:
            return found
        lower = int.from_bytes(data[start + 12 : start + 14].tobytes(), "little")
        for at in range(start + HEADER, start + lower, 2):
            node = start + int.from_bytes(data[at : at + 2].tobytes(), "little")
            low, high, flags, length = struct.unpack_from("<4H", memoryview(data), node)
            if flags != 2 or low | high << 16 != TREE.size:
                self._refuse(self.meta.main.root, "does not describe trees")
            name = data[node + 8 : node + 8 + length].tobytes()
            found[name] = Tree.at(data, node + 8 + length)
        return found
