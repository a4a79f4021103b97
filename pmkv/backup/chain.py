"""Reading the pieces of a chain of backups as one sorted sequence of the entries that live at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import CorruptionError
from .backup_manifest import Part, Piece, PieceFiles
from .entries import Entries, KeyEntries, RowEntries

SLOT_HASHES = 1 << 64
Page = tuple[int, Any]  # entries, and the slot hash below which there are no others


def nothing(part: Part) -> Entries:
    """Return no entries of a collection."""
    return RowEntries.none(part.width) if part.width else KeyEntries.none()


def load(files: PieceFiles, part: Part, piece: Piece, with_body: bool) -> Entries:
    """Return the entries of a piece, verified. CorruptionError: it is not what was written."""
    kind = RowEntries if part.width else KeyEntries
    found = kind.decoded(piece.count, files.index(piece), files.body(piece) if with_body else None, part.width)
    if len(found) != piece.count or (found.slots[:-1] > found.slots[1:]).any():
        raise CorruptionError(f"{piece.file} of the backup {files.target_of(piece).place} holds entries out of order")
    return found


def stream(files: PieceFiles, part: Part, delta: tuple[Piece, ...], with_body: bool) -> Iterator[Entries]:
    """Yield the entries of one backup's pieces. CorruptionError: the pieces are not in their order."""
    last = -1
    for piece in delta:
        found = load(files, part, piece, with_body)
        if len(found):
            if int(found.slots[0]) <= last:
                place = files.target_of(piece).place
                raise CorruptionError(f"{piece.file} of the backup {place} is repeated or out of order in {part.name}")
            last = int(found.slots[-1])
            yield found


def merged(
    files: PieceFiles, part: Part, with_body: bool, newest: int | None = None, with_deletes: bool = False
) -> Iterator[Entries]:
    """Yield the entries of a collection in windows, ascending; entries of one slot hash stay together.

    newest: of so many of the newest deltas only; with_deletes: deletes, too."""
    sources = [stream(files, part, delta, with_body) for delta in part.chain[:newest]]
    heads: list[Entries | None] = [next(source, None) for source in sources]
    while present := [head for head in heads if head is not None]:
        last, taken = min(head.slots[-1] for head in present), []
        for i, head in enumerate(heads):
            if head is not None:
                at = int(np.searchsorted(head.slots, last, "right"))
                taken.append(head.take(slice(0, at)))
                heads[i] = head.take(slice(at, None)) if at < len(head) else next(sources[i], None)
        window = taken[0]
        if len(taken) > 1:
            window = type(window).joined(taken)
            window = window.take(np.argsort(window.slots, kind="stable")).newest()
        if not with_deletes:
            window = window.take(np.flatnonzero(~window.is_delete))
        if len(window):
            yield window


def paged(part: Part, windows: Iterator[Entries]) -> Iterator[Page]:
    """Yield windows as pages that cover all slot hashes."""
    for window in windows:
        yield int(window.slots[-1]) + 1, window
    yield SLOT_HASHES, nothing(part)


def aligned(pages: Iterator[Page], others: Iterator[Page]) -> Iterator[tuple[Entries, Entries]]:
    """Yield the entries of two sequences of pages, always those of one range of slot hashes."""
    left, right = next(pages), next(others)
    while True:
        stop = min(left[0], right[0])
        (first, left), (second, right) = divided(left, stop), divided(right, stop)
        yield first, second
        if stop >= SLOT_HASHES:
            return
        left = next(pages) if left[0] == stop else left
        right = next(others) if right[0] == stop else right


def divided(page: Page, stop: int) -> tuple[Entries, Page]:
    """Return the entries of a page below `stop`, and the rest of the page."""
    end, entries = page
    if end == stop:
        return entries, (end, entries.take(slice(len(entries), None)))
    at = int(np.searchsorted(entries.slots, np.uint64(stop)))
    return entries.take(slice(0, at)), (end, entries.take(slice(at, None)))


def differences(new: Entries, earlier: Entries, is_same: Callable[[np.ndarray], np.ndarray]) -> tuple[Entries, Entries]:
    """Return which entries are new or changed, and which of the earlier ones are gone. Both cover one range of slot
    hashes. is_same: tells of equal locations whether they still mean the same."""
    at = new.matches(earlier)
    found = np.flatnonzero(at >= 0)
    same = found[new.locations[found] == earlier.locations[at[found]]]
    same = same[is_same(new.locations[same])]
    kept, gone = np.ones(len(new), bool), np.ones(len(earlier), bool)
    kept[same], gone[at[found]] = False, False
    return new.take(np.flatnonzero(kept)), earlier.take(np.flatnonzero(gone))
