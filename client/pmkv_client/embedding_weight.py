"""`PmkvWeight`: a parameter of torch whose rows are in a table, so that optimizers, checkpoints and scripts can use it.

It has the shape of the weight and none of its memory. Sparse gradients are added to the rows of the table; copies are
written batch by batch; whatever else torch is asked to do with it reads the whole weight. Gradients are always sparse.
The writes of one `optimizer.step()` are collected and written together when it ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .row_source import RowSource, write_step

DTYPES = {torch.float32: "f4", torch.float16: "f2", torch.float64: "f8"}
DENSE_STATE = {torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like}

Update = tuple["PmkvWeight", torch.Tensor, float]  # weight, sparse gradient, factor


def numpy_dtype(dtype: torch.dtype) -> str:
    """Return the dtype of a table for a dtype of torch. TypeError: there is none."""
    if dtype not in DTYPES:
        raise TypeError(f"weights of {dtype} cannot be in a table here: use {', '.join(map(str, DTYPES))}")
    return DTYPES[dtype]


class PmkvWeight(torch.nn.Parameter):
    """A weight of rows in a table. It may be used wherever a parameter may; two copies share one table.

    `batches()` streams it; `weight.data = tensor` and `weight.copy_(tensor)` write it."""

    source: RowSource

    def __new__(cls, source: RowSource, requires_grad: bool = True) -> PmkvWeight:
        dtype = {name: dtype for dtype, name in DTYPES.items()}[source.dtype.str[1:]]
        weight: PmkvWeight = super().__new__(cls, torch.zeros(1, dtype=dtype).expand(source.rows, source.dim))
        weight.source = source
        weight.requires_grad_(requires_grad and dtype.is_floating_point)
        return weight

    def __repr__(self) -> str:
        return f"PmkvWeight(shape={tuple(self.shape)}, table={self.source.name!r}, requires_grad={self.requires_grad})"

    def __deepcopy__(self, memo: dict[int, Any]) -> PmkvWeight:
        return PmkvWeight(self.source, self.requires_grad)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the rows, as an ordinary tensor: what torch.save writes is read without pmkv."""
        return self.read().__reduce_ex__(protocol)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        own = HANDLED.get(func)
        if own is not None:
            return own(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__", "__delete__") or name in OF_SHAPE:
            return super().__torch_function__(func, types, args, kwargs or {})
        return _on_whole(func, args, kwargs or {})

    @property
    def data(self) -> PmkvWeight:  # type: ignore[override]
        return PmkvWeight(self.source, False)

    @data.setter
    def data(self, tensor: torch.Tensor) -> None:
        self.write(tensor)

    # rows

    def read(self) -> torch.Tensor:
        """Return the whole weight as an ordinary tensor."""
        whole = torch.empty(tuple(self.shape), dtype=self.dtype)
        for start, rows in self.batches():
            whole[start : start + len(rows)] = rows
        return whole

    def batches(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (first id, rows) of the whole weight, batch by batch."""
        for start, stop in self.source.batches():
            yield start, torch.from_numpy(self.source.get(np.arange(start, stop)))

    def write(self, tensor: torch.Tensor) -> None:
        """Write every row, batch by batch. ValueError: the shape is another one."""
        if tuple(tensor.shape) != tuple(self.shape):
            raise ValueError(
                f"a weight of shape {tuple(tensor.shape)} does not fit table {self.source.name!r}, which holds "
                f"{tuple(self.shape)}"
            )
        other = tensor.source if isinstance(tensor, PmkvWeight) else None
        for start, stop in self.source.batches():
            ids = np.arange(start, stop)
            rows = other.get(ids) if other else tensor[start:stop].detach().cpu().to(self.dtype).numpy()
            self.source.put(ids, np.ascontiguousarray(rows))


# what torch asks of a weight

OF_SHAPE = {
    "size", "dim", "numel", "stride", "is_floating_point", "is_complex", "requires_grad_", "element_size",
    "is_contiguous", "register_hook", "register_post_accumulate_grad_hook", "ndimension", "nelement", "__hash__",
    "is_same_size", "type", "get_device", "storage_offset", "retain_grad", "is_signed", "is_shared", "is_inference",
    "__len__", "is_pinned", "is_neg", "is_conj", "__format__",
}  # fmt: skip
HANDLED: dict[Any, Callable[..., Any]] = {}


def handles(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function of ours in place of functions of torch."""

    def register(own: Callable[..., Any]) -> Callable[..., Any]:
        HANDLED.update(dict.fromkeys(functions, own))
        return own

    return register


@handles(torch.Tensor.detach, torch.detach)
def _detach(weight: PmkvWeight) -> PmkvWeight:
    return PmkvWeight(weight.source, False)


@handles(torch.Tensor.copy_)
def _copy(weight: Any, tensor: Any, non_blocking: bool = False) -> Any:
    if isinstance(weight, PmkvWeight):
        weight.write(tensor)
        return weight
    return weight.copy_(tensor.read(), non_blocking)


@handles(torch.Tensor.add_)
def _add(weight: Any, other: Any, *, alpha: float = 1) -> Any:
    if not isinstance(weight, PmkvWeight):
        return weight.add_(other.read(), alpha=alpha)
    if isinstance(other, torch.Tensor) and other.is_sparse:
        add_to_rows(weight, other, alpha)
        return weight
    return _on_whole(torch.Tensor.add_, (weight, other), {"alpha": alpha})


def _no_dense_state(weight: Any, *args: Any, **kwargs: Any) -> Any:
    raise TypeError(
        f"this optimizer keeps a dense state of the size of {weight!r}: use pmkv_client.torch.SparseSGD or Adagrad for "
        "the weights in tables, whose state is in a table too, or torch.optim.SGD"
    )


HANDLED.update(dict.fromkeys(DENSE_STATE, _no_dense_state))


def _on_whole(func: Any, args: Any, kwargs: Any) -> Any:
    """Call a function of torch on the whole weight, and write back what it changed in place."""
    whole: dict[int, torch.Tensor] = {}

    def read(value: Any) -> Any:
        if isinstance(value, PmkvWeight):
            return whole.setdefault(id(value), value.read())
        if isinstance(value, list | tuple) and any(isinstance(one, PmkvWeight) for one in value):
            return type(value)(map(read, value))
        return value

    name = getattr(func, "__name__", "")
    result = func(*map(read, args), **{key: read(value) for key, value in kwargs.items()})
    in_place = (name.endswith("_") and not name.endswith("__")) or name == "__setitem__" or name.startswith("__i")
    if in_place and args and isinstance(args[0], PmkvWeight):
        args[0].write(whole[id(args[0])])
        return args[0]
    return result


# sparse updates, and the steps of optimizers


class Steps(threading.local):
    """The updates of the optimizer step that this thread is in; None outside of one."""

    updates: list[Update] | None = None


steps = Steps()


def add_to_rows(weight: PmkvWeight, change: torch.Tensor, alpha: float = 1.0) -> None:
    """Add a sparse tensor to the rows of a weight: at the end of the optimizer's step, or now outside of one."""
    if steps.updates is None:
        apply_updates([(weight, change, alpha)])
        return
    if any(other.source.changes is weight.source.changes for other, _, _ in steps.updates):
        apply_updates(steps.updates)
        steps.updates = []
    steps.updates.append((weight, change, alpha))


def apply_updates(updates: list[Update]) -> None:
    """Read the rows of several weights, change them, and write them, together for each store."""
    stores: dict[int, list[Update]] = {}
    for update in updates:
        stores.setdefault(id(update[0].source.store), []).append(update)
    for some in stores.values():
        write_step(some[0][0].source.store, changed_rows(some))


def changed_rows(updates: list[Update]) -> list[tuple[RowSource, np.ndarray, np.ndarray]]:
    """Return table, ids and rows of each update of one store, of distinct tables. What no forward has kept is read in
    one call."""
    changes = [(weight.source, change.coalesce(), alpha) for weight, change, alpha in updates]
    ids = {source.name: change.indices()[0].numpy() for source, change, _ in changes}
    rows = {source.name: kept for source, _, _ in changes if (kept := source.kept(ids[source.name])) is not None}
    missing = {name: some for name, some in ids.items() if name not in rows}
    if missing:
        rows |= changes[0][0].store.gather(missing) if len(missing) > 1 else _one(changes, missing)
    writes = []
    for source, change, alpha in changes:
        before = torch.from_numpy(rows[source.name])
        after = torch.add(before, change.values().to(before.dtype), alpha=alpha)
        writes.append((source, ids[source.name], after.numpy()))
    return writes


def _one(changes: list[tuple[RowSource, torch.Tensor, float]], missing: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {source.name: source.get(missing[source.name]) for source, _, _ in changes if source.name in missing}


def _begin(optimizer: Any, args: Any, kwargs: Any) -> None:
    steps.updates = []


def _end(optimizer: Any, args: Any, kwargs: Any) -> None:
    updates, steps.updates = steps.updates, None
    if updates:
        apply_updates(updates)


register_optimizer_step_pre_hook(_begin)
register_optimizer_step_post_hook(_end)
