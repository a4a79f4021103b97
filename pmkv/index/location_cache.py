"""The hot-set index: locations of words that are asked for again and again, in front of the runs of one chain.

`kernels.hot` says how it is laid out and who is let in. It begins as one page and grows a block at a time, so that no
call moves more than some thousand slots: where many of those let in had to push others out, and either the slots
are taken or it happened to a good part of what was asked. Growing keeps all that is in it.

Assumes: the caller holds the store's lock; what it offers is what the runs of the chain say now (whoever probes them
without the lock looks, before it offers, whether the chain was exchanged meanwhile); written or deleted words are
forgotten in the same hold of the lock.
"""

from __future__ import annotations

import mmap
from weakref import WeakSet

import numpy as np

from ..kernels import location_cache
from ..kernels.location_cache import SET_WORDS, SLOTS
from .arena import PAGE_WORDS, Arena

SMALLEST, LARGEST = PAGE_WORDS // SET_WORDS, 32 * PAGE_WORDS // SET_WORDS  # sets of a block: 4 KiB, 128 KiB
MAX_DEPTH = 24
BLOCK = LARGEST * SET_WORDS * 8  # bytes
GROWTHS = 1  # blocks that one call may grow, in some tenths of a millisecond
KEPT = 512  # times that somebody offers words, until another block that nobody needs is given back
PATIENCE = 32  # times as many asked as there are slots, until growing would not change the hit rate
SELDOM = 8  # where hardly anything is found, every so manieth offer is taken


