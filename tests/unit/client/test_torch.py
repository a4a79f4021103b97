"""Models whose embeddings are swapped, and scripts that are run with their embeddings in tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pmkv
from tests.optional import needs

torch = needs("torch")

from torch import nn  # noqa: E402

from pmkv_client.torch import PmkvEmbedding, PmkvEmbeddingBag, main, offload, replacing  # noqa: E402

SCRIPT = """
import sys
import torch
from torch import nn

torch.manual_seed(1)
model = nn.ModuleDict({"big": nn.EmbeddingBag(200, 4, mode="sum", sparse=True), "small": nn.Embedding(10, 4)})
model["big"].weight.data = torch.rand(200, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
for step in range(int(sys.argv[1])):
    ids = torch.randint(0, 200, (8, 3))
    optimizer.zero_grad()
    (model["big"](ids) + model["small"](ids[:, 0] % 10)).pow(2).mean().backward()
    optimizer.step()
result = [type(model["big"]).__name__, model["big"].weight.detach() + 0]
torch.save(result, sys.argv[2])
"""


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.big = nn.EmbeddingBag(500, 4, mode="sum")
        self.nested = nn.ModuleList([nn.Embedding(400, 4, padding_idx=0), nn.Embedding(20, 4)])
        self.shared = self.big
        self.top = nn.Linear(8, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.top(torch.cat([self.big(ids) + self.shared(ids), self.nested[0](ids[:, 0])], 1))


@pytest.fixture
def store() -> Iterator[pmkv.Store]:
    with pmkv.open(None, pool=":memory:", capacity="256MiB") as opened:
        yield opened


def test_offload_swaps_large_modules(store: pmkv.Store) -> None:
    torch.manual_seed(2)
    model, ids = Model().eval(), torch.randint(0, 400, (6, 3))
    wanted, state = model(ids), {name: value.clone() for name, value in model.state_dict().items()}
    assert offload(model, store, min_rows=100, prefix="m:") == {
        "big": "m:big", "nested.0": "m:nested.0", "shared": "m:big"
    }  # fmt: skip
    assert isinstance(model.big, PmkvEmbeddingBag) and model.shared is model.big and not model.big.training
    assert isinstance(model.nested[0], PmkvEmbedding) and type(model.nested[1]) is nn.Embedding
    with torch.no_grad():
        assert torch.equal(model(ids), wanted)
    assert torch.equal(model(ids), wanted)
    again = Model().eval()
    offload(again, store, min_rows=100, prefix="m:", load=False)
    again.top.load_state_dict(model.top.state_dict())
    assert torch.equal(again(ids), wanted)
    again.load_state_dict({name: torch.zeros_like(value) for name, value in state.items()})
    assert not model.big.weight.read().any()
    model.load_state_dict(state)
    assert torch.equal(model(ids), wanted)


def test_tables_may_store_rows_in_a_codec(store: pmkv.Store) -> None:
    model, ids = Model().eval(), torch.randint(0, 200, (9, 5))
    wanted = model(ids)
    offload(model, store, min_rows=100, codec="int8")
    assert {table.codec for table in store.tables().values()} == {"int8"}
    assert torch.allclose(model(ids), wanted, atol=0.1) and not torch.equal(model(ids), wanted)


def test_an_embedding_alone_cannot_be_swapped_in_place(store: pmkv.Store) -> None:
    with pytest.raises(ValueError, match="make a PmkvEmbedding of it"):
        offload(nn.Embedding(500, 4), store, min_rows=100)


def test_replacing_ends(store: pmkv.Store) -> None:
    with replacing(store, 100):
        assert type(nn.Embedding(100, 2)) is PmkvEmbedding and type(nn.Embedding(99, 2)) is nn.Embedding
        assert isinstance(nn.EmbeddingBag(num_embeddings=100, embedding_dim=2), PmkvEmbeddingBag)
    assert type(nn.Embedding(100, 2)) is nn.Embedding and type(nn.EmbeddingBag(100, 2)) is nn.EmbeddingBag
    assert set(store.tables()) == {"embedding.0", "embedding.1"}


def test_an_unedited_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    results = []
    for arguments in (["--min-rows", "1000"], ["--min-rows", "100"]):
        result, before = str(tmp_path / "result"), list(sys.argv)
        main(["--store", str(tmp_path / "data"), *arguments, str(script), "40", result])
        assert sys.argv == before
        results.append(torch.load(result))
    assert [name for name, _ in results] == ["EmbeddingBag", "PmkvEmbeddingBag"]
    assert torch.allclose(results[0][1], results[1][1], rtol=0, atol=1e-6)
    with pmkv.open(tmp_path / "data") as store:
        assert torch.equal(torch.from_numpy(store.table("embedding.0").get(range(200))), results[1][1])
