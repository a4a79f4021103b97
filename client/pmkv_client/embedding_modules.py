"""torch.nn.Embedding and EmbeddingBag whose weight is in a table of pmkv: the same constructors and results.

The rows that a batch needs are read once each and handed to torch's own functions, so that outputs are equal to the
last bit. Bags that are summed without gradients, or whose table is whole, are pooled where the rows are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from .embedding_weight import PmkvWeight, numpy_dtype
from .row_source import RowSource

NOISE_ELEMENTS = 1 << 28  # of a weight that is drawn at a time; up to here a table begins as torch's own weight would


@dataclass
class Home:
    """Where modules without `store=` keep their rows. prefix: of the names of their tables."""

    store: Any
    prefix: str = "embedding."
    names: Iterator[int] | None = None

    def next_name(self) -> str:
        """Return the name of the table of the next module: they are numbered in the order in which they are made."""
        self.names = self.names or count()
        return f"{self.prefix}{next(self.names)}"


home: ContextVar[Home | None] = ContextVar("home", default=None)


@contextlib.contextmanager
def tables_in(store: Any, prefix: str = "embedding.") -> Iterator[Home]:
    """Let modules that are made inside, without `store=`, keep their rows in this store."""
    token = home.set(Home(store, prefix))
    try:
        found = home.get()
        assert found is not None
        yield found
    finally:
        home.reset(token)


@dataclass(frozen=True)
class Pulled:
    """Rows that were read for a batch: `ids` are distinct, `places` says for each id of the batch which row is its."""

    ids: np.ndarray
    places: np.ndarray
    rows: np.ndarray


class Pull(torch.autograd.Function):
    """Rows in, rows out: their gradient becomes a sparse gradient of the weight."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        ctx.ids, ctx.shape = ids, tuple(weight.shape)
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        sparse = torch.sparse_coo_tensor(
            ctx.ids[None], grad.cpu(), ctx.shape, is_coalesced=True, check_invariants=False
        )
        return sparse, None, None


class ReadAhead:
    """A read for the next batch, by a thread of its own."""

    threads: ThreadPoolExecutor | None = None

    def __init__(self, source: RowSource, ids: np.ndarray, read: Callable[[], Any]) -> None:
        if ReadAhead.threads is None:
            ReadAhead.threads = ThreadPoolExecutor(2, "pmkv-prefetch")
        self.ids, self._changes, self._seen = ids, source.changes, len(source.changes.written)
        self._changes.watchers += 1
        self._future: Future[Any] = ReadAhead.threads.submit(read)

    def result(self) -> tuple[Any, np.ndarray]:
        """Return what was read, and the ids that were written since it was asked for."""
        changes = self._changes
        try:
            found = self._future.result()
            since = changes.written[self._seen :]
            return found, np.unique(np.concatenate(since)) if since else np.empty(0, np.int64)
        finally:
            changes.watchers -= 1
            if not changes.watchers:
                changes.written.clear()


