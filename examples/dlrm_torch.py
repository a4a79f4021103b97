"""A recommendation model in the manner of DLRM with its embedding tables in pmkv: equal outputs, then training.

Start `pmkv serve`, then: python examples/dlrm_torch.py [URL or directory]
"""

from __future__ import annotations

import copy
import sys

import torch
from torch import nn

from pmkv_client.torch import SparseSGD, offload, split_parameters

TABLES, ROWS, DIM, DENSE, BATCH, POOLING = 4, 20_000, 16, 13, 128, 4


class Recommender(nn.Module):
    """Dense features through an MLP, categories through embeddings; all pairs interact; another MLP scores them."""

    def __init__(self) -> None:
        super().__init__()
        self.bottom = nn.Sequential(nn.Linear(DENSE, 32), nn.ReLU(), nn.Linear(32, DIM))
        self.tables = nn.ModuleList(nn.EmbeddingBag(ROWS, DIM, mode="sum", sparse=True) for _ in range(TABLES))
        self.top = nn.Sequential(nn.Linear(DIM + TABLES * (TABLES + 1) // 2, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, dense: torch.Tensor, categories: list[torch.Tensor]) -> torch.Tensor:
        below = self.bottom(dense)
        features = torch.stack([below, *(bag(ids) for bag, ids in zip(self.tables, categories))], 1)
        pairs = features @ features.transpose(1, 2)
        left, right = torch.tril_indices(TABLES + 1, TABLES + 1, -1)
        return self.top(torch.cat([below, pairs[:, left, right]], 1)).squeeze(1)


def some_batch(number: int) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Return dense features, ids and clicks."""
    noise = torch.Generator().manual_seed(number)
    ids = [torch.randint(0, ROWS, (BATCH, POOLING), generator=noise) for _ in range(TABLES)]
    return torch.rand(BATCH, DENSE, generator=noise), ids, (torch.rand(BATCH, generator=noise) < 0.3).float()


def train(model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: int) -> list[float]:
    """Train, and return the losses. The rows of the next batch are read while this one is computed."""
    losses = []
    for step in range(steps):
        dense, ids, clicks = some_batch(step)
        loss = nn.functional.binary_cross_entropy_with_logits(model(dense, ids), clicks)
        for table, following in zip(model.tables, some_batch(step + 1)[1]):
            if hasattr(table, "prefetch"):
                table.prefetch(following)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    return losses


def main(place: str = "pmkv://localhost:7379") -> None:
    """Compare a model with its twin in tables."""
    torch.manual_seed(0)
    plain = Recommender()
    model = copy.deepcopy(plain)
    print("in tables:", offload(model, place, min_rows=ROWS, prefix="dlrm."))
    with torch.no_grad():
        for number in range(3):
            dense, ids, _ = some_batch(number)
            assert torch.equal(model(dense, ids), plain(dense, ids)), "outputs differ"
    print("outputs are equal to the last bit")
    in_tables, dense = split_parameters(model)
    tables = SparseSGD(in_tables, lr=1.0, name="dlrm")
    losses = train(model, [tables, torch.optim.SGD(dense, lr=0.1)], 20)
    bags, others = list(plain.tables.parameters()), [*plain.bottom.parameters(), *plain.top.parameters()]
    same = train(plain, [torch.optim.SGD(bags, lr=1.0), torch.optim.SGD(others, lr=0.1)], 20)
    apart = max((one.weight.read() - two.weight).abs().max().item() for one, two in zip(model.tables, plain.tables))
    assert apart < 1e-5 and abs(losses[-1] - same[-1]) < 1e-5
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f} in step {tables.steps}; rows within {apart:.1e} of torch's")
    in_tables[0].source.store.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
