"""The step of a model whose embeddings are in tables, beside torch's own: 26 tables of 100,000 rows of 64, batches of
512 with 1 and 8 ids for each table. Forward, backward and the write of the rows, on one thread of torch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pmkv
import pmkv_client

from . import servers
from .measure import Comparison, Ratio, in_pairs

TABLES, ROWS, DIM, BATCH, STEPS, BATCHES = 26, 100_000, 64, 512, 5, 8
BAGS = 1, 8  # ids of a bag: a step writes 3.4 and 27 MB of rows
BAR = 3.0  # times torch's sparse step


def torch_parts() -> tuple[Any, Any]:
    """Return torch and pmkv_client.torch. BenchError: torch is missing."""
    try:
        import torch

        import pmkv_client.torch as ours
    except ImportError as error:
        raise servers.BenchError(f"{error}: `make ml` installs it") from None
    torch.set_num_threads(1)
    return torch, ours


def trainer(torch: Any, bags: list[Any], optimizer: Any, bag_size: int) -> Callable[[], dict[str, float]]:
    """Return a round of steps, which returns steps a second."""
    random = torch.Generator().manual_seed(1)
    batches = [
        [torch.randint(0, ROWS, (BATCH, bag_size), generator=random) for _ in range(TABLES)] for _ in range(BATCHES)
    ]

    def one_round() -> dict[str, float]:
        begin = time.perf_counter()
        for step in range(STEPS):
            optimizer.zero_grad()
            torch.stack([bag(ids) for bag, ids in zip(bags, batches[step % BATCHES])]).pow(2).mean().backward()
            optimizer.step()
        return {"training step": STEPS / (time.perf_counter() - begin)}

    return one_round


@contextlib.contextmanager
def stores(folder: Path) -> Iterator[dict[str, Any]]:
    """Open a store of each kind."""
    options = ("--durability", "interval", "--capacity", "8GiB")
    with (
        pmkv.open(folder / "embedded", capacity="8GiB", durability="interval") as embedded,
        servers.pmkv(folder / "served", *options) as port,
        pmkv_client.connect(f"pmkv://127.0.0.1:{port}") as client,
    ):
        yield {"embedded": embedded, "network": client}


def section(folder: Path, rounds: int) -> list[Comparison | Ratio]:
    torch, ours = torch_parts()
    found: list[Comparison | Ratio] = []
    torch.manual_seed(0)
    weights = [torch.empty(ROWS, DIM).uniform_(-0.01, 0.01) for _ in range(TABLES)]
    with stores(folder) as opened:
        for name, store in opened.items():
            plain = [torch.nn.EmbeddingBag(ROWS, DIM, mode="sum", sparse=True, _weight=one.clone()) for one in weights]
            theirs = torch.optim.SGD([bag.weight for bag in plain], lr=0.1)
            bags = [
                ours.PmkvEmbeddingBag(ROWS, DIM, mode="sum", _weight=one, store=store, table=f"t{number}")
                for number, one in enumerate(weights)
            ]
            mine = ours.SparseSGD([bag.weight for bag in bags], lr=0.1, name="bench")
            for size in BAGS:
                sides = trainer(torch, bags, mine, size), trainer(torch, plain, theirs, size)
                (one,) = in_pairs(*sides, rounds, "steps/s", {})
                one.name, one.sides = f"{one.name}, bags of {size}, {name}", ("pmkv", "torch")
                times = [1 / ratio for ratio in one.ratio.values]
                found += [one, Ratio(f"{one.name}: time, over torch's", "times", times, BAR)]
    return found
