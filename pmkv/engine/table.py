"""A table: int64 ids to fixed-width rows of one NumPy dtype, in batches.

A put is ROWS frames: a column of ids, then the rows; a get is one probe and one verified gather. Names, shapes and
dtypes are checked here, so that kernels need not. Waiting for durability happens in `Log.wait_durable` alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..cache.dram_choice import DramChoice, dram_choice
from ..errors import CorruptionError, ExistsError, FullError, InvalidError, UnknownNameError
from ..index.hash_table import check_cursor
from ..index.lookup_batch import IdBatch, lives, new_keys
from ..kernels import location
from ..kernels.records import locate_rows
from ..log.format import MAX_BATCH, Flag, Frame, Kind
from ..log.log import Log
from ..log.room import with_room
from ..log.segments import Reserve
from ..runtime.arguments import whole_number
from ..runtime.jit import FEW_ELEMENTS
from ..runtime.scheduling import no_yield, yield_cpu
from ..runtime.switches import is_on
from ..versions.difference import layers_between, walk_layers
from ..versions.index_stack import Window
from ..versions.layer import Layer, LayerTree
from .array_forms import as_id_array, as_row_array, in_form, out_array
from .casting import add_rows, cast_default
from .choose_newest import put_newer
from .collection import Collection
from .deletion import delete_in_pieces
from .entity_ids import KEPT_KEY, as_keys, ids_of_keys, refuse_collisions
from .extension_dtypes import is_extension
from .initializer import Initializer
from .pooling import bags_of
from .row_codecs import RowCodec, codec_of
from .row_reads import RowRead, is_walk
from .row_schema import can_become, packed_fields, pick_fields

PIPELINED_FRAMES = 6  # frames of one piece of a long put: one is flushed while the next is filled
# A batch of up to so many rows is indexed under one hold of locks.state.
MAX_LOCKED_ROWS = FEW_ELEMENTS if is_on("LONG_BATCHES") else 1 << 62
KEPT_AT_ONCE = 1 << 16  # keys that `ids_of` keeps in one batch
IDS_ONLY = np.empty(0, np.uint8)

Changes = tuple[np.ndarray, np.ndarray, np.ndarray]  # ids of changed rows, the rows, ids of deleted ones
Written = tuple[np.ndarray, np.ndarray, int]  # ids of a frame, where their rows stand, its LSN


@dataclass(frozen=True)
class Neighbours:
    """Functions by which a table reaches other tables and views.

    keys_beside: returns the table that keeps the keys of another one's ids, given its name and whether to create it;
    top_in: returns the top layer of a tree in the view of this name, and the LSN that this depends on;
    set_dram: decides how much DRAM the rows of the table of this number may count on, and returns the LSN of that."""

    keys_beside: Callable[[str, bool], Table | None]
    top_in: Callable[[str, LayerTree], tuple[Layer | None, int]]
    set_dram: Callable[[int, DramChoice], int]


class Table(Collection):
    """A table of a view, made by `Store.create_table`. Safe for threads; each call is atomic (put up to 16 MiB, then in
    atomic pieces)."""

    def __init__(self, top: Layer, log: Log, verify: bool, readonly: str | None, others: Neighbours) -> None:
        super().__init__(top, log, verify, readonly)
        self._others = others
        decision = top.tree.decision
        assert decision is not None
        self.id, self.name, self.rows = decision["id"], decision["name"], decision["rows"]
        self._codec = codec_of(decision)
        self.codec, self.row_dtype = self._codec.name, self._codec.row_dtype
        self.dtype, self.shape, self.width = self._codec.dtype, self._codec.shape, self._codec.width  # width: as stored
        self._owner, self._zeros = np.uint64(self.id), np.zeros(self.width, np.uint8)
        self.default = decision.get("default")  # as `initializer.normalized` returned it
        self._initial = None if self.default is None else Initializer(self.default, self.dtype, self.shape)

    def __repr__(self) -> str:
        return f"<pmkv table {self.name!r}: rows of {self.row_dtype}{f' in {self.codec}' if self.codec else ''}>"

    # rows in DRAM

    @property
    def dram(self) -> DramChoice:
        """Return how much DRAM the rows may count on, as `set_dram` was told last."""
        return self.stack.tree.kept

    def set_dram(self, dram: int | float | str | None) -> None:
        """Choose how much DRAM the rows of this table may count on, in `main`: "all", bytes (or "64MiB"), a share of
        the row cache (0.25 or "25%"), or None for what reads make of it. It is kept with the table.

        All rows of a dense table are then addressed by their ids, without index and log. InvalidError: there is not so
        much. A store whose pool is no plain file has all rows in memory anyway."""
        choice = dram_choice(dram)
        self._guard_write()
        self._log.wait_durable(self._others.set_dram(self.id, choice))

    # arguments

    def _shaped_ids(self, ids: npt.ArrayLike) -> tuple[np.ndarray, tuple[int, ...]]:
        """Return ids in one dimension, and the shape that they came in."""
        if type(ids) is np.ndarray and ids.dtype == np.int64 and ids.ndim == 1 and ids.flags.c_contiguous:
            return ids, ids.shape
        return as_id_array(ids, f"ids of table {self.name!r}")

    def _bounded(self, ids: np.ndarray) -> np.ndarray:
        if self.rows is not None and ids.size and (ids.min() < 0 or ids.max() >= self.rows):
            bad = int(ids[(ids < 0) | (ids >= self.rows)][0])
            raise InvalidError(
                f"id {bad} is outside table {self.name!r}, which is dense: its ids are 0 to {self.rows - 1}"
            )
        return ids

    def _rows(self, rows: Any, ids: np.ndarray, shape: tuple[int, ...], encoded: bool = False) -> np.ndarray:
        """Return rows as stored, uint8[n * width]. ids: int64[n], which came in this shape.

        encoded: the rows are as the table's codec stores them."""
        codec, label = self._codec_for(encoded), f"rows of table {self.name!r}"
        if isinstance(rows, bytes | bytearray | memoryview):
            if memoryview(rows).nbytes != ids.size * codec.row_dtype.itemsize:
                raise InvalidError(
                    f"{memoryview(rows).nbytes:,} bytes are not {ids.size:,} rows of table {self.name!r}, of "
                    f"{codec.row_dtype.itemsize} bytes each"
                )
            rows = np.frombuffer(rows, codec.dtype).reshape((*shape, *codec.shape))
        array = as_row_array(rows, codec.dtype, ids, label)
        if not encoded and self._codec.is_encoded(array, shape):
            return self._rows(array, ids, shape, encoded=True)
        wanted = (*shape, *codec.shape)
        if array.shape != wanted:
            raise InvalidError(
                f"rows of shape {array.shape} do not fit table {self.name!r}: {ids.size} ids need shape {wanted}"
            )
        if array.dtype != codec.dtype and not can_become(array.dtype, codec.dtype):
            raise InvalidError(
                f"rows of dtype {array.dtype} do not fit table {self.name!r}, which has dtype {codec.dtype}: "
                "convert them first"
            )
        raw = codec.encode(array, label)
        if encoded:
            self._codec.refuse_damaged(raw, label)
        return raw

    def _codec_for(self, encoded: bool) -> RowCodec:
        """Return the codec of rows as users have them. encoded: they have them as they are stored."""
        return RowCodec(self._codec.stored) if encoded else self._codec

    def _default(self, default: Any, codec: RowCodec | None = None) -> np.ndarray:
        """Return a row as stored, uint8[width], with every element `default`, for a read through a codec; the number 0
        means zero bytes whatever the dtype. Where rows are decoded, zeros: `filled` puts the default in."""
        codec = codec or self._codec
        if default is None or (isinstance(default, int | float) and default == 0):  # nearly always
            return self._zeros
        filled = self._default_row(default, codec)
        return self._zeros if codec.name else np.frombuffer(filled.tobytes(), np.uint8)

    def _default_row(self, default: Any, codec: RowCodec) -> np.ndarray:
        """Return a row as read through a codec, of its shape, with every element `default`."""
        label = f"a row of table {self.name!r}, {codec.row_dtype}"
        return cast_default(default, codec.shape, codec.dtype, label)

    def check_rows(self, ids: npt.ArrayLike, rows: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of ids, and of rows as a later `put_stored` takes them; refuse what does not fit."""
        flat, shape = self._shaped_ids(ids)
        raw = self._rows(rows, self._bounded(flat), shape)
        return flat.copy(), raw.copy()

    def decoded(self, raw: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return stored rows, uint8[n * width], as users read them."""
        return self._codec.decode(raw, shape)

    def absent_rows(self, ids: np.ndarray, default: Any) -> np.ndarray:
        """Return the rows that stand for absent ones."""
        if default is None and self._initial is not None:
            return self.decoded(self._initial_rows(ids), ids.shape)
        if default is None or (isinstance(default, int | float) and default == 0):
            return np.zeros((ids.size, *self.shape), self.dtype)
        return np.broadcast_to(self._default_row(default, self._codec), (ids.size, *self.shape))

    def _initial_rows(self, ids: np.ndarray) -> np.ndarray:
        """Return the rows of the table's default as stored, uint8[n * width]."""
        assert self._initial is not None
        return self._codec.encode(self._initial.rows(ids), f"default rows of table {self.name!r}")

    def _initialize(self, ids: np.ndarray, raw: np.ndarray, present: np.ndarray) -> None:
        """Put the table's default in place of absent rows, after a gather; write these, if the first read does and
        there is room: a read never fails because a write would."""
        initial, missing = self._initial, np.flatnonzero(present == 0)
        if initial is None or not missing.size:
            return
        raw.reshape(ids.size, self.width)[missing] = self._initial_rows(ids[missing]).reshape(missing.size, self.width)
        if initial.creates and self._readonly is None and not (self._log.readonly or self._log.failed):
            with contextlib.suppress(FullError):
                self._create(ids[missing])

    def _create(self, ids: np.ndarray) -> None:
        """Write the default rows of ids that have none, unless this thread has locks that come after locks.append: the
        next read does it then."""
        locks = self._log.locks
        if (locks.publish.is_held or locks.state.is_held) and not locks.append.is_held:
            return
        within = ids if self.rows is None else ids[(ids >= 0) & (ids < self.rows)]

        def write_new() -> None:
            new = np.unique(within[~self.contains(within)])
            self._log.wait_durable(self._write(new, self._initial_rows(new), 0) if new.size else 0)

        _, lsn = self._log.exclusively(write_new)
        self._log.wait_durable(lsn)

    # reading

    def get(
        self,
        ids: npt.ArrayLike,
        default: Any = None,
        return_found: bool = False,
        fields: Sequence[str] | None = None,
        out: Any = None,
        as_: str = "numpy",
        encoded: bool = False,
    ) -> Any:
        """Return the rows of ids of any shape, as an array of shape (*ids.shape, *shape). `default` fills those that
        are absent, None as the table was told when it was created: zeros, unless it was told otherwise.

        return_found: also bool of ids.shape. fields: only these of a structured dtype, packed. out: an array to fill
        and return. as_: "numpy", "torch" or "arrow". encoded: rows as the table's codec stores them. All of one
        moment."""
        flat, shape = self._shaped_ids(ids)
        codec = self._codec_for(encoded)
        dtype = codec.dtype if fields is None else packed_fields(codec.dtype, fields, self.name)
        filled = None if out is None else out_array(out, (*shape, *codec.shape), dtype, f"out= of table {self.name!r}")
        buffer = filled.reshape(-1).view(np.uint8) if filled is not None and fields is None and not codec.name else None
        raw, found = self._gather(flat, self._default(default, codec), buffer, walk=is_walk(flat))
        rows, found = self.filled(raw, found, flat, default, codec, filled)
        rows = rows.reshape((*shape, *codec.shape))
        if fields is not None:
            rows = pick_fields(rows, dtype, filled)
        result = in_form(rows, as_) if out is None else out
        return (result, in_form(found.view(np.bool_).reshape(shape), as_)) if return_found else result

    def filled(
        self,
        raw: np.ndarray,
        found: np.ndarray,
        ids: np.ndarray,
        default: Any,
        codec: RowCodec | None = None,
        into: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows that were gathered, as read through a codec, and found; `default` is None: the table's default in
        place of absent ones. into: where decoded rows go."""
        codec = codec or self._codec
        if default is None and self._initial is not None:
            self._initialize(ids, raw, found)
        rows = codec.decode(raw, ids.shape, into)
        if codec.name and default is not None:
            rows.reshape((ids.size, *codec.shape))[found == 0] = self._default_row(default, codec)
        return rows, found

    def _gather(
        self,
        ids: np.ndarray,
        default: np.ndarray,
        into: np.ndarray | None = None,
        cached: bool = True,
        walk: bool = False,
        load: bool = False,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows as uint8[n * width], in `into` if that is given, and found as uint8[n].

        cached: whether the row cache is asked, and offered what was found on file; walk: it is offered nothing; load:
        as `IdBatch.is_load`."""
        read = RowRead(self, ids, np.empty(ids.size * self.width, np.uint8) if into is None else into, cached)
        read.batch.is_walk, read.batch.is_load = walk, load
        read.begin_alone()
        out, present = read.rows(default)
        self._log.wait_durable(read.lsn)
        return out, present

    def may_wait(self, ids: np.ndarray) -> bool:
        """Return whether reading these ids (int64[n]) may have to wait for the disk, about."""
        stack = self.stack
        if stack.is_in_memory or not stack.reads.is_cold:  # nearly always, and without the lock: many tables are asked
            return False
        with self._log.locks.state:
            return not self.is_gone and self._shown().may_wait(ids)

    def contains(self, ids: npt.ArrayLike) -> np.ndarray:
        """Return for each id whether it exists, as bool of the shape of the ids."""
        flat, shape = self._shaped_ids(ids)
        found, lsn, _ = self._look_up(IdBatch(flat, cached=True))
        self._log.wait_durable(lsn)
        return lives(found).reshape(shape)

    def pool(
        self,
        ids: npt.ArrayLike,
        offsets: npt.ArrayLike,
        weights: npt.ArrayLike | None = None,
        mode: str = "sum",
        as_: str = "numpy",
    ) -> Any:
        """Reduce bags of rows to one row each, as torch.nn.EmbeddingBag does: bag b is ids[offsets[b] : offsets[b +
        1]], the last one ends with the ids.

        weights: f4[n], with mode "sum" only; mode: "sum", "mean", "max". Ids that are absent count as the table's
        default if it has one, else they are left out (as padding_idx); an empty bag is zeros. Result: float32 for
        tables of f4 and shorter floats, else float64; shape (bags, *shape)."""
        bags = bags_of(self, ids, offsets, weights, mode)
        read = RowRead(self, bags.ids)
        read.begin_alone()
        pooled = read.pool(bags)
        self._log.wait_durable(read.lsn)
        return in_form(pooled.reshape(-1, *self.shape), as_)

    # ids of entities that are named by text

    def ids_of(self, keys: Any, keep: bool = True) -> np.ndarray:
        """Return the ids of entities that are named by text or bytes: a hash of 63 bits (pmkv/engine/entity_ids.py).

        The keys are kept in the table `<name>.keys`, and a key with the id of another one is refused (InvalidError).
        keep: False only compares, and writes nothing; so does a snapshot."""
        label = f"keys of table {self.name!r}"
        if self.rows is not None:
            raise InvalidError(f"{label}: it is dense, its ids are 0 to {self.rows - 1}; hashes need one of any ids")
        names, shape = as_keys(keys, label)
        ids = ids_of_keys(names)
        beside = self._others.keys_beside(self.name, keep)
        if beside is None:
            refuse_collisions(ids, names, np.empty(ids.size, KEPT_KEY), np.zeros(ids.size, bool), label)
            return ids.reshape(shape)
        for start in range(0, ids.size, KEPT_AT_ONCE):
            piece = slice(start, start + KEPT_AT_ONCE)
            beside.keep_keys(ids[piece], names[piece], label, keep)
        return ids.reshape(shape)

    def keep_keys(self, ids: np.ndarray, keys: Sequence[bytes], label: str, keep: bool) -> None:
        """Compare keys with those that this table keeps, and add those that it has not. For `ids_of` of another."""
        longest = max(map(len, keys))
        if self.row_dtype.kind != "S" or longest > self.width:
            raise InvalidError(
                f"{label} are up to {longest} bytes long, and table {self.name!r} keeps rows of {self.row_dtype}: "
                f"create it with dtype 'S{longest}' first"
            )
        kept, found = self.get(ids, return_found=True)
        refuse_collisions(ids, keys, kept, found, label)
        if found.all() or not keep or self._readonly is not None or self._log.readonly:
            return
        self._guard_write()

        def add_new() -> None:
            kept, found = self.get(ids, return_found=True)  # another thread may have added keys since
            refuse_collisions(ids, keys, kept, found, label)
            new, first = np.unique(ids[~found], return_index=True)
            rows = np.array(keys, self.row_dtype)[~found][first]
            self._log.wait_durable(self._write(new, rows.view(np.uint8), 0) if new.size else self._changed)

        _, lsn = with_room(self._log, lambda: self._log.exclusively(add_new))
        self._log.wait_durable(lsn)

    # writing

    def put(
        self, ids: npt.ArrayLike, rows: npt.ArrayLike, newer: str | None = None, encoded: bool = False
    ) -> int | None:
        """Store rows, shape (*ids.shape, *shape), under ids; the last of equal ids wins. Atomic up to 16 MiB; more is
        applied in atomic pieces. Rows of several fields may be a DataFrame, with a column for each field.

        newer: a field, such as the time of an event. A stored row with a greater value in it is left alone, of equal
        ids the greatest value wins, and the count of rows written is returned. encoded: the rows are as the table's
        codec stores them, as `get(..., encoded=True)` returns them."""
        ids, shape = self._shaped_ids(ids)
        raw = self._rows(rows, self._bounded(ids), shape, encoded)
        if newer is not None:
            return put_newer(self, ids, raw, newer)
        self.put_stored(ids, raw)
        return None

    def put_stored(self, ids: np.ndarray, raw: np.ndarray) -> None:
        """Store rows as `check_rows` returned them."""
        self._guard_write()
        piece, lsn, before = self._atomic(self.width), 0, 0
        if ids.size > piece:  # short ones: one is made durable while the next is filled, and the last one is waited for
            piece = min(piece, PIPELINED_FRAMES * self._per_frame(self.width))

        def write(start: int, stop: int) -> int:
            with self._log.locks.append:
                return self._write(ids[start:stop], raw[start * self.width : stop * self.width], 0)

        for start in range(0, ids.size, piece):
            lsn = with_room(self._log, partial(write, start, start + piece))
            if start + piece < ids.size:
                self._log.flush_piece(lsn, before)
                before = lsn
        self._log.wait_durable(lsn)

    def add(self, ids: npt.ArrayLike, rows: npt.ArrayLike) -> None:
        """Add to rows, absent ones counting as the table's default; equal ids add up. Atomic as put. A table with a
        codec adds to what it reads, and encodes the sum again: small changes may be lost in the rounding."""
        ids, shape = self._shaped_ids(ids)
        check_adds(self)
        change = self.decoded(self._rows(rows, self._bounded(ids), shape), (ids.size,))
        self._guard_write()
        unique, where = np.unique(ids, return_inverse=True)
        label, newest, piece = f"a sum in table {self.name!r}", 0, self._atomic(self.width)

        def write_sums(some: np.ndarray, where: np.ndarray, change: np.ndarray) -> None:
            raw, found = self._gather(some, self._zeros)
            if self._initial is not None:
                missing = np.flatnonzero(found == 0)
                initial = self._initial_rows(some[missing])
                raw.reshape(some.size, self.width)[missing] = initial.reshape(missing.size, self.width)
            sums = add_rows(self.decoded(raw, (some.size,)), where, change, label)
            self._log.wait_durable(self._write(some, self._codec.encode(sums, label), 0))

        for start in range(0, unique.size, piece):  # each is added once, even if it has to wait for room
            chosen = slice(None) if unique.size <= piece else np.flatnonzero(where // piece == start // piece)
            write = partial(write_sums, unique[start : start + piece], where[chosen] - start, change[chosen])
            newest = with_room(self._log, partial(self._log.exclusively, write))[1]
        self._log.wait_durable(newest)

    def delete(self, ids: npt.ArrayLike) -> int:
        """Delete rows; return how many of the ids existed. Atomic up to a million ids. Possible in a full pool, too, of
        which space comes back between short pieces."""
        ids, _ = self._shaped_ids(ids)
        self._guard_write()

        def delete_present(start: int, stop: int) -> int:
            some = ids[start:stop]
            present = np.unique(some[self.contains(some)])
            if present.size:
                self._log.wait_durable(self._write(present, IDS_ONLY, Flag.DELETED))
            return int(present.size)

        return delete_in_pieces(self._log, np.broadcast_to(ids.itemsize, ids.shape), delete_present)

    def _write(self, ids: np.ndarray, raw: np.ndarray, flags: int) -> int:
        """Append frames and index them, in atomic batches; return the LSN to wait for.

        The caller holds locks.append."""
        self._guard()  # again: the table may have been dropped since, or its view deleted
        purpose, width = (Reserve.DELETE, 0) if flags & Flag.DELETED else (Reserve.WRITE, self.width)
        step, piece = self._per_frame(width), self._atomic(width)
        for start in range(0, ids.size, piece):
            stop = min(start + piece, ids.size)
            first = start + min(step, max(1, self._log.appender.next_body(self._log.frame_limit) // (8 + width)))
            frames = [(start, min(first, stop)), *((a, min(a + step, stop)) for a in range(first, stop, step))]
            self._log.reserve([(b - a) * (8 + width) for a, b in frames], purpose)

            def append(frames: list[tuple[int, int]] = frames) -> list[Written]:
                return [self._append(ids[a:b], raw[a * width : b * width], flags, purpose) for a, b in frames]

            self._log.atomic(lambda append=append: self._enter(self._log.joined(append)))
        return self._changed

    def _per_frame(self, width: int) -> int:
        """Return how many rows of this width fit into one frame."""
        return max(1, self._log.frame_limit // (8 + width))

    def _atomic(self, width: int) -> int:
        """Return how many rows of this width fit into one batch."""
        step = self._per_frame(width)
        return step * max(1, MAX_BATCH // (step * (8 + width)))

    def _enter(self, written: list[Written]) -> None:
        """Index all frames of a batch at once, and commit; an exception takes them back before anybody sees a part."""
        log = self._log
        for ids, _, _ in written:
            if ids.size > FEW_ELEMENTS:  # else the kernels that enter them keep the interpreter
                self.stack.make_room(ids, log.locks.state)
        if log.failed:
            raise log.failed
        if log.locks.state.is_held or sum(ids.size for ids, _, _ in written) <= MAX_LOCKED_ROWS:
            with log.locks.state:
                log.atomic(lambda: self._insert(written))
        else:
            locations = [locations for _, locations, _ in written]
            log.publisher.publish(self.stack.top, locations, lambda: log.atomic(lambda: self._insert_beside(written)))

    def _insert(self, written: list[Written]) -> None:
        """Index a batch. The caller holds locks.state."""
        for ids, locations, lsn in written:
            self.stack.enter(IdBatch(ids), locations, lsn)

    def _insert_beside(self, written: list[Written]) -> None:
        """Index a long batch while other threads read."""
        stack, lock = self.stack, self._log.locks.state
        with lock:
            for ids, _, lsn in written:
                stack.begin_insert(ids.size, lsn)
        for ids, locations, _ in written:
            yield_cpu()
            wanted = IdBatch(ids)
            new = new_keys(wanted, locations, stack.insert(wanted, locations, lock))
            with lock:
                stack.finish_insert(wanted, new)

    def _append(self, ids: np.ndarray, raw: np.ndarray, flags: int, purpose: Reserve) -> Written:
        """Append one frame. Others may read while its body is filled: nothing refers to it yet."""
        log = self._log
        at = log.begin(
            Kind.ROWS, 8 * ids.size + raw.size, table=self.id, layer=self.layer, count=ids.size, flags=flags,
            purpose=purpose,
        )  # fmt: skip
        log.store(at, ids.view(np.uint8))
        log.store(at + 8 * ids.size, raw)
        between = yield_cpu if ids.size > FEW_ELEMENTS else no_yield
        between()
        locations = self._locate(at, ids, flags)
        between()
        return ids, locations, log.end()

    def _locate(self, at: int, ids: np.ndarray, flags: int) -> np.ndarray:
        """Return the locations of a frame's rows, or of its deleted ids."""
        if flags & Flag.DELETED:
            return (at + 8 * np.arange(ids.size)).astype(np.uint64) | location.DELETE
        locations = np.empty(ids.size, np.uint64)
        locate_rows(self._log.data, at + 8 * ids.size, ids, self.width, self._owner, locations)
        return locations

    # looking around

    def __len__(self) -> int:
        """Count the ids exactly. Ids written since the last count are looked up once."""
        self._guard()
        self.stack.count_ahead(self._log.locks.state)
        with self._log.publisher.entry, self._log.locks.state:  # a count would see a part of a batch
            self._guard()
            count, lsn = self.stack.count(0), self._changed
        self._log.wait_durable(lsn)
        return count

    def scan_from(
        self, cursor: int = 0, count: int = 1000, encoded: bool = False
    ) -> tuple[int, np.ndarray, np.ndarray]:
        """(next cursor, ids, rows) of about `count` rows from a cursor: 0 to begin, 0 at the end. What is there
        all the time is returned. encoded: as in `get`."""
        check_cursor(cursor)
        count = whole_number(count, "the number of rows at once")
        self._guard()  # before: who has the lock cannot wait until a drop is durable, and tells of it
        with self._log.publisher.entry, self._log.locks.state:  # a walk would see a part of a batch
            self._guard()
            lsn = self._changed  # so that rows are of the state that is walked
            (cursor, ids, raw), _ = self._log.deferring(lambda: self._walk(cursor, max(1, count)), lsn)
        self._log.wait_durable(lsn)
        return cursor % (1 << 64), ids, self._codec_for(encoded).decode(raw, ids.shape)

    def _walk(self, cursor: int, left: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Return the next cursor, and about `left` ids with their stored rows. The caller holds locks.state."""
        ids: list[np.ndarray] = []
        for places, key64s, _ in self.stack.walk(cursor):
            take = min(left, places.size)
            if take < places.size:  # all of one place go together: the next cursor begins behind it
                take = int(np.searchsorted(places, places[take - 1], "right"))
            cursor = int(places[take - 1]) + 1 if take else cursor
            some = key64s[:take][np.flatnonzero(np.diff(places[:take], prepend=~places[:1]))].view(np.int64)
            ids.append(some[self.contains(some)])
            left -= ids[-1].size
            if take < places.size or left <= 0:
                break
        else:
            cursor = 0
        taken = np.concatenate(ids) if ids else np.empty(0, np.int64)
        return cursor, taken, self._gather(taken, self._zeros, cached=False)[0]

    def scan(self, batch: int = 4096, encoded: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (ids, rows) of the whole table in batches of about this size, in no order. encoded: as in `get`."""
        cursor = 0
        while True:
            cursor, ids, rows = self.scan_from(cursor, batch, encoded)
            if ids.size:
                yield ids, rows
            if not cursor:
                return

    def changes_from(
        self, since: str, cursor: int = 0, count: int = 1000, encoded: bool = False
    ) -> tuple[int, Changes]:
        """Return the next cursor, and about `count` rows that were changed or deleted since the view `since`.

        As of `scan_from`; only what was written since is read. encoded: as in `get`. UnknownNameError: that view has no
        such table."""
        check_cursor(cursor)
        count = whole_number(count, "the number of rows at once")
        try:
            cursor, (ids, raw, gone) = self._changes_from(since, cursor, count)
        except UnknownNameError:  # a pending decision may be why there is no such view
            self._log.wait_durable_if_free(self._log.lsn)
            raise
        return cursor, (ids, self._codec_for(encoded).decode(raw, ids.shape), gone)

    def _changes_from(self, since: str, cursor: int, count: int) -> tuple[int, Changes]:
        self._guard()  # before: who has the lock cannot wait until a drop is durable, and tells of it
        with self._log.publisher.entry, self._log.locks.state:  # a walk would see a part of a batch
            self._guard()
            top, lsn = self._others.top_in(since, self.stack.tree)
            lsn = max(lsn, self._changed)
            layers = layers_between(self.stack.top, top)
            cursor, ids = taken_of(walk_layers(layers, self.stack.seed, cursor), cursor, max(1, count))
            (raw, found), _ = self._log.deferring(lambda: self._gather(ids, self._zeros), lsn)
        self._log.wait_durable(lsn)
        is_there = found.view(np.bool_)
        return cursor, (ids[is_there], raw.reshape(ids.size, self.width)[is_there].reshape(-1), ids[~is_there])

    def changes(self, since: str, batch: int = 4096, encoded: bool = False) -> Iterator[Changes]:
        """Yield (ids, rows, deleted ids) of what differs from the view `since`, such as a snapshot of this one.

        A row that was written again with the same content counts as changed. encoded: as in `get`."""
        cursor = 0
        while True:
            cursor, changes = self.changes_from(since, cursor, batch, encoded)
            if changes[0].size or changes[2].size:
                yield changes
            if not cursor:
                return

    # recovery and care

    def replay(self, frame: Frame) -> None:
        """Index the rows of a ROWS frame, whose checksum was verified."""
        width = 0 if frame.flags & Flag.DELETED else self.width
        if frame.length != frame.count * (8 + width):
            raise CorruptionError(
                f"frame {frame.lsn} at offset {frame.offset:,} does not hold {frame.count} rows of table {self.name!r}"
            )
        ids = self._log.data[frame.body : frame.body + 8 * frame.count].view(np.int64)
        self.stack.enter(IdBatch(ids), self._locate(frame.body, ids, frame.flags), frame.lsn)

    def check(self) -> None:
        """Assert that index and counts agree, and that every row's check holds."""

        def check_all() -> None:
            self.stack.check()
            assert sum(ids.size for ids, _ in self.scan()) == self.stack.count(0), "the rows counted are not those"

        with self._log.publisher.entry, self._log.locks.state:
            self._log.deferring(check_all)


def taken_of(walk: Iterator[Window], cursor: int, count: int) -> tuple[int, np.ndarray]:
    """Return the next cursor, and about `count` ids of a walk, each once."""
    ids: list[np.ndarray] = []
    for places, key64s, _ in walk:
        take = min(count - sum(some.size for some in ids), places.size)
        if take < places.size:  # all of one place go together: the next cursor begins behind it
            take = int(np.searchsorted(places, places[max(take, 1) - 1], "right"))
        ids.append(key64s[:take][np.flatnonzero(np.diff(places[:take], prepend=~places[:1]))].view(np.int64))
        cursor = (int(places[take - 1]) + 1) % (1 << 64)
        if take < places.size or sum(some.size for some in ids) >= count:
            return cursor, np.concatenate(ids)
    return 0, np.concatenate(ids) if ids else np.empty(0, np.int64)


def refuse_other_layout(table: Table, codec: RowCodec, rows: int | None, default: Any) -> None:
    """Raise ExistsError unless a table has these rows, this bound and this default, as `normalized` returned it."""
    if (table.row_dtype, table.codec, table.rows, table.default) == (codec.row_dtype, codec.name, rows, default):
        return
    layouts = [(table.row_dtype, table.rows, table.codec, table.default), (codec.row_dtype, rows, codec.name, default)]
    has, asked = (
        f"rows of {row} and rows={bound}{f' and codec={name!r}' if table.codec != codec.name else ''}"
        f"{f' and default={initial}' if table.default != default else ''}"
        for row, bound, name, initial in layouts
    )
    raise ExistsError(f"there is a table {table.name!r} already, with {has}, not with {asked}")


def check_adds(table: Table) -> None:
    """Raise InvalidError if the rows are no numbers."""
    if table.dtype.kind not in "fiuc" and not is_extension(table.dtype):
        raise InvalidError(f"table {table.name!r} has dtype {table.dtype}: only numbers can be added to")
