"""Optimizers of weights in tables: their arithmetic, and restarts from one step."""

from __future__ import annotations

from pathlib import Path

import pytest

import pmkv
from pmkv_client import row_source
from tests.optional import needs

torch = needs("torch")

from pmkv_client.embedding_modules import PmkvEmbedding  # noqa: E402
from pmkv_client.embedding_optimizers import Adagrad, SparseSGD, split_parameters  # noqa: E402

ROWS, DIM = 40, 4


def module_in(store: pmkv.Store, table: str = "t") -> PmkvEmbedding:
    torch.manual_seed(0)
    return PmkvEmbedding(ROWS, DIM, store=store, table=table)


def batch(step: int) -> torch.Tensor:
    return torch.randint(0, ROWS, (12,), generator=torch.Generator().manual_seed(step))


def train(module: PmkvEmbedding, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        (module(batch(step)) * torch.arange(1, DIM + 1)).pow(2).sum().backward()
        optimizer.step()


def test_sgd_is_that_of_torch() -> None:
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as store:
        module = module_in(store)
        plain = torch.nn.Embedding(ROWS, DIM, sparse=True, _weight=module.weight.read())
        train(plain, torch.optim.SGD(plain.parameters(), lr=0.01), range(5))
        train(module, SparseSGD(module.parameters(), lr=0.01), range(5))
        assert torch.allclose(module.weight.read(), plain.weight, rtol=0, atol=1e-6)


def shared_loss(first: torch.nn.Module, second: torch.nn.Module, step: int) -> torch.Tensor:
    return (first(batch(step)) * torch.arange(1, DIM + 1)).pow(2).sum() + second(batch(step + 100)).exp().sum()


@pytest.mark.parametrize("kind", [SparseSGD, torch.optim.SGD, Adagrad])
def test_weights_in_one_table_are_one_weight(kind: type) -> None:
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as store:
        modules = [module_in(store) for _ in range(2)]
        plain = [torch.nn.Embedding(ROWS, DIM, sparse=kind is not Adagrad) for _ in range(2)]
        plain[0].weight = plain[1].weight = torch.nn.Parameter(modules[0].weight.read())
        optimizer = kind([module.weight for module in modules], lr=0.01)
        theirs, sums = torch.optim.SGD([plain[0].weight], lr=0.01), torch.zeros(ROWS, 1)
        for step in range(5):
            for both, one in ((modules, optimizer), (plain, theirs)):
                one.zero_grad()
                shared_loss(*both, step).backward()
                if kind is Adagrad and one is theirs:
                    grad = plain[0].weight.grad
                    sums += grad.pow(2).mean(1, keepdim=True)
                    grad /= sums.sqrt() + 1e-10
                one.step()
        assert torch.allclose(modules[1].weight.read(), plain[0].weight, rtol=0, atol=1e-6)


def test_weights_in_one_table_belong_to_one_group() -> None:
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as store:
        first, second, other = module_in(store), module_in(store), module_in(store, "other")
        with pytest.raises(ValueError, match="give all weights in a table to one group"):
            SparseSGD([{"params": [first.weight]}, {"params": [second.weight]}], lr=0.1)
        optimizer = SparseSGD([first.weight, second.weight], lr=0.1)
        with pytest.raises(ValueError, match="two groups"):
            optimizer.add_param_group({"params": [module_in(store).weight]})
        optimizer.add_param_group({"params": [other.weight]})
        assert len(optimizer.param_groups) == 2


def test_adagrad_by_rows() -> None:
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as store:
        module = module_in(store)
        weight, sums = module.weight.read(), torch.zeros(ROWS, 1)
        optimizer = Adagrad(module.parameters(), lr=0.1)
        for step in range(3):
            optimizer.zero_grad()
            module(batch(step)).pow(2).sum().backward()
            grad = module.weight.grad.to_dense()
            sums += grad.pow(2).mean(1, keepdim=True)
            weight -= 0.1 * grad / (sums.sqrt() + 1e-10)
            optimizer.step()
        assert torch.allclose(module.weight.read(), weight, atol=1e-6)
        assert torch.allclose(torch.from_numpy(store.table("t.adagrad").get(range(ROWS))), sums)


@pytest.mark.parametrize("limit", [row_source.ATOMIC_BYTES, 0], ids=["a transaction", "a journal"])
@pytest.mark.parametrize("kind", [SparseSGD, Adagrad])
def test_a_restart_goes_on_from_one_step(
    tmp_path: Path, kind: type, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_source, "ATOMIC_BYTES", limit)
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as store:
        module = module_in(store)
        train(module, kind(module.parameters(), lr=0.1), range(6))
        wanted = module.weight.read()
    with pmkv.open(tmp_path, capacity="256MiB") as store:
        module = module_in(store)
        optimizer = kind(module.parameters(), lr=0.1)
        train(module, optimizer, range(3))
        optimizer.step(attach=b"dense") if limit else None
    with pmkv.open(tmp_path) as store:
        module = module_in(store)
        optimizer = kind(module.parameters(), lr=0.1)
        assert optimizer.steps == (4 if limit else 3) and optimizer.attachment == (b"dense" if limit else b"")
        if not limit:
            train(module, optimizer, range(optimizer.steps, 6))
            assert torch.equal(module.weight.read(), wanted)


def test_a_step_that_fails_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as store:
        modules = [module_in(store, name) for name in ("a", "b")]
        before = [module.weight.read() for module in modules]
        optimizer = SparseSGD([module.weight for module in modules], lr=1.0)
        for module in modules:
            module(batch(1)).sum().backward()

        def full(self: object, ids: object, rows: object) -> None:
            raise pmkv.errors.FullError("no room")

        with monkeypatch.context() as broken:
            broken.setattr(type(store.table("b")), "put_stored", full)
            with pytest.raises(pmkv.errors.FullError):
                optimizer.step()
        assert optimizer.steps == 0
        assert all(torch.equal(module.weight.read(), rows) for module, rows in zip(modules, before))


def test_what_it_takes() -> None:
    with (
        pmkv.open(None, pool=":memory:", capacity="256MiB") as store,
        pmkv.open(None, pool=":memory:", capacity="256MiB") as other,
    ):
        model = torch.nn.Sequential(module_in(store), torch.nn.Linear(DIM, 1))
        inside, dense = split_parameters(model)
        assert inside == [model[0].weight] and len(dense) == 2
        with pytest.raises(TypeError, match=r"optimizer of torch\.optim"):
            SparseSGD(model.parameters())
        with pytest.raises(ValueError, match="2 stores"):
            SparseSGD([module_in(store).weight, module_in(other).weight])
