"""A PyTorch DataLoader whose workers read the features of each batch: the table is pickled with its client.

Start `pmkv serve`, then: python examples/dataloader.py [URL]
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import pmkv_client

ROWS, DIM, BATCH = 10_000, 16, 256


class Items(Dataset):
    """The rows of a table as samples: one call to the server for each batch."""

    def __init__(self, table: pmkv_client.Table) -> None:
        self.table = table

    def __len__(self) -> int:
        return ROWS

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(indices), torch.from_numpy(self.table.get(indices))


def as_it_is(batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch, which is one already."""
    return batch


def main(url: str = "pmkv://localhost:7379") -> None:
    """Fill a table, and read it in batches with two workers."""
    rows = np.random.default_rng(3).random((ROWS, DIM), np.float32)
    with pmkv_client.connect(url) as client:
        table = client.create_table("loader.items", ("f4", DIM), exist_ok=True)
        table.put(np.arange(ROWS), rows)
        loader = DataLoader(Items(table), BATCH, shuffle=True, num_workers=2, collate_fn=as_it_is)
        seen = 0
        for ids, features in loader:
            assert np.array_equal(features.numpy(), rows[ids.numpy()])
            seen += len(ids)
        assert seen == ROWS
        print(f"{seen:,} rows in batches of {BATCH} from 2 workers, each with a connection of its own")


if __name__ == "__main__":
    main(*sys.argv[1:])