class CacheBudget:
    """Bytes of DRAM that all hot-set indexes of a store share.

    An eighth is for the doorkeeper: it remembers a few more of the words last offered than there can be slots, so that
    whatever would fit is noticed at its second miss, however small the indexes are yet. While a block grows, its old
    place (128 KiB at most) is not counted.
    """

    def __init__(self, size: int) -> None:
        # a mapping, as NumPy asks for huge pages: the first batch would wait until all of them are zeroed
        self.marks = np.frombuffer(mmap.mmap(-1, max(size // 64, 1) * 8, flags=mmap.MAP_PRIVATE), np.uint64)
        self.size, self.used = size, self.marks.nbytes
        self.sharers: WeakSet[LocationCache] = WeakSet()
        self._period = 0  # words asked for until the last one ended
        self._left: list[tuple[Arena, int]] = []  # heap and base of large blocks that indexes left, as they were
        self._offered = 0

    def take(self, n: int) -> bool:
        """Whether there were so many bytes left: they are taken."""
        if self.used + n > self.size:
            return False
        self.used += n
        return True

    def give(self, n: int) -> None:
        """So many bytes are not used any more."""
        self.used -= n

    @property
    def kept(self) -> int:
        """Bytes of blocks that nobody needs now, beside those used."""
        return len(self._left) * BLOCK

    def leave(self, heap: Arena, base: int, sets: int) -> None:
        """An index gave this block up, and its bytes. Large ones are kept as long as nobody needs the room: a chain
        that was exchanged asks for as many soon, and pages from the system cost ten times as much as zeroing these."""
        if sets == LARGEST:
            self._left.append((heap, base))
        else:
            heap.free(base, sets * SET_WORDS)

    def block(self, heap: Arena, sets: int) -> int:
        """A zeroed block, for whose bytes the caller has asked: one that was left, if there is one."""
        if sets == LARGEST and self._left and self._left[-1][0] is heap:
            base = self._left.pop()[1]
            heap.words[base : base + LARGEST * SET_WORDS] = 0
            return base
        self.make_room()
        return heap.allocate(sets * SET_WORDS)

    def make_room(self) -> None:
        """What is used and what is kept fit together."""
        while self._left and self.used + self.kept > self.size:
            self._release()

    def offered(self) -> None:
        """Somebody offers words: now and then, give back a block that is kept. Many at once would take long."""
        self._offered += 1
        if self._left and self._offered % KEPT == 0:
            self._release()

    def _release(self) -> None:
        heap, base = self._left.pop()
        heap.free(base, LARGEST * SET_WORDS)

    def take_over(self, n: int, taker: LocationCache) -> bool:
        """`take`, if need be from the index that has the fewest hits a byte, if that is less than half of the taker's.

        Two to one, so that equals do not take from each other for ever."""
        self._end_period()
        for _ in range(2):  # a block that is shed leaves a page behind
            if self.take(n):
                return True
            least = min((index for index in self.sharers if index.nbytes >= n), key=LocationCache.worth, default=taker)
            if least is taker or 2 * least.worth() >= taker.promise() / (taker.nbytes + n) or not least.shed():
                return False
        return self.take(n)

    def _end_period(self) -> None:
        """A period is as many words asked for as there can be slots."""
        asked = sum(index.hits + index.misses for index in self.sharers)
        if not 0 <= asked - self._period < self.size // 16:
            self._period = asked
            for index in self.sharers:
                index.end_period()


class LocationCache:
    """A cache of word -> location. `hits` and `misses` count words asked for, `admitted` and `evicted` those that came
    and were pushed out."""

    def __init__(self, heap: Arena, budget: CacheBudget, seed: int) -> None:
        self._heap, self._budget, self.seed = heap, budget, np.uint64(seed)
        self.hits = self.misses = self.admitted = self.evicted = self._turn = 0
        self._before = self._since = 0, 0  # hits and evicted when the last period of the budget began, and this one
        budget.sharers.add(self)
        self._empty()

    def _empty(self) -> None:
        self.depth = 0
        self.directory = np.zeros(1, np.int64)
        self.subs = np.zeros((0, 4), np.int64)  # base, sets, evicted since the last look, depth
        self._looked = np.zeros(0, np.int64)  # words asked for until the last look

    @property
    def _shape(self) -> tuple:
        return self._heap.words, self.directory, self.subs, self.depth, self.seed

    def find(self, ids: np.ndarray, found: np.ndarray) -> int:
        """Fill found (uint64) where it is 0 and the word is here; returns how many were."""
        if not len(self.subs):
            return self._count(found.size - int(np.count_nonzero(found)), 0)
        return self._count(*location_cache.find_hot(*self._shape, ids.view(np.int64), found))

    def find_keys(
        self, data: np.ndarray, words: np.ndarray, keys: np.ndarray, bounds: np.ndarray, found: np.ndarray
    ) -> int:
        """The same of keys, as OpenIndex.find_keys: their records in `data` are compared with them."""
        if not len(self.subs):
            return self._count(found.size - int(np.count_nonzero(found)), 0)
        return self._count(*location_cache.find_hot_keys(*self._shape, data, words, keys, bounds, found))

    def _count(self, asked: int, hits: int) -> int:
        self.hits += hits
        self.misses += asked - hits
        return hits

    def admit(self, words: np.ndarray, locations: np.ndarray) -> None:
        """Offer what was found in the runs (locations of 0 are passed over): what is offered again soon gets in."""
        self._budget.offered()
        if not len(self.subs):
            if not self._budget.take_over(SMALLEST * SET_WORDS * 8, self):
                return
            self._add_sub(SMALLEST, 0)
        admitted, evicted = location_cache.admit(*self._shape, self._budget.marks, words.view(np.int64), locations)
        self.admitted += admitted
        self.evicted += evicted
        if evicted:
            crowded = np.flatnonzero(2 * self.subs[:, 2] >= SLOTS * self.subs[:, 1])
            for sub in crowded[:GROWTHS].tolist():
                self._look(sub)

    def forget(self, words: np.ndarray) -> None:
        """Written or deleted words leave."""
        if len(self.subs):
            location_cache.forget(*self._shape, words.view(np.int64))

    def _add_sub(self, sets: int, depth: int) -> int:
        base = self._budget.block(self._heap, sets)
        self.subs = np.vstack([self.subs, np.array([[base, sets, 0, depth]], np.int64)])
        self._looked = np.append(self._looked, self.hits + self.misses)
        return len(self.subs) - 1

    def _look(self, sub: int) -> None:
        """Half as many as a block's slots were pushed out: grow it if that profits and there is DRAM left."""
        base, sets, _, depth = self.subs[sub].tolist()
        asked, self._looked[sub] = self.hits + self.misses - int(self._looked[sub]), self.hits + self.misses
        self.subs[sub, 2] = 0
        profits = (asked >> depth) <= PATIENCE * SLOTS * sets or 8 * self._taken(sub) >= 7 * SLOTS * sets
        splits = sets == LARGEST
        if not profits or (splits and depth == MAX_DEPTH) or not self._budget.take_over(sets * SET_WORDS * 8, self):
            return
        if splits:
            self._split(sub, depth)
        else:
            self.subs[sub] = (self._budget.block(self._heap, 2 * sets), 2 * sets, 0, depth)
        location_cache.spread(self._heap.words, base, sets, *self._shape[1:])
        self._budget.leave(self._heap, base, sets)
        self._budget.make_room()

    def _split(self, sub: int, depth: int) -> None:
        """One more bit of the place decides: half of the directory's entries for this block name a new one."""
        if depth == self.depth:
            self.directory = np.repeat(self.directory, 2)
            self.depth += 1
        self.subs[sub] = (self._budget.block(self._heap, LARGEST), LARGEST, 0, depth + 1)
        other = self._add_sub(LARGEST, depth + 1)
        span = 1 << (self.depth - depth)  # entries that named the block
        first = int(np.flatnonzero(self.directory == sub)[0])
        self.directory[first + span // 2 : first + span] = other

    def _slots(self, sub: int) -> np.ndarray:
        """(word, location) of each slot of a block, set by set: uint64[sets, SLOTS, 2]."""
        base, sets = self.subs[sub, :2].tolist()
        return self._heap.words[base : base + sets * SET_WORDS].reshape(sets, SLOTS, 2)

    def _taken(self, sub: int) -> int:
        return int(np.count_nonzero(self._slots(sub)[:, :, 1]))

    def end_period(self) -> None:
        """The budget begins to count anew."""
        self._before, self._since = self._since, (self.hits, self.evicted)

    def wants(self) -> bool:
        """Should what was found in the runs be offered? Without the lock. Where far more is asked for than there can
        be slots, and less than an eighth of it is found here, now and then will do: what is asked for often gets in
        all the same, and offers take their part of a read's time."""
        asked = self.hits + self.misses
        if asked < PATIENCE * (self._budget.size // 16) or SELDOM * self.hits > asked:
            return True
        self._turn += 1
        return self._turn % SELDOM == 0

    def worth(self) -> float:
        """Hits a byte, in this period and the last."""
        return (self.hits - self._before[0]) / self.nbytes

    def promise(self) -> int:
        """Hits that more slots promise: those it has, and who was pushed out would be found; the first page is free."""
        return self.hits - self._before[0] + self.evicted - self._before[1] if self.nbytes else self.misses

    def shed(self) -> bool:
        """Empty the first large block, for another index that makes more of its bytes. Returns whether there is one."""
        large = np.flatnonzero(self.subs[:, 1] > SMALLEST)
        if large.size:
            base, sets, _, depth = self.subs[large[0]].tolist()
            self.subs[large[0]] = (self._budget.block(self._heap, SMALLEST), SMALLEST, 0, depth)
            self._budget.give((sets - SMALLEST) * SET_WORDS * 8)
            self._budget.leave(self._heap, base, sets)
        return large.size > 0

    def __len__(self) -> int:
        return sum(self._taken(sub) for sub in range(len(self.subs)))

    @property
    def nbytes(self) -> int:
        return int(self.subs[:, 1].sum()) * SET_WORDS * 8

    def clear(self) -> None:
        """Forget everything and leave the memory to whoever needs it; the counters go on."""
        self._budget.give(self.nbytes)
        for base, sets in self.subs[:, :2].tolist():
            self._budget.leave(self._heap, base, sets)
        self._empty()

    def check(self) -> None:
        """Every slot is found again from its word, no word stands in two, those taken stand in front, the directory
        covers every block in one aligned part."""
        assert self.nbytes <= self._budget.used
        words = []
        for sub, (_, _, _, depth) in enumerate(self.subs.tolist()):
            entries = np.flatnonzero(self.directory == sub)
            assert entries.size == 1 << (self.depth - depth) and entries[0] % entries.size == 0
            assert np.ptp(entries) == entries.size - 1
            slots = self._slots(sub)
            taken = slots[:, :, 1] != 0
            assert (taken[:, :-1] >= taken[:, 1:]).all()
            words.append(slots[taken][:, 0])
        every = np.concatenate([np.empty(0, np.uint64), *words])
        assert np.unique(every).size == every.size
        if every.size:
            found = np.zeros(every.size, np.uint64)
            # all are found, and the counters know nothing of it
            assert location_cache.find_hot(*self._shape, every.view(np.int64), found) == (every.size, every.size)
