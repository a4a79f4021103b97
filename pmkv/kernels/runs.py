"""Finding words in a run, and what writing and folding runs is made of.

A run is pages of 512 uint64. Its slots come first, (place, location) each, in ascending order of places: an entry
stands in the first free slot at or behind that of its place (`slot_of`), a free slot holds the highest place and
location 0. So a hit and a miss both end at the first slot whose place is not lower than the one that is looked for.
The last SPARE slots are free.
Entries of one place (keys with equal hashes) stand newest first. Behind the slots there are pages of expiries.

Every page has a checksum, seeded with its number and the run's nonce, and is verified when it is touched first; `seen`
says which have been. Kernels that meet a damaged page return its number, else WHOLE.
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
REGION_BITS = 12  # of a place, to be near others
REGIONS = 1 << REGION_BITS
FREE = U(0xFFFFFFFFFFFFFFFF)  # the place in a free slot
WHOLE = -1
FAR_AHEAD = 2 * AHEAD  # a probe here takes half the time of one in an open index
SPARE = 4  # slots behind the last entry that a probe may look at
_LOW = U(0xFFFFFFFF)
_UNMIX1, _UNMIX2 = U(0x96DE1B173F119089), U(0x319642B2D24D8EC3)  # the inverses of the factors in `mix`
_CHECK1, _CHECK2 = U(0x9E3779B97F4A7C15), U(0xC2B2AE3D27D4EB4F)


@njit(inline="always")
def unmix(x, seed):
    """The word whose place is x."""
    x = x ^ (x >> U(31)) ^ (x >> U(62))
    x = x * _UNMIX2
    x = x ^ (x >> U(27)) ^ (x >> U(54))
    x = x * _UNMIX1
    x = x ^ (x >> U(30)) ^ (x >> U(60))
    return x ^ seed


@njit(inline="always")
def slot_of(place, capacity):
    """place * capacity / 2^64: never less for a higher place. The capacity is at most 2^32."""
    high, low = place >> U(32), place & _LOW
    return np.int64((high * U(capacity) + ((low * U(capacity)) >> U(32))) >> U(32))


@kernel(WORDS, INT, INT, WORD)
def check_page(words, page, number, nonce):
    """The checksum of a page that has this number in its run. Every step is a bijection of what it takes in: damage
    within one word is always seen."""
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
    """The checksums of pages of which the first has this number in its run."""
    for i in range(checks.size):
        checks[i] = check_page(words, i, first + i, nonce)


@njit(inline="always")
def is_whole(words, checks, nonce, seen, page):
    """Does the page agree with its checksum? Looked at once."""
    if seen[page] == 0:
        if check_page(words, page, page, nonce) != checks[page]:
            return False
        seen[page] = 1
    return True


@kernel(WORDS, WORDS, WORD, U8, INT, INT)
def verify_pages(words, checks, nonce, seen, first, stop):
    """Verify the pages [first, stop) that have not been seen."""
    for page in range(first, stop):
        if not is_whole(words, checks, nonce, seen, page):
            return page
    return WHOLE


@njit(inline="always")
def seek(words, seen, at, place):
    """(where the first slot from `at` on stands whose place is not lower, the page that has to be verified before that
    can be said, or WHOLE)."""
    if seen[at >> PAGE_BITS] == 0:
        return at, at >> PAGE_BITS
    if seen[(at + 6) >> PAGE_BITS] == 0:
        return at, (at + 6) >> PAGE_BITS
    # most are among four slots: the processor counts those before sooner than it guesses where to stop
    at += (
        2 * (words[at] < place)
        + 2 * (words[at + 2] < place)
        + 2 * (words[at + 4] < place)
        + 2 * (words[at + 6] < place)
    )
    while True:
        if at & (PAGE_WORDS - 1) == 0 and seen[at >> PAGE_BITS] == 0:
            return at, at >> PAGE_BITS
        if words[at] >= place:
            return at, WHOLE
        at += 2


@njit(inline="always")
def prefetch_slots(words, place, capacity):
    """Ask for both cache lines that the four slots may stand in."""
    at = 2 * slot_of(place, capacity)
    prefetch(words, at)
    prefetch(words, at + 6)


@kernel(IDS, WORD, WORDS, U64, I64, brief=0)
def missing_places(ids, seed, found, places, which):
    """The places of the ids whose found[i] is 0, and these i, in front of `places` and `which`; returns how many."""
    count = 0
    for i in range(ids.size):
        places[count] = mix(U(ids[i]), seed)
        which[count] = i
        count += found[i] == U(0)
    return count


@kernel(WORDS, U8, INT, U64, I64, U64, INT, INT)
def find_seen(words, seen, capacity, places, which, found, start, left):
    """As find_in_run from places[start] on, where `left` are left of those before; returns (how many are done, how many
    of them are left, the page to be verified before the next, or WHOLE). A loop of its own: with the checksum inside,
    the processor overlaps half as many probes; and whether a place is here changes nothing of its course, as nobody can
    guess that."""
    for i in range(start, places.size):
        if i + FAR_AHEAD < places.size:
            prefetch_slots(words, places[i + FAR_AHEAD], capacity)
        place, number = places[i], which[i]
        at, page = seek(words, seen, 2 * slot_of(place, capacity), place)
        if page != WHOLE:
            return i, left, page
        found[number] = words[at + 1] * U(words[at] == place)
        places[left], which[left] = place, number
        left += found[number] == U(0)
    return places.size, left, WHOLE


@kernel(WORDS, WORDS, WORD, U8, INT, U64, I64, U64, brief=5, few=None)
def find_in_run(words, checks, nonce, seen, capacity, places, which, found):
    """found[which[i]] = the location of the id whose place is places[i], 0 if it is not here. Returns (how many are
    not: they stand in front of `places` and `which` now; damaged page or WHOLE)."""
    done, left, page = find_seen(words, seen, capacity, places, which, found, 0, 0)
    while page != WHOLE:
        if not is_whole(words, checks, nonce, seen, page):
            return left, page
        done, left, page = find_seen(words, seen, capacity, places, which, found, done, left)
    return left, WHOLE


@kernel(WORDS, U8, INT, WORD, BYTES, WORDS, BYTES, I64_2D, WORD, BOOL, U64, INT)
def find_keys_seen(words, seen, capacity, seed, data, hashes, keys, bounds, owner, verify, found, start):
    """As find_keys_in_run from hashes[start] on; returns (how many are done, the page to be verified before the next,
    or WHOLE)."""
    for i in range(start, hashes.size):
        if i + FAR_AHEAD < hashes.size and found[i + FAR_AHEAD] == U(0):
            prefetch_slots(words, mix(hashes[i + FAR_AHEAD], seed), capacity)
        if found[i] != U(0):
            continue
        place = mix(hashes[i], seed)
        at, page = seek(words, seen, 2 * slot_of(place, capacity), place)
        while page == WHOLE and words[at] == place and words[at + 1] != U(0):
            record = location.offset_of(words[at + 1])
            if same_key(data, record, keys, bounds[i, 0], bounds[i, 1] - bounds[i, 0]) or (
                verify and is_damaged(data, words[at + 1], owner)
            ):
                found[i] = words[at + 1]
                break
            at, page = seek(words, seen, at + 2, place)
        if page != WHOLE:
            return i, page
    return hashes.size, WHOLE


@kernel(WORDS, WORDS, WORD, U8, INT, WORD, BYTES, WORDS, BYTES, I64_2D, WORD, BOOL, U64, brief=7, few=None)
def find_keys_in_run(words, checks, nonce, seen, capacity, seed, data, hashes, keys, bounds, owner, verify, found):
    """The same of keys: their hashes, and where they stand in `keys`. With `verify`, a damaged record that may be the
    one asked for is found instead of an older one."""
    done, page = find_keys_seen(words, seen, capacity, seed, data, hashes, keys, bounds, owner, verify, found, 0)
    while page != WHOLE:
        if not is_whole(words, checks, nonce, seen, page):
            return page
        done, page = find_keys_seen(words, seen, capacity, seed, data, hashes, keys, bounds, owner, verify, found, done)
    return WHOLE


@kernel(WORDS, INT, INT, WORD, U64, U64)
def collect_run(words, first, stop, first_place, places, locations):
    """Copy what stands in slots [first, stop) at `first_place` or behind; returns how many. The pages are verified."""
    count = 0
    for at in range(2 * first, 2 * stop, 2):
        if words[at + 1] != U(0) and words[at] >= first_place:
            places[count] = words[at]
            locations[count] = words[at + 1]
            count += 1
    return count


@kernel(WORDS, WORD, U64)
def words_at(places, seed, words):
    """words[i] = the word whose place is places[i]."""
    for i in range(places.size):
        words[i] = unmix(places[i], seed)


@kernel(WORDS, WORD, I64, I64)
def order_by_place(words, seed, ends, order):
    """order = the numbers of all words, those with the same beginning of their place behind each other: in a run of any
    size they stand close together. A counting sort, ten times as fast as one of whole places. ends: REGIONS zeros."""
    for word in words:
        ends[mix(word, seed) >> np.uint64(64 - REGION_BITS)] += 1
    for region in range(1, ends.size):
        ends[region] += ends[region - 1]
    for i in range(words.size - 1, -1, -1):
        region = mix(words[i], seed) >> np.uint64(64 - REGION_BITS)
        ends[region] -= 1
        order[ends[region]] = i


@kernel(WORDS, WORDS, U8, INT, INT, INT, U64, INT)
def fill_slots(places, locations, keep, capacity, first, free, buffer, start):
    """Enter those of entries[start:] that are kept in `buffer`, the slots from number `first` on; those below number
    `free` are taken.

    Returns (how many entries are done, the new `free`): those left do not fit into the buffer."""
    stop = first + (buffer.size >> 1)
    for i in range(start, places.size):
        if not keep[i]:
            continue
        slot = max(free, slot_of(places[i], capacity))
        if slot >= stop:
            return i, free
        buffer[2 * (slot - first)] = places[i]
        buffer[2 * (slot - first) + 1] = locations[i]
        free = slot + 1
    return places.size, free


@kernel(WORDS, WORDS, U8, WORDS, WORDS, U8, U64, U64, U8)
def merge_entries(places, locations, marks, older_places, older_locations, older_marks, out_places, out, out_marks):
    """Two ascending lists as one; of equal places those of the first come first. Marks go along."""
    i, j = 0, 0
    for k in range(out.size):
        if j == older_places.size or (i < places.size and places[i] <= older_places[j]):
            out_places[k] = places[i]
            out[k] = locations[i]
            out_marks[k] = marks[i]
            i += 1
        else:
            out_places[k] = older_places[j]
            out[k] = older_locations[j]
            out_marks[k] = older_marks[j]
            j += 1


@njit(inline="always")
def same_record(data, a, b):
    """Have the records at these pool offsets one key? If one of them is damaged, perhaps not."""
    length = np.int64((load64(data, b) >> U(32)) & U(0xFFFFFF))
    return max(a, b) + RECORD_HEADER + length <= data.size and same_key(data, a, data, b + RECORD_HEADER, length)


@kernel(WORDS, WORDS, BYTES, BOOL, BOOL, U8)
def choose(places, locations, data, keyed, bottom, keep):
    """keep[i] = is this entry of a merged list still needed? Not if a newer one has the same word, and the same key
    (keyed); at the bottom a delete is not, unless it stands beside others of its hash: whose key it has may then be
    unreadable. Returns how many are needed."""
    needed, i = 0, 0
    while i < places.size:
        stop, kept = i, 0
        while stop < places.size and places[stop] == places[i]:
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
def weigh_parts(data, at, stop, first, size, part, sign, out):
    """Add the lengths of the parts that the list in [at, stop) names, each to its own segment."""
    left = np.int64(load64(data, at))
    for entry in range(at + 8, stop - 7, 8):
        segment = (location.offset_of(load64(data, entry)) - first) // size
        if left > 0 and 0 <= segment < out.size:
            out[segment] += sign * min(part, left)
        left -= part


@kernel(BYTES, WORDS, U8, U8, INT, INT, INT, INT, I64)
def weigh(data, locations, marks, keep, width, first, size, part, out):
    """Add to out[segment] the bytes there that the locations refer to which are kept and not marked, and take off those
    of the marked ones that are not kept. The others are not looked at.

    width: of a row; 0: records of a keyspace. Segments of `size` bytes begin at pool offset `first`; values are cut
    into parts of `part` bytes. A record whose header is damaged counts for its header alone."""
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
            weigh_parts(data, value, stop, first, size, part, sign, out)


@kernel(WORDS, WORDS, WORD, U8, INT, INT, WORD)
def count_until(words, checks, nonce, seen, first, count, limit):
    """(how many of `count` ascending words from `first` on are at most `limit`, damaged page or WHOLE)."""
    low, high = 0, count
    while low < high:
        middle = (low + high) >> 1
        page = (first + middle) >> PAGE_BITS
        if not is_whole(words, checks, nonce, seen, page):
            return 0, page
        if words[first + middle] <= limit:
            low = middle + 1
        else:
            high = middle
    return low, WHOLE
