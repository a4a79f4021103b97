"""A TorchRec-style collection of embedding bags in tables: a KeyedJaggedTensor in, a KeyedTensor out.

TorchRec itself is not needed. Features are anything with the methods `keys`, `values`, `lengths`, `offset_per_key` and,
for weights, `weights_or_none`; tables are described by anything with the attributes of TorchRec's EmbeddingBagConfig.
The result is TorchRec's KeyedTensor where TorchRec can be imported, else one with the same methods.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import nn

from .embedding_modules import PmkvEmbeddingBag, flat_ids
from .row_source import OneTable, open_store

CODECS = {"INT8": "int8", "UINT8": "int8", "INT4": "int4", "BF16": "bfloat16", "FP16": "f2", "FP32": None}


@dataclass(frozen=True)
class BagConfig:
    """The description of one table: its name and size, the features that look rows up in it, and how bags are pooled
    ("sum" or "mean"). data_type: how rows are stored, a name of TorchRec's data types."""

    name: str
    num_embeddings: int
    embedding_dim: int
    feature_names: Sequence[str]
    pooling: Any = "sum"
    data_type: Any = "FP32"


class KeyedTensor:
    """Dense tensors by key, side by side in one of shape (batch, sum of dimensions)."""

    def __init__(self, keys: Sequence[str], length_per_key: Sequence[int], values: torch.Tensor) -> None:
        self._keys, self._lengths, self._values = list(keys), list(length_per_key), values

    def keys(self) -> list[str]:
        """Return the names of the parts, in order."""
        return self._keys

    def values(self) -> torch.Tensor:
        """Return all parts side by side."""
        return self._values

    def length_per_key(self) -> list[int]:
        """Return the dimension of each part."""
        return self._lengths

    def offset_per_key(self) -> list[int]:
        """Return where each part begins, and the end of the last."""
        return [0, *accumulate(self._lengths)]

    def __getitem__(self, key: str) -> torch.Tensor:
        start = self.offset_per_key()[self._keys.index(key)]
        return self._values[:, start : start + self._lengths[self._keys.index(key)]]

    def to_dict(self) -> dict[str, torch.Tensor]:
        """Return the parts by name."""
        return {key: self[key] for key in self._keys}


def keyed_tensor(keys: Sequence[str], dims: Sequence[int], values: torch.Tensor) -> Any:
    """Return TorchRec's KeyedTensor, or the one of this module where TorchRec cannot be imported."""
    try:
        kind = importlib.import_module("torchrec.sparse.jagged_tensor").KeyedTensor
    except (ImportError, OSError):  # OSError: its library does not fit this torch
        kind = KeyedTensor
    return kind(list(keys), list(dims), values)


@dataclass(frozen=True)
class Bags:
    """The bags of one feature: ids, where each bag begins, and a weight for each id, or None."""

    ids: torch.Tensor
    starts: torch.Tensor
    weights: torch.Tensor | None


