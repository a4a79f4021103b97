"""Kernels that probe, walk, merge and write runs.

A run is pages of 512 uint64. Its slots come first, pairs (slot hash, location) in ascending order of slot hashes. An
entry occupies the first free slot at or after the slot that its hash maps to (`slot_of`); a free slot holds the highest
slot hash and location 0. So both a hit and a miss end at the first slot whose hash is not lower than the one asked for.
The last SPARE slots are free. Entries with one slot hash (keys with equal hashes) are ordered newest first. Pages of
expiries follow the slots.

Every page has a checksum, seeded with the number of the page and the nonce of the run. A page is verified when a probe
touches it first; `verified` is a uint8 flag for each page. Kernels that meet a damaged page return its number, else
WHOLE.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ..runtime.jit import BOOL, BYTES, I64, I64_2D, IDS, INT, U8, U64, WORD, WORDS, kernel
from . import location
from .hashing import mix, rotate
from .memory import load64, prefetch
from .probe import AHEAD, RECORD_HEADER, is_damaged, same_key
from .records import FLAG_PARTS, padded

U = np.uint64
PAGE_BITS = 9
PAGE_WORDS = 1 << PAGE_BITS
REGION_BITS = 12  # leading bits of a slot hash; entries that share them are near each other in a run of any size
REGIONS = 1 << REGION_BITS
FREE = U(0xFFFFFFFFFFFFFFFF)  # the slot hash in a free slot
WHOLE = -1
PREFETCH_DISTANCE = 2 * AHEAD  # keys; a probe here takes half the time of one in a memtable
SPARE = 4  # slots after the last entry that a probe may look at
_LOW = U(0xFFFFFFFF)
_UNMIX1, _UNMIX2 = U(0x96DE1B173F119089), U(0x319642B2D24D8EC3)  # the inverses of the factors in `mix`
_CHECK1, _CHECK2 = U(0x9E3779B97F4A7C15), U(0xC2B2AE3D27D4EB4F)


@njit(inline="always")
def unmix(x, seed):
    """Return the key64 whose slot hash is x."""
    x = x ^ (x >> U(31)) ^ (x >> U(62))
    x = x * _UNMIX2
    x = x ^ (x >> U(27)) ^ (x >> U(54))
    x = x * _UNMIX1
    x = x ^ (x >> U(30)) ^ (x >> U(60))
    return x ^ seed


@njit(inline="always")
def slot_of(slot_hash, capacity):
    """Return slot_hash * capacity / 2^64, monotonic in the slot hash. The capacity is at most 2^32."""
    high, low = slot_hash >> U(32), slot_hash & _LOW
    return np.int64((high * U(capacity) + ((low * U(capacity)) >> U(32))) >> U(32))


@kernel(WORDS, INT, INT, WORD)
def check_page(words, page, number, nonce):
    """Return the checksum of a page that has this number in its run.

    Every step is a bijection of the word that it takes in, so damage within one word is always detected."""
    a = nonce ^ (U(number) * _CHECK1)
    b, c, d = rotate(a, 16), rotate(a, 32), rotate(a, 48)
    for at in range(page << PAGE_BITS, (page + 1) << PAGE_BITS, 4):
        a = rotate((a ^ words[at]) * _CHECK1, 29)
        b = rotate((b ^ words[at + 1]) * _CHECK1, 29)
        c = rotate((c ^ words[at + 2]) * _CHECK1, 29)
        d = rotate((d ^ words[at + 3]) * _CHECK1, 29)
    return mix(a, mix(b, mix(c, mix(d, _CHECK2))))


@kernel(WORDS, INT, WORD, U64)
def check_pages(words, first, nonce, checks):
    """Write the checksums of consecutive pages; the first has the number `first` in its run."""
    for i in range(checks.size):
        checks[i] = check_page(words, i, first + i, nonce)


@njit(inline="always")
def is_whole(words, checks, nonce, verified, page):
    """Return whether the page agrees with its checksum; it is computed once."""
    if verified[page] == 0:
        if check_page(words, page, page, nonce) != checks[page]:
            return False
        verified[page] = 1
    return True


@kernel(WORDS, WORDS, WORD, U8, INT, INT)
def verify_pages(words, checks, nonce, verified, first, stop):
    """Verify the pages [first, stop) that have not been verified."""
    for page in range(first, stop):
        if not is_whole(words, checks, nonce, verified, page):
            return page
    return WHOLE


@njit(inline="always")
def seek(words, verified, at, slot_hash):
    """Return (position of the first slot from `at` on whose hash is not lower, WHOLE).

    Where a page must be verified before that can be said, return (position reached, number of that page)."""
    if verified[at >> PAGE_BITS] == 0:
        return at, at >> PAGE_BITS
    if verified[(at + 6) >> PAGE_BITS] == 0:
        return at, (at + 6) >> PAGE_BITS
    # mostly one of four slots: counting the lower ones is faster than a branch that the processor cannot predict
    at += (
        2 * (words[at] < slot_hash)
        + 2 * (words[at + 2] < slot_hash)
        + 2 * (words[at + 4] < slot_hash)
        + 2 * (words[at + 6] < slot_hash)
    )
    while True:
        if at & (PAGE_WORDS - 1) == 0 and verified[at >> PAGE_BITS] == 0:
            return at, at >> PAGE_BITS
        if words[at] >= slot_hash:
            return at, WHOLE
        at += 2


@njit(inline="always")
def prefetch_slots(words, slot_hash, capacity):
    """Prefetch both cache lines that the first four slots may occupy."""
    at = 2 * slot_of(slot_hash, capacity)
    prefetch(words, at)
    prefetch(words, at + 6)


@kernel(IDS, WORD, WORDS, U64, I64, size_argument=0)
def missing_slot_hashes(ids, seed, found, slot_hashes, positions):
    """Collect the ids whose found[i] is 0: their slot hashes and these i, at the front of both arrays.

    Return how many there are."""
    count = 0
    for i in range(ids.size):
        slot_hashes[count] = mix(U(ids[i]), seed)
        positions[count] = i
        count += found[i] == U(0)
    return count


@kernel(WORDS, U8, INT, U64, I64, U64, INT, INT)
def find_verified(words, verified, capacity, slot_hashes, positions, found, start, left):
    """Continue `find_in_run` at slot_hashes[start], with `left` missing before.

    Return (how many are done, how many of these are missing, page to verify before the next, or WHOLE). The loop is a
    kernel of its own, as the processor overlaps half as many probes where the checksum is inlined. It has no branch on
    whether an entry is found, which no processor can predict."""
    for i in range(start, slot_hashes.size):
        if i + PREFETCH_DISTANCE < slot_hashes.size:
            prefetch_slots(words, slot_hashes[i + PREFETCH_DISTANCE], capacity)
        slot_hash, number = slot_hashes[i], positions[i]
        at, page = seek(words, verified, 2 * slot_of(slot_hash, capacity), slot_hash)
        if page != WHOLE:
            return i, left, page
        found[number] = words[at + 1] * U(words[at] == slot_hash)
        slot_hashes[left], positions[left] = slot_hash, number
        left += found[number] == U(0)
    return slot_hashes.size, left, WHOLE


@kernel(WORDS, WORDS, WORD, U8, INT, U64, I64, U64, size_argument=5, hold_gil_below=None)
def find_in_run(words, checks, nonce, verified, capacity, slot_hashes, positions, found):
    """Set found[positions[i]] to the location of the id whose slot hash is slot_hashes[i], 0 if there is none.

    Return (how many are missing, damaged page or WHOLE). The missing ones are moved to the front of `slot_hashes` and
    `positions`."""
    done, left, page = find_verified(words, verified, capacity, slot_hashes, positions, found, 0, 0)
    while page != WHOLE:
        if not is_whole(words, checks, nonce, verified, page):
            return left, page
        done, left, page = find_verified(words, verified, capacity, slot_hashes, positions, found, done, left)
    return left, WHOLE


@njit(inline="always")
def is_emptied(offset, emptied, first, size):
    """Return whether a segment that was emptied since the run was written has this pool offset."""
    segment = (offset - first) // max(size, 1)
    return 0 <= segment < emptied.size and emptied[segment] != 0


@kernel(WORDS, U8, INT, WORD, BYTES, WORDS, BYTES, I64_2D, WORD, BOOL, U8, INT, INT, U64, INT)
def find_keys_verified(
    words, verified, capacity, seed, data, key64s, keys, bounds, owner, verify, emptied, first, size, found, start
):
    """Continue `find_keys_in_run` at key64s[start].

    Return (how many are done, page to verify before the next, or WHOLE)."""
    for i in range(start, key64s.size):
        if i + PREFETCH_DISTANCE < key64s.size and found[i + PREFETCH_DISTANCE] == U(0):
            prefetch_slots(words, mix(key64s[i + PREFETCH_DISTANCE], seed), capacity)
        if found[i] != U(0):
            continue
        slot_hash = mix(key64s[i], seed)
        at, page = seek(words, verified, 2 * slot_of(slot_hash, capacity), slot_hash)
        while page == WHOLE and words[at] == slot_hash and words[at + 1] != U(0):
            record = location.offset_of(words[at + 1])
            if not is_emptied(record, emptied, first, size) and (
                same_key(data, record, keys, bounds[i, 0], bounds[i, 1] - bounds[i, 0])
                or (verify and is_damaged(data, words[at + 1], owner))
            ):
                found[i] = words[at + 1]
                break
            at, page = seek(words, verified, at + 2, slot_hash)
        if page != WHOLE:
            return i, page
    return key64s.size, WHOLE


@kernel(
    WORDS,
    WORDS,
    WORD,
    U8,
    INT,
    WORD,
    BYTES,
    WORDS,
    BYTES,
    I64_2D,
    WORD,
    BOOL,
    U8,
    INT,
    INT,
    U64,
    size_argument=7,
    hold_gil_below=None,
)
def find_keys_in_run(
    words, checks, nonce, verified, capacity, seed, data, key64s, keys, bounds, owner, verify, freed, first, size, found
):
    """Set found[i], where it is 0, to the location of the key keys[bounds[i, 0] : bounds[i, 1]] with hash key64s[i].

    verify: a damaged record that may be the one asked for is found instead of an older one. freed: flags of the
    segments whose entries count for nothing; these have `size` bytes and begin at pool offset `first`. Return the
    damaged page or WHOLE."""
    done, page = find_keys_verified(
        words, verified, capacity, seed, data, key64s, keys, bounds, owner, verify, freed, first, size, found, 0
    )
    while page != WHOLE:
        if not is_whole(words, checks, nonce, verified, page):
            return page
        done, page = find_keys_verified(
            words, verified, capacity, seed, data, key64s, keys, bounds, owner, verify, freed, first, size, found, done
        )
    return WHOLE


@kernel(WORDS, INT, INT, WORD, U64, U64)
def collect_run(words, first, stop, first_slot_hash, slot_hashes, locations):
    """Copy the entries of slots [first, stop) with slot hash >= first_slot_hash; return how many.

    The caller has verified the pages."""
    count = 0
    for at in range(2 * first, 2 * stop, 2):
        if words[at + 1] != U(0) and words[at] >= first_slot_hash:
            slot_hashes[count] = words[at]
            locations[count] = words[at + 1]
            count += 1
    return count


@kernel(WORDS, WORD, U64)
def key64s_of(slot_hashes, seed, key64s):
    """Set key64s[i] to the key64 whose slot hash is slot_hashes[i]."""
    for i in range(slot_hashes.size):
        key64s[i] = unmix(slot_hashes[i], seed)


@kernel(WORDS, WORD, I64, I64)
def order_by_slot(key64s, seed, ends, order):
    """Set order to the indices of all key64s, grouped by the leading bits of their slot hash.

    Such groups are near each other in a run of any size. A counting sort, ten times as fast as sorting whole slot
    hashes. ends: scratch, REGIONS zeros."""
    for key64 in key64s:
        ends[mix(key64, seed) >> np.uint64(64 - REGION_BITS)] += 1
    for region in range(1, ends.size):
        ends[region] += ends[region - 1]
    for i in range(key64s.size - 1, -1, -1):
        region = mix(key64s[i], seed) >> np.uint64(64 - REGION_BITS)
        ends[region] -= 1
        order[ends[region]] = i


@kernel(WORDS, WORDS, U8, INT, INT, INT, U64, INT)
def fill_slots(slot_hashes, locations, keep, capacity, first, free, buffer, start):
    """Place the entries[start:] that `keep` selects into `buffer`, which holds the slots from number `first` on.

    Slots below number `free` are occupied. Return (how many entries are done, the new `free`); the other entries do not
    fit into the buffer."""
    stop = first + (buffer.size >> 1)
    for i in range(start, slot_hashes.size):
        if not keep[i]:
            continue
        slot = max(free, slot_of(slot_hashes[i], capacity))
        if slot >= stop:
            return i, free
        buffer[2 * (slot - first)] = slot_hashes[i]
        buffer[2 * (slot - first) + 1] = locations[i]
        free = slot + 1
    return slot_hashes.size, free


@kernel(WORDS, WORDS, U8, WORDS, WORDS, U8, U64, U64, U8)
def merge_entries(
    slot_hashes, locations, marks, older_slot_hashes, older_locations, older_marks, out_slot_hashes, out, out_marks
):
    """Merge two ascending lists; of equal slot hashes those of the first list come first. Marks are copied along."""
    i, j = 0, 0
    for k in range(out.size):
        if j == older_slot_hashes.size or (i < slot_hashes.size and slot_hashes[i] <= older_slot_hashes[j]):
            out_slot_hashes[k] = slot_hashes[i]
            out[k] = locations[i]
            out_marks[k] = marks[i]
            i += 1
        else:
            out_slot_hashes[k] = older_slot_hashes[j]
            out[k] = older_locations[j]
            out_marks[k] = older_marks[j]
            j += 1


@njit(inline="always")
def same_record(data, a, b):
    """Return whether the records at these pool offsets have one key; if one is damaged, perhaps False."""
    length = np.int64((load64(data, b) >> U(32)) & U(0xFFFFFF))
    return max(a, b) + RECORD_HEADER + length <= data.size and same_key(data, a, data, b + RECORD_HEADER, length)


@kernel(WORDS, WORDS, BYTES, BOOL, BOOL, U8)
def choose(slot_hashes, locations, data, keyed, bottom, keep):
    """Set keep[i] to whether the merged entry i is still needed; return how many are.

    An entry is not needed if a newer one has the same key64 and, if `keyed`, the same key. At the bottom a delete is
    not needed either, unless other entries share its hash: the record that it deletes may be unreadable."""
    needed, i = 0, 0
    while i < slot_hashes.size:
        stop, kept = i, 0
        while stop < slot_hashes.size and slot_hashes[stop] == slot_hashes[i]:
            keep[stop] = 1
            for newer in range(i, stop):
                if not keyed or same_record(
                    data, location.offset_of(locations[stop]), location.offset_of(locations[newer])
                ):
                    keep[stop] = 0
                    break
            kept += keep[stop]
            stop += 1
        if bottom and kept == 1 and locations[i] & location.DELETE:
            keep[i] = 0
            kept = 0
        needed += kept
        i = stop
    return needed


@njit(inline="always")
def weigh_chunks(data, at, stop, first, size, chunk_size, sign, out):
    """Add the lengths of the chunks that the list in [at, stop) names, each to its own segment."""
    left = np.int64(load64(data, at))
    for entry in range(at + 8, stop - 7, 8):
        segment = (location.offset_of(load64(data, entry)) - first) // size
        if left > 0 and 0 <= segment < out.size:
            out[segment] += sign * min(chunk_size, left)
        left -= chunk_size


@kernel(BYTES, WORDS, U8, U8, INT, INT, INT, INT, I64)
def weigh(data, locations, marks, keep, width, first, size, chunk_size, out):
    """Add to out[segment] the bytes of entries kept and not marked; subtract those of entries marked and not kept.

    Other records are not read. Return by how many records that list chunks this changes a run. width: bytes of a row;
    0: records of a keyspace. Segments of `size` bytes begin at pool offset `first`; large values are cut into chunks of
    `chunk_size` bytes. A record whose header is damaged counts as its header alone."""
    lists = 0
    for i in range(locations.size):
        if width == 0 and i + AHEAD < locations.size and keep[i + AHEAD] != marks[i + AHEAD]:
            prefetch(data, location.offset_of(locations[i + AHEAD]))
        if keep[i] == marks[i]:
            continue
        sign = np.int64(keep[i]) - np.int64(marks[i])
        at = location.offset_of(locations[i])
        segment = (at - first) // size
        if width:
            out[segment] += 0 if locations[i] & location.DELETE else sign * width
            continue
        word = load64(data, at)
        key = at + RECORD_HEADER
        value = key + np.int64((word >> U(32)) & U(0xFFFFFF))
        stop = value + np.int64(word & U(0xFFFFFFFF))
        if key + padded(stop - key) > first + (segment + 1) * size:
            value = stop = key
        out[segment] += sign * (RECORD_HEADER + padded(stop - key))
        if (word >> U(56)) & U(FLAG_PARTS) and stop - value >= 8:
            weigh_chunks(data, value, stop, first, size, chunk_size, sign, out)
            lists += sign
    return lists


@kernel(WORDS, WORDS, WORD, U8, INT, INT, WORD)
def count_until(words, checks, nonce, verified, first, count, limit):
    """Return (how many of `count` ascending words from `first` on are at most `limit`, damaged page or WHOLE)."""
    low, high = 0, count
    while low < high:
        middle = (low + high) >> 1
        page = (first + middle) >> PAGE_BITS
        if not is_whole(words, checks, nonce, verified, page):
            return 0, page
        if words[first + middle] <= limit:
            low = middle + 1
        else:
            high = middle
    return low, WHOLE
