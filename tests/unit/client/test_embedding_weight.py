"""A weight in a table, as torch and its optimizers use it: beside an ordinary parameter."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator

import pytest

import pmkv
from tests.optional import needs

torch = needs("torch")

from pmkv_client.embedding_weight import PmkvWeight, numpy_dtype  # noqa: E402
from pmkv_client.row_source import RowSource  # noqa: E402

ROWS, DIM = 50, 4


@pytest.fixture
def source() -> Iterator[RowSource]:
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as store:
        yield RowSource(store, "t", ROWS, DIM)


@pytest.fixture
def twins(source: RowSource) -> tuple[torch.nn.Parameter, PmkvWeight]:
    plain = torch.nn.Parameter(torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(1)))
    weight = PmkvWeight(source)
    weight.data = plain.detach()
    return plain, weight


def sparse(*ids: int) -> torch.Tensor:
    values = torch.randn(len(ids), DIM, generator=torch.Generator().manual_seed(2))
    return torch.sparse_coo_tensor([list(ids)], values, (ROWS, DIM))


def test_it_has_the_shape_and_no_memory(source: RowSource) -> None:
    weight = PmkvWeight(source)
    assert isinstance(weight, torch.nn.Parameter) and weight.shape == (ROWS, DIM) and weight.numel() == ROWS * DIM
    assert weight.dtype == torch.float32 and weight.requires_grad and weight.grad is None
    assert "table='t'" in repr(weight) and not weight.detach().requires_grad
    assert copy.deepcopy(weight).source is source


def test_reading_and_writing(twins: tuple) -> None:
    plain, weight = twins
    assert torch.equal(weight.read(), plain)
    assert torch.equal(weight + 0, plain) and torch.equal(weight[3], plain[3]) and torch.equal(weight.t(), plain.t())
    with torch.no_grad():
        weight.mul_(2)
        weight[7] = 1
        assert torch.equal(weight.read()[:7], plain[:7] * 2) and (weight.read()[7] == 1).all()
        weight.copy_(plain)
        assert torch.equal(torch.empty(ROWS, DIM).copy_(weight), plain)
    with pytest.raises(ValueError, match="does not fit table 't'"):
        weight.data = torch.zeros(3, DIM)


def test_initialisers_fill_it(twins: tuple) -> None:
    plain, weight = twins
    for parameter in (plain, weight):
        torch.manual_seed(5)
        torch.nn.init.xavier_uniform_(parameter)
    assert torch.equal(weight.read(), plain)


def test_batches_stream_it(twins: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, weight = twins
    monkeypatch.setattr("pmkv_client.row_source.COPY_BYTES", 7 * 16)
    parts = list(weight.batches())
    assert [start for start, _ in parts] == list(range(0, ROWS, 7))
    assert torch.equal(torch.cat([rows for _, rows in parts]), plain)
    weight.data = plain.detach() * 3
    assert torch.equal(weight.read(), plain * 3)


def test_it_is_saved_as_an_ordinary_tensor(twins: tuple) -> None:
    plain, weight = twins
    file = io.BytesIO()
    torch.save({"weight": weight.detach()}, file)
    file.seek(0)
    loaded = torch.load(file)["weight"]
    assert type(loaded) is torch.Tensor and torch.equal(loaded, plain)
    assert torch.equal(pickle.loads(pickle.dumps(weight)), plain)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}], ids=["plain", "momentum"])
def test_sgd_of_torch_trains_it(twins: tuple, options: dict) -> None:
    optimizers = [torch.optim.SGD([parameter], lr=0.5, **options) for parameter in twins]
    for ids in ((1, 2), (2, 40)):
        for parameter, optimizer in zip(twins, optimizers):
            parameter.grad = sparse(*ids)
            optimizer.step()
    assert torch.allclose(twins[1].read(), twins[0], rtol=0, atol=1e-6)


def test_the_writes_of_a_step_are_one_transaction(source: RowSource, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [PmkvWeight(RowSource(source.store, f"t{i}", ROWS, DIM)) for i in range(3)]
    for weight in others:
        weight.grad = sparse(1)
    calls = []
    begin = source.store.transaction
    monkeypatch.setattr(source.store, "transaction", lambda: calls.append(1) or begin())
    torch.optim.SGD(others, lr=1.0).step()
    assert len(calls) == 1
    assert all((weight.read()[1] == -sparse(1).to_dense()[1]).all() for weight in others)


def test_what_would_need_a_dense_state_is_refused(twins: tuple) -> None:
    _, weight = twins
    weight.grad = sparse(1)
    with pytest.raises(TypeError, match="SparseSGD or Adagrad"):
        torch.optim.Adagrad([weight])
    with pytest.raises(TypeError, match="bfloat16 cannot be in a table"):
        numpy_dtype(torch.bfloat16)