class _InTable(nn.Module):
    """The base class of both modules: it opens the table and reads rows of it."""

    num_embeddings: int
    embedding_dim: int
    padding_idx: int | None
    weight: PmkvWeight

    def _open(
        self,
        weight: torch.Tensor | None,
        dtype: torch.dtype | None,
        store: Any,
        table: str | None,
        codec: str | None = None,
    ) -> None:
        """Open or create the table. weight: its rows; None: a new one begins with the noise of torch's own modules.
        codec: how the table stores rows."""
        where = home.get() if store is None else Home(store)
        if where is None:
            raise TypeError(
                "say where the rows are: store=, a URL, a client, or an open store; or use tables_in(store)"
            )
        name = table or where.next_name()
        wanted = dtype or (weight.dtype if weight is not None else torch.get_default_dtype())
        source = RowSource(where.store, name, self.num_embeddings, self.embedding_dim, numpy_dtype(wanted), codec)
        self.weight = PmkvWeight(source)
        self._ahead: dict[Any, ReadAhead] = {}
        if weight is not None:
            self.weight.write(weight)
        elif not len(source.table):
            self.reset_parameters()
        self._is_whole = source.is_whole()

    @property
    def source(self) -> RowSource:
        """The table."""
        return self.weight.source

    def reset_parameters(self) -> None:
        """Fill the table with normal noise, as torch does, and the padding row with zeros."""
        step = max(1, NOISE_ELEMENTS // max(1, self.embedding_dim))
        for start in range(0, self.num_embeddings, step):
            rows = min(step, self.num_embeddings - start)
            noise = torch.empty(rows, self.embedding_dim, dtype=self.weight.dtype).normal_()
            if self.padding_idx is not None and start <= self.padding_idx < start + rows:
                noise[self.padding_idx - start] = 0
            self._put_range(start, noise)

    def _put_range(self, first: int, rows: torch.Tensor) -> None:
        for start, stop in self.source.batches():
            low, high = max(start, first), min(stop, first + len(rows))
            if low < high:
                self.source.put(np.arange(low, high), rows[low - first : high - first].numpy())

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Ignore `.to(device)`, `.half()` and the like: rows stay in the table, and go to the device of the ids."""
        return self

    @classmethod
    def from_pretrained(
        cls, embeddings: torch.Tensor, *args: Any, store: Any = None, table: str | None = None,
        codec: str | None = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Return a module with these rows, as torch's does. store, table, codec: as those of the constructor."""
        base = nn.EmbeddingBag if issubclass(cls, nn.EmbeddingBag) else nn.Embedding
        make = partial(cls, store=store, table=table, codec=codec)
        return base.from_pretrained.__func__(make, embeddings, *args, **kwargs)

    def _pull(self, ids: np.ndarray) -> Pulled:
        unique, places = np.unique(ids, return_inverse=True)
        return Pulled(unique, places.reshape(-1), self.source.get(unique))

    def _rows_of(self, pulled: Pulled, device: torch.device) -> torch.Tensor:
        """Return the rows as a tensor, through which gradients reach the weight."""
        rows = torch.from_numpy(pulled.rows).to(device)
        if self._has_gradients():
            self.source.keep(pulled.ids, pulled.rows)
            return Pull.apply(self.weight, rows, torch.from_numpy(pulled.ids))
        return rows

    def _padding_of(self, pulled: Pulled) -> int | None:
        """Return the place of the padding row among those that were read, None if it is not there."""
        if self.padding_idx is None:
            return None
        at = int(np.searchsorted(pulled.ids, self.padding_idx))
        return at if at < len(pulled.ids) and pulled.ids[at] == self.padding_idx else None

    def _begin(self, ids: np.ndarray, key: Any, read: Callable[[], Any]) -> None:
        self._ahead[key] = ReadAhead(self.source, ids, read)

    def _taken(self, ids: np.ndarray, key: Any) -> tuple[Any, np.ndarray] | None:
        """Return the rows that were prefetched for exactly these ids, and which of the ids were written since."""
        ahead = self._ahead.get(key)
        if ahead is None or not np.array_equal(ahead.ids, ids):
            return None
        del self._ahead[key]
        return ahead.result()

    def _pulled(self, ids: np.ndarray) -> Pulled:
        """Read the distinct rows of ids, or take them from what was read ahead."""
        taken = self._taken(ids, "rows")
        if taken is None:
            return self._pull(ids)
        pulled, written = taken
        stale = np.flatnonzero(np.isin(pulled.ids, written))
        if stale.size:
            pulled.rows[stale] = self.source.get(pulled.ids[stale])
        return pulled

    def _has_gradients(self) -> bool:
        return torch.is_grad_enabled() and self.weight.requires_grad

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, table={self.source.name!r}"


def flat_ids(source: RowSource, ids: torch.Tensor) -> np.ndarray:
    """Return the ids of a tensor of integers as int64[n]. IndexError: one is out of range."""
    if not isinstance(ids, torch.Tensor) or ids.dtype not in (torch.int64, torch.int32):
        found = ids.dtype if isinstance(ids, torch.Tensor) else type(ids).__name__
        raise TypeError(f"ids are a tensor of int64 or int32, not {found}")
    return source.check(np.ascontiguousarray(ids.detach().cpu().numpy()).reshape(-1))


def normal_padding(padding_idx: int | None, rows: int) -> int | None:
    """Return padding_idx as a position from 0. ValueError: it is out of range."""
    if padding_idx is None:
        return None
    if not -rows <= padding_idx < rows:
        raise ValueError(f"padding_idx={padding_idx} must be within the {rows} rows")
    return padding_idx % rows


def refuse_max_norm(max_norm: float | None) -> None:
    """Raise NotImplementedError for max_norm, which changes rows while they are read."""
    if max_norm is not None:
        raise NotImplementedError("max_norm= changes rows while they are read, which tables do not: leave it out")


class PmkvEmbedding(_InTable, nn.Embedding):
    """torch.nn.Embedding over a table. store: a URL, a client, or an open store; table: the name of the table;
    codec: how a table of float32 stores rows, such as "int8".

    Gradients are sparse, whatever `sparse` says. Not supported: max_norm."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        _weight: torch.Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        store: Any = None,
        table: str | None = None,
        codec: str | None = None,
    ) -> None:
        nn.Module.__init__(self)
        refuse_max_norm(max_norm)
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = normal_padding(padding_idx, num_embeddings)
        self.max_norm, self.norm_type = None, norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, True
        self._open(_weight, dtype, store, table, codec)
        self.weight.requires_grad_(not _freeze)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        ids = flat_ids(self.source, input)
        if not self._has_gradients():
            return torch.from_numpy(self._all_rows(ids)).to(input.device).reshape(*input.shape, self.embedding_dim)
        pulled = self._pulled(ids)
        rows = self._rows_of(pulled, input.device)
        places = torch.from_numpy(pulled.places).to(input.device).reshape(input.shape)
        padding = self._padding_of(pulled)
        return functional.embedding(places, rows, padding, scale_grad_by_freq=self.scale_grad_by_freq)

    def _all_rows(self, ids: np.ndarray) -> np.ndarray:
        taken = self._taken(ids, "rows")
        if taken is None:
            return self.source.get(ids)
        pulled, written = taken
        if np.isin(pulled.ids, written).any():
            return self.source.get(ids)
        return pulled.rows[pulled.places]

    def prefetch(self, input: torch.Tensor) -> None:
        """Begin to read the rows of the next batch, while this one is computed; `forward` of the same takes them."""
        ids = flat_ids(self.source, input).copy()
        self._begin(ids, "rows", lambda: self._pull(ids))


class PmkvEmbeddingBag(_InTable, nn.EmbeddingBag):
    """torch.nn.EmbeddingBag over a table. store: a URL, a client, or an open store; table: the name of the table;
    codec: how a table of float32 stores rows, such as "int8".

    Gradients are sparse, whatever `sparse` says, in every mode. Not supported: max_norm."""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        _weight: torch.Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        store: Any = None,
        table: str | None = None,
        codec: str | None = None,
    ) -> None:
        nn.Module.__init__(self)
        refuse_max_norm(max_norm)
        if mode not in ("sum", "mean", "max"):
            raise ValueError(f"mode={mode!r}: choose one of sum, mean, max")
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.padding_idx = normal_padding(padding_idx, num_embeddings)
        self.max_norm, self.norm_type, self.mode = None, norm_type, mode
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, True
        self.include_last_offset = include_last_offset
        self._open(_weight, dtype, store, table, codec)

    def forward(
        self, input: torch.Tensor, offsets: torch.Tensor | None = None, per_sample_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        ids = flat_ids(self.source, input)
        if self._is_pooled(input, offsets, per_sample_weights):
            return torch.from_numpy(self._pooled(ids, self._starts(input, offsets))).to(input.device)
        pulled = self._pulled(ids)
        return functional.embedding_bag(
            torch.from_numpy(pulled.places).to(input.device).reshape(input.shape),
            self._rows_of(pulled, input.device),
            None if offsets is None else offsets.to(torch.int64),
            scale_grad_by_freq=self.scale_grad_by_freq,
            mode=self.mode,
            per_sample_weights=per_sample_weights,
            include_last_offset=self.include_last_offset,
            padding_idx=self._padding_of(pulled),
        )

    def _pull(self, ids: np.ndarray) -> Pulled:
        """Read the padding row in any case: without a `padding_idx` torch sums weighted rows in another order."""
        if self.padding_idx is None:
            return super()._pull(ids)
        pulled = super()._pull(np.append(ids, self.padding_idx))
        return Pulled(pulled.ids, pulled.places[:-1], pulled.rows)

    def _is_pooled(self, input: torch.Tensor, offsets: Any, per_sample_weights: Any) -> bool:
        """Return whether the store pools the bags: no gradients or weights, f4, and nothing that torch would refuse."""
        if self._has_gradients() or per_sample_weights is not None or self.weight.dtype != torch.float32:
            return False
        if (input.dim() == 1) == (offsets is None) or input.dim() > 2 or (self.mode != "sum" and not self._is_whole):
            return False  # an absent row counts as zeros here, and is left out there
        if offsets is None:
            return input.numel() > 0
        return (
            offsets.dim() == 1
            and len(offsets) > self.include_last_offset
            and int(offsets[0]) == 0
            and (not self.include_last_offset or int(offsets[-1]) == len(input))
        )

    def _starts(self, input: torch.Tensor, offsets: torch.Tensor | None) -> np.ndarray:
        if offsets is None:
            return np.arange(0, input.numel(), input.shape[1])
        return offsets.cpu().numpy()[: len(offsets) - self.include_last_offset]

    def _pool(self, ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
        if self.padding_idx is not None:
            kept = ids != self.padding_idx
            starts = np.concatenate(([0], np.cumsum(kept)))[starts]
            ids = ids[kept]
        return self.source.table.pool(ids, starts, mode=self.mode)

    def _pooled(self, ids: np.ndarray, starts: np.ndarray) -> np.ndarray:
        taken = self._taken(ids, ("bags", starts.tobytes()))
        if taken is None or np.isin(ids, taken[1]).any():
            return self._pool(ids, starts)
        return taken[0]

    def prefetch(
        self, input: torch.Tensor, offsets: torch.Tensor | None = None, per_sample_weights: torch.Tensor | None = None
    ) -> None:
        """Begin to read the rows of the next batch, while this one is computed: `forward` of the same takes them."""
        ids = flat_ids(self.source, input).copy()
        if self._is_pooled(input, offsets, per_sample_weights):
            starts = self._starts(input, offsets).copy()
            self._begin(ids, ("bags", starts.tobytes()), lambda: self._pool(ids, starts))
        else:
            self._begin(ids, "rows", lambda: self._pull(ids))
