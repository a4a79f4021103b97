"""Optimizers for weights in tables: the rows that a step changes, the optimizer's state and the number of the step are
written together, so that a restart goes on from one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch.optim import Optimizer

from .embedding_weight import PmkvWeight, changed_rows
from .row_source import RowSource, finish_step, write_step


def split_parameters(model: torch.nn.Module) -> tuple[list[PmkvWeight], list[torch.nn.Parameter]]:
    """Return the parameters of a model that are in tables, and the others."""
    parameters = list(model.parameters())
    return (
        [one for one in parameters if isinstance(one, PmkvWeight)],
        [one for one in parameters if not isinstance(one, PmkvWeight)],
    )


class TableOptimizer(Optimizer):
    """The base class: one step of all tables is one write.

    name: of the run, under which the number of the last step is kept; two optimizers of one store need two names.
    `steps` is the number of the last step that is stored, and `attachment` what was given to `step` then."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any], name: str) -> None:
        super().__init__(params, defaults)
        weights = [weight for group in self.param_groups for weight in group["params"]]
        wrong = next((weight for weight in weights if not isinstance(weight, PmkvWeight)), None)
        if wrong is not None:
            raise TypeError(
                f"{type(self).__name__} takes weights in tables; here is a {type(wrong).__name__}: give such to an "
                "optimizer of torch.optim (split_parameters(model) parts them)"
            )
        stores = {id(weight.source.store): weight.source.store for weight in weights}
        if len(stores) != 1:
            raise ValueError(
                f"the weights are in {len(stores)} stores; a step is written to one: make an optimizer each"
            )
        (self._store,) = stores.values()
        self.name, self._sources = name, {weight.source.name: weight.source for weight in weights}
        self._sources |= {state.name: state for state in map(self._state_of, weights) if state is not None}
        self.steps, self.attachment = finish_step(self._store, name, self._sources)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as torch does. ValueError: another group has a weight in one of its tables."""
        super().add_param_group(param_group)
        groups = [
            {one.source.changes for one in group["params"] if isinstance(one, PmkvWeight)}
            for group in self.param_groups
        ]
        if any(groups[-1] & others for others in groups[:-1]):
            self.param_groups.pop()
            raise ValueError(
                "two groups of parameters have weights in one table, whose gradients are summed: give all weights in a "
                "table to one group"
            )

    def _state_of(self, weight: PmkvWeight) -> RowSource | None:
        """Return the table of the optimizer's state, opened or created; None: it has none."""
        return None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, attach: bytes = b"") -> Any:  # type: ignore[override]
        """Apply the gradients, and store rows, state and the number of the step together.

        attach: bytes that belong to the step, such as the dense part of the model as torch.save writes it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        writes = [write for group in self.param_groups for write in self._writes(group)]
        write_step(self._store, writes, self.name, self.steps + 1, attach)
        self.steps, self.attachment = self.steps + 1, attach
        return loss

    def _writes(self, group: dict[str, Any]) -> list[tuple[RowSource, np.ndarray, np.ndarray]]:
        """Return table, ids and rows of each write of a group of parameters."""
        raise NotImplementedError

    def _gradients(self, group: dict[str, Any]) -> list[tuple[PmkvWeight, torch.Tensor]]:
        """Return a weight of each table, and the sum of the gradients of all weights in that table."""
        found: dict[str, list[tuple[PmkvWeight, torch.Tensor]]] = {}
        for weight in group["params"]:
            if weight.grad is not None:
                grad = weight.grad if weight.grad.is_sparse else weight.grad.to_sparse(1)
                found.setdefault(weight.source.name, []).append((weight, grad))
        return [(some[0][0], reduce(torch.add, (grad for _, grad in some)).coalesce()) for some in found.values()]


class SparseSGD(TableOptimizer):
    """Plain stochastic gradient descent on the rows of a batch: row -= lr * gradient."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, name: str = "train") -> None:
        super().__init__(params, {"lr": lr}, name)

    def _writes(self, group: dict[str, Any]) -> list[tuple[RowSource, np.ndarray, np.ndarray]]:
        updates = [(weight, grad, -group["lr"]) for weight, grad in self._gradients(group)]
        return changed_rows(updates) if updates else []


class Adagrad(TableOptimizer):
    """Row-wise Adagrad: a row has one sum of the means of its squared gradients, in the table `<name>.adagrad`.

    sum += mean(gradient ** 2); row -= lr * gradient / (sqrt(sum) + eps)."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-2, eps: float = 1e-10, name: str = "train") -> None:
        self._sums: dict[str, RowSource] = {}
        super().__init__(params, {"lr": lr, "eps": eps}, name)

    def _state_of(self, weight: PmkvWeight) -> RowSource | None:
        source = weight.source
        if source.name not in self._sums:
            self._sums[source.name] = RowSource(source.store, f"{source.name}.adagrad", source.rows, 1)
        return self._sums[source.name]

    def _writes(self, group: dict[str, Any]) -> list[tuple[RowSource, np.ndarray, np.ndarray]]:
        gradients = self._gradients(group)
        ids = {self._sums[weight.source.name].name: grad.indices()[0].numpy() for weight, grad in gradients}
        if not ids:
            return []
        sums, writes, updates = self._store.gather(ids), [], []
        for weight, grad in gradients:
            state = self._sums[weight.source.name]
            values = grad.values()
            total = torch.from_numpy(sums[state.name]) + values.pow(2).mean(1, keepdim=True)
            scaled = values / (total.sqrt() + group["eps"])
            updates.append((weight, torch.sparse_coo_tensor(
                grad.indices(), scaled, tuple(weight.shape), is_coalesced=True, check_invariants=False
            ), -group["lr"]))  # fmt: skip
            writes.append((state, ids[state.name], total.numpy()))
        return [*changed_rows(updates), *writes]