class PmkvEmbeddingBagCollection(nn.Module):
    """torchrec.EmbeddingBagCollection over tables of a store: a URL, a client, or an open store or view.

    tables: TorchRec's EmbeddingBagConfig, or BagConfig. The table of `name` is `prefix + name` in the store. A feature
    that several tables have is `feature@table` in the result, as in TorchRec. Without gradients and weights all tables
    are pooled in one call, of one version, for each way of pooling."""

    def __init__(self, tables: Iterable[Any], is_weighted: bool = False, *, store: Any, prefix: str = "") -> None:
        super().__init__()
        self.configs, self.is_weighted = list(tables), is_weighted
        names = [config.name for config in self.configs]
        if len(set(names)) != len(names):
            raise ValueError(f"tables {names} do not have names of their own")
        self._store = open_store(store)
        self.embedding_bags = nn.ModuleDict({config.name: self._bag(config, prefix) for config in self.configs})
        features = [feature for config in self.configs for feature in config.feature_names]
        self._outputs = [
            (config.name, feature, feature if features.count(feature) == 1 else f"{feature}@{config.name}")
            for config in self.configs
            for feature in config.feature_names
        ]

    def _bag(self, config: Any, prefix: str) -> PmkvEmbeddingBag:
        mode, data_type = word_of(getattr(config, "pooling", "sum")), word_of(getattr(config, "data_type", "FP32"))
        if data_type.upper() not in CODECS:
            raise ValueError(f"table {config.name!r}: data_type={data_type}: choose one of {', '.join(CODECS)}")
        return PmkvEmbeddingBag(
            config.num_embeddings, config.embedding_dim, mode=mode.lower(), store=self._store,
            table=prefix + config.name, codec=CODECS[data_type.upper()],
        )  # fmt: skip

    def embedding_bag_configs(self) -> list[Any]:
        """Return the descriptions of the tables."""
        return self.configs

    def forward(self, features: Any) -> Any:
        bags = {name: self._bags(features, name) for name in dict.fromkeys(feature for _, feature, _ in self._outputs)}
        parts = self._pooled(bags) if self._is_pooled(bags) else [
            self.embedding_bags[table](bags[feature].ids, bags[feature].starts, bags[feature].weights)
            for table, feature, _ in self._outputs
        ]  # fmt: skip
        dims = [self.embedding_bags[table].embedding_dim for table, _, _ in self._outputs]
        return keyed_tensor([name for _, _, name in self._outputs], dims, torch.cat(parts, dim=1))

    def _bags(self, features: Any, name: str) -> Bags:
        """Return the bags of one feature. KeyError: the batch has no such feature."""
        keys = features.keys()
        if name not in keys:
            raise KeyError(f"the batch has no feature {name!r}; it has {', '.join(keys)}")
        at, ends = keys.index(name), features.offset_per_key()
        part = slice(int(ends[at]), int(ends[at + 1]))
        lengths = features.lengths().reshape(len(keys), -1)[at].to(torch.int64)
        starts = torch.cumsum(lengths, 0) - lengths
        weights = features.weights_or_none() if self.is_weighted else None
        if self.is_weighted and weights is None:
            raise ValueError("is_weighted=True: the batch has no weights")
        return Bags(features.values()[part], starts, None if weights is None else weights[part])

    def _is_pooled(self, bags: dict[str, Bags]) -> bool:
        """Return whether the store pools all tables: no gradients or weights, and rows of f4 that are all there."""
        if self.is_weighted or isinstance(self._store, OneTable) or not all(len(one.starts) for one in bags.values()):
            return False
        return not any(bag._has_gradients() or not bag._is_whole for bag in self.embedding_bags.values())

    def _pooled(self, bags: dict[str, Bags]) -> list[torch.Tensor]:
        """Pool all tables, in one call for each way of pooling."""
        found: dict[str, list[torch.Tensor]] = {}
        for mode in dict.fromkeys(bag.mode for bag in self.embedding_bags.values()):
            wanted = {}
            for config in self.configs:
                bag = self.embedding_bags[config.name]
                if bag.mode == mode and config.feature_names:
                    wanted[config.name] = joined(bag, [bags[feature] for feature in config.feature_names])
            tables = {name: self.embedding_bags[name].source.name for name in wanted}
            pooled = self._store.pool({tables[name]: some for name, some in wanted.items()}, mode=mode)
            for config in self.configs:
                if config.name in wanted:
                    rows = torch.from_numpy(pooled[tables[config.name]])
                    found[config.name] = list(rows.chunk(len(config.feature_names)))
        device = next(iter(bags.values())).ids.device
        places: dict[str, int] = {}
        parts = []
        for table, _, _ in self._outputs:
            at = places[table] = places.get(table, -1) + 1
            parts.append(found[table][at].to(device))
        return parts


def joined(bag: PmkvEmbeddingBag, some: Sequence[Bags]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and starts of the bags of several features, one after another."""
    ids = [flat_ids(bag.source, one.ids) for one in some]
    before = [0, *accumulate(map(len, ids))]
    starts = [one.starts.cpu().numpy() + first for one, first in zip(some, before, strict=False)]
    return np.concatenate(ids), np.concatenate(starts)


def word_of(value: Any) -> str:
    """Return the name of a member of an enumeration, or the text itself."""
    return str(getattr(value, "name", value))
