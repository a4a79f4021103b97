"""PmkvEmbedding and PmkvEmbeddingBag beside torch's own modules: equal bits, equal gradients, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import pmkv
from tests.optional import needs

torch = needs("torch")

from torch import nn  # noqa: E402

from pmkv_client.embedding_modules import PmkvEmbedding, PmkvEmbeddingBag, tables_in  # noqa: E402

ROWS, DIM = 300, 8


@pytest.fixture
def store() -> Iterator[pmkv.Store]:
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as opened:
        yield opened


def twins(plain: Any, ours: Any, store: pmkv.Store, table: str, **options: Any) -> list[Any]:
    """Return a module of torch and one of ours, from the same seed."""
    made = []
    for kind, more in ((plain, {}), (ours, {"store": store, "table": table})):
        torch.manual_seed(4)
        made.append(kind(ROWS, DIM, **options, **more))
    return made


def some_ids(count: int, seed: int = 0) -> torch.Tensor:
    ids = torch.randint(0, ROWS, (count,), generator=torch.Generator().manual_seed(seed))
    ids[::5] = 3
    return ids


def check_training(modules: list[Any], outputs: list[torch.Tensor]) -> None:
    """Compare gradients, and rows after a step."""
    for output in outputs:
        output.pow(2).sum().backward()
    plain, ours = modules
    dense = [module.weight.grad.to_dense() for module in modules]
    assert ours.weight.grad.is_sparse and torch.allclose(*dense, rtol=1e-5, atol=1e-5)
    for module in modules:
        torch.optim.SGD(module.parameters(), lr=0.1).step()
    assert torch.allclose(ours.weight.read(), plain.weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(
    "options", [{}, {"padding_idx": 3}, {"scale_grad_by_freq": True, "padding_idx": -297}], ids=str
)
@pytest.mark.parametrize("shape", [(40,), (4, 2, 5), (0,), ()], ids=str)
def test_embedding(store: pmkv.Store, shape: tuple, options: dict, training: bool) -> None:
    modules = twins(nn.Embedding, PmkvEmbedding, store, table="t", **options)
    ids = some_ids(int(np.prod(shape))).reshape(shape)
    with torch.set_grad_enabled(training):
        outputs = [module(ids) for module in modules]
        assert torch.equal(*outputs) and outputs[1].shape == (*shape, DIM)
        assert torch.equal(outputs[0], modules[1](ids.int()))
        if training:
            check_training(modules, outputs)


BAGS = [
    {"mode": mode, "include_last_offset": last, "padding_idx": padding}
    for mode in ("sum", "mean", "max")
    for last in (False, True)
    for padding in (None, 3)
]


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("options", BAGS, ids=lambda one: "-".join(map(str, one.values())))
def test_bags(store: pmkv.Store, options: dict, training: bool) -> None:
    modules = twins(nn.EmbeddingBag, PmkvEmbeddingBag, store, table="t", **options)
    ids, offsets = some_ids(60), torch.tensor([0, 7, 7, 20, 59, *[60] * options["include_last_offset"]])
    with torch.set_grad_enabled(training):
        outputs = [module(ids, offsets) for module in modules]
        assert torch.equal(*outputs)
        assert torch.equal(modules[0](ids.reshape(6, 10)), modules[1](ids.reshape(6, 10)))
        if training:
            check_training(modules, outputs)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("padding", [None, 3, -1])
def test_weighted_bags(store: pmkv.Store, training: bool, padding: int | None) -> None:
    """Also where the padding row is not among those of the batch: torch sums in another order without one."""
    modules = twins(nn.EmbeddingBag, PmkvEmbeddingBag, store, table="t", mode="sum", padding_idx=padding)
    ids, offsets = some_ids(60), torch.tensor([0, 7, 30])
    weights = [torch.linspace(-1, 1, 60, requires_grad=training) for _ in modules]
    with torch.set_grad_enabled(training):
        outputs = [module(ids, offsets, one) for module, one in zip(modules, weights)]
    assert torch.equal(*outputs)
    if training:
        check_training(modules, outputs)
        assert torch.allclose(weights[0].grad, weights[1].grad)


def test_from_pretrained(store: pmkv.Store) -> None:
    rows = torch.arange(10.0).reshape(5, 2)
    one = PmkvEmbedding.from_pretrained(rows, store=store, table="one", padding_idx=0)
    bags = PmkvEmbeddingBag.from_pretrained(rows, False, mode="sum", store=store, table="bags")
    assert torch.equal(one(torch.tensor([3])), rows[3:4]) and not one.weight.requires_grad and one.padding_idx == 0
    assert torch.equal(bags(torch.tensor([[1, 2]])), rows[1:3].sum(0, keepdim=True)) and bags.weight.requires_grad


def test_no_bags_and_half_precision(store: pmkv.Store) -> None:
    bags = twins(nn.EmbeddingBag, PmkvEmbeddingBag, store, table="t", mode="sum")
    empty = torch.empty(0, dtype=torch.int64)
    assert torch.equal(bags[1](empty, torch.tensor([0, 0])), torch.zeros(2, DIM)) and bags[1](empty, empty).shape == (
        0,
        DIM,
    )
    halves = twins(nn.EmbeddingBag, PmkvEmbeddingBag, store, table="h", mode="sum", dtype=torch.float64)
    assert torch.equal(*[module(some_ids(20), torch.tensor([0, 9])) for module in halves])


def test_rows_that_are_absent_count_as_zeros(store: pmkv.Store) -> None:
    bag = PmkvEmbeddingBag(ROWS, DIM, mode="mean", store=store, table="t", _weight=torch.ones(ROWS, DIM))
    bag.source.table.delete([1])
    again = PmkvEmbeddingBag(ROWS, DIM, mode="mean", store=store, table="t")  # keeps the rows that are there
    with torch.no_grad():
        assert again(torch.tensor([[0, 1]])).tolist() == [[0.5] * DIM]


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("kind", [PmkvEmbedding, PmkvEmbeddingBag])
def test_what_is_read_ahead_is_what_would_have_been_read(store: pmkv.Store, kind: Any, training: bool) -> None:
    module = kind(ROWS, DIM, store=store, table="t", **({"mode": "sum"} if kind is PmkvEmbeddingBag else {}))
    one, other = some_ids(20, 1).reshape(2, 10), some_ids(20, 2).reshape(2, 10)
    with torch.set_grad_enabled(training):
        for written in ([], other[0].tolist()):
            expected = module(other)
            module.prefetch(other)
            module(one)
            if written:  # after it was read ahead
                module.source.put(np.unique(written), np.full((len(set(written)), DIM), 7.0, "f4"))
                expected = None
            found = module(other)
            assert torch.equal(found, expected if expected is not None else module(other))
    assert module.source.changes.watchers == 0 and module.source.changes.written == []


def test_devices_and_dtypes_leave_the_table_alone(store: pmkv.Store) -> None:
    module = PmkvEmbedding(ROWS, DIM, store=store, table="t")
    before = module.weight.read()
    assert torch.equal(module.double().to("cpu").weight.read(), before) and "table='t'" in repr(module)


def test_tables_in_numbers_them(store: pmkv.Store) -> None:
    with tables_in(store, "m."):
        made = [PmkvEmbedding(5, 2), PmkvEmbeddingBag(5, 2)]
    assert [module.source.name for module in made] == ["m.0", "m.1"]
    pretrained = torch.arange(10.0).reshape(5, 2)
    with tables_in(store, "p."):
        assert torch.equal(PmkvEmbedding.from_pretrained(pretrained)(torch.tensor(4)), pretrained[4])


def test_what_is_refused(store: pmkv.Store) -> None:
    with pytest.raises(TypeError, match="say where the rows are"):
        PmkvEmbedding(5, 2)
    with pytest.raises(NotImplementedError, match="max_norm"):
        PmkvEmbedding(5, 2, max_norm=1.0, store=store)
    with pytest.raises(ValueError, match="mode='min'"):
        PmkvEmbeddingBag(5, 2, mode="min", store=store)
    with pytest.raises(ValueError, match="padding_idx=5"):
        PmkvEmbedding(5, 2, padding_idx=5, store=store)
    module = PmkvEmbedding(5, 2, store=store, table="t")
    with pytest.raises(IndexError, match="index 5 is out of range"):
        module(torch.tensor([5]))
    with pytest.raises(TypeError, match="float32"):
        module(torch.tensor([0.5]))
