"""PyTorch with its embedding tables in pmkv (`pip install pmkv-client[torch]`).

    from pmkv_client.torch import offload
    offload(model, "pmkv://localhost:7379", min_rows=100_000)

swaps the large nn.Embedding and nn.EmbeddingBag of a model for `PmkvEmbedding` and `PmkvEmbeddingBag`, which keep their
rows in tables and give outputs that are equal to the last bit. A script is run unedited by

    python -m pmkv_client.torch [--store URL] [--min-rows N] [--prefix P] script.py arguments ...
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from torch import nn

from .embedding_collection import BagConfig, PmkvEmbeddingBagCollection
from .embedding_modules import PmkvEmbedding, PmkvEmbeddingBag, tables_in
from .embedding_optimizers import Adagrad, SparseSGD, split_parameters
from .embedding_weight import PmkvWeight
from .row_source import open_store

__all__ = [
    "Adagrad",
    "BagConfig",
    "PmkvEmbedding",
    "PmkvEmbeddingBag",
    "PmkvEmbeddingBagCollection",
    "PmkvWeight",
    "SparseSGD",
    "offload",
    "replacing",
    "split_parameters",
    "tables_in",
]

MIN_ROWS = 100_000  # smaller tables stay in the model
SWAPPED: dict[type, type] = {nn.Embedding: PmkvEmbedding, nn.EmbeddingBag: PmkvEmbeddingBag}
least_rows: ContextVar[int | None] = ContextVar("least_rows", default=None)  # set within `replacing`


def offload(
    model: nn.Module,
    store: Any,
    min_rows: int = MIN_ROWS,
    prefix: str = "",
    load: bool = True,
    codec: str | None = None,
) -> dict[str, str]:
    """Swap the embeddings of a model, in place, that have at least `min_rows` rows; return {module: table}.

    store: a URL, a client, or an open store or view. prefix: of the names of tables, which are those of the modules.
    load: write the weights of the model into the tables; False: use the rows that are there. codec: how tables store
    rows of float32, such as "int8"; outputs are then as near as that is."""
    store, done, swapped = open_store(store), {}, {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        kind = SWAPPED.get(type(module))
        if kind is None or module.num_embeddings < min_rows:
            continue
        if id(module) not in done:
            done[id(module)] = _in_table(module, kind, store, f"{prefix}{path}", load, codec)
        if not path:
            raise ValueError(
                "the model is itself an embedding, and cannot be swapped in place: make a PmkvEmbedding of it"
            )
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, done[id(module)])
        swapped[path] = done[id(module)].source.name
    return swapped


def _in_table(module: Any, kind: Any, store: Any, table: str, load: bool, codec: str | None) -> Any:
    """Return the module that takes another one's place."""
    options = {"padding_idx": module.padding_idx, "scale_grad_by_freq": module.scale_grad_by_freq, "codec": codec}
    options |= {"max_norm": module.max_norm, "norm_type": module.norm_type, "dtype": module.weight.dtype}
    if isinstance(module, nn.EmbeddingBag):
        options |= {"mode": module.mode, "include_last_offset": module.include_last_offset}
    weight = module.weight.detach() if load else None
    swapped = kind(module.num_embeddings, module.embedding_dim, _weight=weight, store=store, table=table, **options)
    swapped.weight.requires_grad_(module.weight.requires_grad)
    return swapped.train(module.training)


@contextmanager
def replacing(store: Any, min_rows: int = MIN_ROWS, prefix: str = "embedding.") -> Iterator[None]:
    """Let nn.Embedding and nn.EmbeddingBag of at least `min_rows` rows, made inside, be those of tables.

    The tables are numbered in the order in which the modules are made."""
    for plain, kind in SWAPPED.items():
        if "__new__" not in vars(plain):
            plain.__new__ = _maker(plain, kind)  # type: ignore[method-assign]  # for ever: Python cannot take it back
    with tables_in(open_store(store), prefix):
        token = least_rows.set(min_rows)
        try:
            yield
        finally:
            least_rows.reset(token)


def _maker(plain: type, kind: type) -> Any:
    """Return a `__new__` for a class of torch: within `replacing` large ones are of our class."""

    def make(cls: type, *args: Any, **kwargs: Any) -> Any:
        rows, least = args[0] if args else kwargs.get("num_embeddings", 0), least_rows.get()
        return object.__new__(kind if cls is plain and least is not None and rows >= least else cls)

    return staticmethod(make)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a script of PyTorch with its large embeddings in tables."""
    parser = argparse.ArgumentParser(
        prog="python -m pmkv_client.torch",
        description="Run a PyTorch script, unedited, with its large embedding tables in pmkv.",
    )
    parser.add_argument("--store", default="pmkv://localhost:7379", help="a server's URL, or the directory of a store")
    parser.add_argument(
        "--min-rows", type=int, default=MIN_ROWS, help=f"smaller tables stay as they are ({MIN_ROWS:,})"
    )
    parser.add_argument("--prefix", default="embedding.", help="of the names of tables")
    parser.add_argument("script", help="the script, and then its own arguments")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    before = sys.argv, sys.path[0]
    sys.argv, sys.path[0] = [options.script, *options.arguments], str(Path(options.script).resolve().parent)
    store = open_store(options.store)
    try:
        with replacing(store, options.min_rows, options.prefix):
            runpy.run_path(options.script, run_name="__main__")
    finally:
        sys.argv, sys.path[0] = before
        store.close()


if __name__ == "__main__":
    main()
