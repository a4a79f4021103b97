"""A model of 26 tables, embedded and over the network, beside the same model in torch: equal outputs, equal rows after
training."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import pmkv
import pmkv_client
from tests.optional import needs
from tests.served import served

torch = needs("torch")

from torch import nn  # noqa: E402

import examples.dlrm_torch as dlrm  # noqa: E402
from pmkv_client.torch import SparseSGD, offload, split_parameters  # noqa: E402


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name, value in {"TABLES": 26, "ROWS": 1000, "BATCH": 32}.items():
        monkeypatch.setattr(dlrm, name, value)
    return dlrm


@contextlib.contextmanager
def opened(place: str) -> Iterator[Any]:
    """Open a store in this process, or one of a server."""
    if place == "embedded":
        with pmkv.open(None, pool=":memory:", capacity="512MiB") as store:
            yield store
        return
    with (
        served("--pool", ":memory:", "--capacity", "512MiB") as server,
        pmkv_client.connect(f"pmkv://127.0.0.1:{server.port}") as client,
    ):
        yield client


@pytest.mark.parametrize("place", ["embedded", "network"])
@pytest.mark.parametrize("batches", [10, pytest.param(200, marks=pytest.mark.long)])
def test_26_tables_are_as_those_of_torch(small: ModuleType, batches: int, place: str) -> None:
    with opened(place) as store:
        torch.manual_seed(0)
        plain = small.Recommender()
        for bag in plain.tables:
            nn.init.uniform_(bag.weight, -0.03, 0.03)
        began = [bag.weight.detach().clone() for bag in plain.tables]
        ours = copy.deepcopy(plain)
        offload(ours, store, min_rows=1000)
        assert len(store.tables()) == 26
        dense, ids, _ = small.some_batch(999)
        with torch.no_grad():
            assert torch.equal(ours(dense, ids), plain(dense, ids))
        assert torch.equal(ours(dense, ids), plain(dense, ids))
        in_tables, rest = split_parameters(ours)
        optimizers = [SparseSGD(in_tables, lr=1.0, name="dlrm"), torch.optim.SGD(rest, lr=0.1)]
        others = [*plain.bottom.parameters(), *plain.top.parameters()]
        torchs = [torch.optim.SGD(plain.tables.parameters(), lr=1.0), torch.optim.SGD(others, lr=0.1)]
        assert small.train(ours, optimizers, batches) == pytest.approx(small.train(plain, torchs, batches), abs=1e-5)
        for mine, other, first in zip(ours.tables, plain.tables, began, strict=True):
            assert not torch.equal(other.weight, first)
            assert (mine.weight.read() - other.weight).abs().max() <= 1e-6
