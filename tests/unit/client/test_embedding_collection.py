"""PmkvEmbeddingBagCollection beside torch's own bags. TorchRec is not needed: a stand-in has the methods of its
KeyedJaggedTensor."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

import pytest

import pmkv
from tests.optional import needs

torch = needs("torch")

from torch import nn  # noqa: E402

from pmkv_client.embedding_collection import (  # noqa: E402
    BagConfig,
    KeyedTensor,
    PmkvEmbeddingBagCollection,
    keyed_tensor,
    word_of,
)

BATCH = 5


class Jagged:
    """The methods of TorchRec's KeyedJaggedTensor that a collection calls."""

    def __init__(self, lengths: dict[str, list[int]], weighted: bool = False) -> None:
        draw = torch.Generator().manual_seed(1)
        self._keys, self._lengths = list(lengths), torch.tensor([one for row in lengths.values() for one in row])
        total = int(self._lengths.sum())
        self._values = torch.randint(0, 40, (total,), generator=draw)
        self._weights = torch.rand(total, generator=draw) if weighted else None

    def keys(self) -> list[str]:
        return self._keys

    def values(self) -> torch.Tensor:
        return self._values

    def lengths(self) -> torch.Tensor:
        return self._lengths

    def offset_per_key(self) -> list[int]:
        return [0, *self._lengths.reshape(len(self._keys), -1).sum(dim=1).cumsum(0).tolist()]

    def weights_or_none(self) -> torch.Tensor | None:
        return self._weights


class Pooling(enum.Enum):
    SUM = "sum"
    MEAN = "mean"


TABLES = [
    BagConfig("users", 40, 4, ["user", "friend"]),
    BagConfig("goods", 40, 3, ["item"], Pooling.MEAN),
    BagConfig("more", 40, 2, ["user"], Pooling.SUM),
]
LENGTHS = {"friend": [0, 2, 1, 0, 3], "item": [1, 1, 0, 2, 2], "unused": [1] * BATCH, "user": [2, 0, 1, 1, 4]}


@pytest.fixture
def store() -> Iterator[pmkv.Store]:
    with pmkv.open(None, pool=":memory:", capacity="64MiB") as opened:
        yield opened


def expected(made: PmkvEmbeddingBagCollection, features: Jagged) -> list[torch.Tensor]:
    """Return what torch's own bags give for each output."""
    ends, parts = features.offset_per_key(), []
    for config in made.configs:
        mode = word_of(config.pooling).lower()
        weight = torch.from_numpy(made.embedding_bags[config.name].source.get(torch.arange(40).numpy()))
        plain = nn.EmbeddingBag(40, config.embedding_dim, mode=mode, _weight=weight, include_last_offset=True)
        for feature in config.feature_names:
            at = features.keys().index(feature)
            lengths = features.lengths().reshape(-1, BATCH)[at]
            part = slice(ends[at], ends[at + 1])
            weights = features.weights_or_none()
            offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
            parts.append(plain(features.values()[part], offsets, None if weights is None else weights[part]))
    return parts


def test_outputs_are_those_of_torchs_bags(store: pmkv.Store) -> None:
    made, features = PmkvEmbeddingBagCollection(TABLES, store=store, prefix="model."), Jagged(LENGTHS)
    assert set(store.tables()) == {"model.users", "model.goods", "model.more"}
    calls: list[Any] = []
    made._store.pool, pool = lambda *given, **how: calls.append(given) or pool(*given, **how), made._store.pool
    with torch.no_grad():
        found = made(features)
    assert [sorted(tables) for (tables,) in calls] == [["model.more", "model.users"], ["model.goods"]]
    assert found.keys() == ["user@users", "friend", "item", "user@more"] and found.length_per_key() == [4, 4, 3, 2]
    assert found.values().shape == (BATCH, 13) and found["item"].shape == (BATCH, 3)
    for part, wanted in zip(found.to_dict().values(), expected(made, features), strict=True):
        assert torch.equal(part, wanted)
    assert made.embedding_bag_configs() == TABLES


def test_training_writes_the_tables(store: pmkv.Store) -> None:
    made, features = PmkvEmbeddingBagCollection(TABLES, store=store), Jagged(LENGTHS)
    before = store.table("users").get(torch.arange(40).numpy())
    found = made(features)
    for part, wanted in zip(found.to_dict().values(), expected(made, features), strict=True):
        assert torch.allclose(part, wanted)
    found.values().sum().backward()
    torch.optim.SGD(made.parameters(), lr=0.5).step()
    assert (store.table("users").get(torch.arange(40).numpy()) != before).any()


def test_weights_are_taken_where_they_are_asked_for(store: pmkv.Store) -> None:
    tables = [BagConfig("users", 40, 4, ["user", "friend"])]
    made, features = PmkvEmbeddingBagCollection(tables, is_weighted=True, store=store), Jagged(LENGTHS, weighted=True)
    for part, wanted in zip(made(features).to_dict().values(), expected(made, features), strict=True):
        assert torch.allclose(part, wanted)
    with pytest.raises(ValueError, match="the batch has no weights"):
        made(Jagged(LENGTHS))


def test_a_data_type_is_a_codec_and_mistakes_are_told(store: pmkv.Store) -> None:
    made = PmkvEmbeddingBagCollection([BagConfig("q", 40, 4, ["user"], data_type="INT8")], store=store)
    assert store.table("q").codec == "int8"
    with pytest.raises(KeyError, match="the batch has no feature 'user'; it has item"):
        made(Jagged({"item": [1] * BATCH}))
    with pytest.raises(ValueError, match="data_type=FP8: choose one of"):
        PmkvEmbeddingBagCollection([BagConfig("x", 40, 4, ["a"], data_type="FP8")], store=store)
    with pytest.raises(ValueError, match="names of their own"):
        PmkvEmbeddingBagCollection([TABLES[0], TABLES[0]], store=store)


def test_without_torchrec_the_result_has_its_methods() -> None:
    values = torch.arange(10.0).reshape(2, 5)
    made = KeyedTensor(["a", "b"], [2, 3], values)
    assert made.offset_per_key() == [0, 2, 5] and torch.equal(made["b"], values[:, 2:])
    assert torch.equal(keyed_tensor(["a", "b"], [2, 3], values)["a"], values[:, :2])
