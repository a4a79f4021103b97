"""The kernel that verifies the B+trees in LMDB's file before LMDB walks them: LMDB has no checksums, and a damaged page
ends its process, or hides entries.

A page of 4,096 bytes begins with its number (8 bytes), 2 unused bytes, its flags, and where its free space begins
(`lower`) and ends (`upper`), 2 bytes each. Then come 2-byte offsets of the nodes, in the order of their keys. A node
has a head of 8 bytes (data size or child: the lower and the upper half, flags, key size), the key and its data, padded
to an even length; nodes fill the page from `upper` on without gaps. An overflow page has the number of its pages in
place of `lower` and `upper`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..runtime.jit import BOOL, BYTES, I64, INT, U8, kernel

PAGE_BYTES = 4096
HEADER = 16
NODE = 8
BRANCH, LEAF, OVERFLOW = 1, 2, 4  # flags of pages
BIG, SUBTREE = 1, 2  # flags of nodes: the data is the number of an overflow page, or describes a tree
UNUSED, TAKEN, FREE_PAGE = 0, 1, 2  # marks of pages
DEPTH_MAX = 32  # of a tree in LMDB
KEY_BYTES_MAX = 511
# What `walk_tree` counts, and where it says what it found.
ENTRIES, BRANCHES, LEAVES, OVERFLOWS, BAD_PAGE, FREE_COUNT, COUNTS = 0, 1, 2, 3, 4, 5, 6
# What is wrong with a page; the texts are in `catalog/btree_check.py`.
WHOLE_TREE, OUTSIDE, REPEATED, ANOTHER, FLAGS, BOUNDS, NODES, ORDER, SEPARATOR, FREE_LIST, BIG_VALUE = range(11)


@njit(inline="always")
def load16(data, at):
    """Return the 2-byte number at an offset."""
    return np.int64(data[at]) | np.int64(data[at + 1]) << 8


@njit(inline="always")
def load48(data, at):
    """Return the 6-byte number at an offset."""
    return load16(data, at) | load16(data, at + 2) << 16 | load16(data, at + 4) << 32


@njit(inline="always")
def load63(data, at):
    """Return the 8-byte number at an offset; -1 for one that is no page or count."""
    high = load16(data, at + 6)
    return np.int64(-1) if high else load48(data, at)


@njit
def compare(data, a, a_length, b, b_length, by_number):
    """Return a negative number, 0 or a positive one, as key a is less than, equal to or greater than b.

    by_number: keys are little-endian numbers of 8 bytes."""
    if by_number:
        for i in range(7, -1, -1):
            if data[a + i] != data[b + i]:
                return np.int64(data[a + i]) - np.int64(data[b + i])
        return np.int64(0)
    for i in range(min(a_length, b_length)):
        if data[a + i] != data[b + i]:
            return np.int64(data[a + i]) - np.int64(data[b + i])
    return np.int64(a_length - b_length)


@njit
def check_nodes(data, start, is_leaf, covered):
    """Return NODES or BOUNDS unless the nodes of a page fill it from `upper` to its end; else WHOLE_TREE."""
    lower, upper = load16(data, start + 12), load16(data, start + 14)
    if lower < HEADER or lower > upper or upper > PAGE_BYTES or lower & 1 or lower == HEADER:
        return BOUNDS
    covered[upper:] = 0
    total = 0
    for i in range((lower - HEADER) >> 1):
        at = load16(data, start + HEADER + 2 * i)
        if at < upper or at & 1 or at + NODE > PAGE_BYTES:
            return NODES
        key, flags = load16(data, start + at + 6), load16(data, start + at + 4)
        size = NODE + key
        if is_leaf:
            size += 8 if flags & BIG else load16(data, start + at) | load16(data, start + at + 2) << 16
            if key == 0 or key > KEY_BYTES_MAX or flags & ~(BIG | SUBTREE):
                return NODES
        size = (size + 1) & ~1
        if at + size > PAGE_BYTES or key > KEY_BYTES_MAX:
            return NODES
        for j in range(at, at + size):
            if covered[j]:
                return NODES
            covered[j] = 1
        total += size
    return WHOLE_TREE if total == PAGE_BYTES - upper else NODES


@njit
def take_page(data, page, last, marks):
    """Mark a page as taken; return why it cannot be, or WHOLE_TREE."""
    if page < 2 or page > last:
        return OUTSIDE
    if marks[page]:
        return REPEATED
    marks[page] = TAKEN
    return WHOLE_TREE if load63(data, page * PAGE_BYTES) == page else ANOTHER


@njit
def take_big(data, at, size, last, marks, counts):
    """Mark the overflow pages of a value whose node has its data at `at`."""
    page = load63(data, at)
    problem = take_page(data, page, last, marks)
    counts[BAD_PAGE] = page
    if problem != WHOLE_TREE:
        return problem
    pages = load16(data, page * PAGE_BYTES + 12) | load16(data, page * PAGE_BYTES + 14) << 16
    if load16(data, page * PAGE_BYTES + 10) != OVERFLOW:
        return FLAGS
    if pages < (HEADER + size + PAGE_BYTES - 1) // PAGE_BYTES or page + pages - 1 > last:  # more, after a longer value
        return BIG_VALUE
    for i in range(page + 1, page + pages):
        if marks[i]:
            return REPEATED
        marks[i] = TAKEN
    counts[OVERFLOWS] += pages
    return WHOLE_TREE


@njit
def free_pages(data, at, size, last, marks, counts):
    """Mark the pages that an entry of the list of free pages names."""
    count = load63(data, at)
    if size < 8 or count < 0 or 8 * (count + 1) > size:
        return FREE_LIST
    for i in range(1, count + 1):
        page = load63(data, at + 8 * i)
        if page < 2 or page > last or marks[page]:
            return FREE_LIST
        marks[page] = FREE_PAGE
    counts[FREE_COUNT] += count
    return WHOLE_TREE


@njit
def check_leaf(data, start, last, marks, counts, previous, by_number, is_free_list):
    """Verify the entries of a leaf. previous: offset and length of the key before, and of the separator before."""
    for i in range((load16(data, start + 12) - HEADER) >> 1):
        node = start + load16(data, start + HEADER + 2 * i)
        key, key_length, flags = node + NODE, load16(data, node + 6), load16(data, node + 4)
        if by_number and key_length != 8:
            return NODES
        if previous[0] and compare(data, previous[0], previous[1], key, key_length, by_number) >= 0:
            return ORDER
        if previous[2] and compare(data, key, key_length, previous[2], previous[3], by_number) < 0:
            return SEPARATOR
        previous[0], previous[1], previous[2] = key, key_length, 0
        size, at = load16(data, node) | load16(data, node + 2) << 16, key + key_length
        if flags & BIG:
            problem = take_big(data, at, size, last, marks, counts)
            if problem != WHOLE_TREE:
                return problem
            counts[BAD_PAGE] = start // PAGE_BYTES
            at = load63(data, at) * PAGE_BYTES + HEADER
        if is_free_list:
            problem = free_pages(data, at, size, last, marks, counts)
            if problem != WHOLE_TREE:
                return problem
        counts[ENTRIES] += 1
    return WHOLE_TREE


@kernel(BYTES, INT, INT, INT, BOOL, BOOL, U8, I64, I64, U8)
def walk_tree(data, root, depth, last, by_number, is_free_list, marks, counts, stack, covered):
    """Verify a tree of `depth` levels; add to counts[], mark its pages in marks[], and return what is wrong.

    data: the file; last: its last page; by_number: keys are numbers of 8 bytes; is_free_list: values are lists of free
    pages, which are marked, too. The page that is wrong is counts[BAD_PAGE]. stack: int64[2 * DEPTH_MAX + 4]; covered:
    uint8[PAGE_BYTES]; both are for the kernel's own use."""
    previous = stack[2 * DEPTH_MAX :]
    previous[:4] = 0
    level = 0
    stack[0], stack[1] = root, -1
    while level >= 0:
        page, child = stack[2 * level], stack[2 * level + 1]
        start = page * PAGE_BYTES
        counts[BAD_PAGE] = page
        is_leaf = level == depth - 1
        if child < 0:  # entered for the first time
            problem = take_page(data, page, last, marks)
            if problem != WHOLE_TREE:
                return problem
            if load16(data, start + 10) != (LEAF if is_leaf else BRANCH):
                return FLAGS
            problem = check_nodes(data, start, is_leaf, covered)
            if problem != WHOLE_TREE:
                return problem
            counts[LEAVES if is_leaf else BRANCHES] += 1
            if is_leaf:
                problem = check_leaf(data, start, last, marks, counts, previous, by_number, is_free_list)
                if problem != WHOLE_TREE:
                    return problem
                level -= 1
                continue
        child += 1
        if child >= (load16(data, start + 12) - HEADER) >> 1:
            level -= 1
            continue
        stack[2 * level + 1] = child
        node = start + load16(data, start + HEADER + 2 * child)
        if child:
            key, key_length = node + NODE, load16(data, node + 6)
            if (by_number and key_length != 8) or key_length == 0:
                return NODES
            if previous[0] and compare(data, previous[0], previous[1], key, key_length, by_number) >= 0:
                return SEPARATOR
            previous[2], previous[3] = key, key_length
        level += 1
        stack[2 * level], stack[2 * level + 1] = load48(data, node), -1
    return WHOLE_TREE
