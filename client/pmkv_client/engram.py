"""Tables of n-gram embeddings of language models ("Engram"): large, read by ids that are known before they are needed.

A layer has a table for each hash head; its rows are opaque bytes (264 for 256 values of fp8 and their scales, say).
Serving engines fill it by `populate(layer_id, buffers)` and read it by `lookup_into(layer_id, row_ids, output)`; as
row ids depend on the tokens alone, `prefetch` reads the next ones meanwhile.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import as_array
from .row_source import open_store

PUT_PIECE_BYTES = 8 << 20  # of rows in one put of `populate`
MOST_AHEAD = 64  # lookups that are prefetched and not asked for yet; the oldest is dropped
READERS = 2  # threads that prefetch
HEADER_LIMIT_BYTES = 100 << 20  # of a safetensors file, as its own readers have it

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Layer:
    """One layer: its table, bytes of a row, and how many rows each head has. The heads follow each other."""

    table: Any
    width: int
    heads: tuple[int, ...]

    def ids(self, row_ids: Any) -> NDArray[np.int64]:
        """Return the ids of rows of heads, (..., heads). IndexError: a row is out of range."""
        rows = as_array(row_ids, "row_ids")
        if rows.ndim < 1 or rows.shape[-1] != len(self.heads) or rows.dtype.kind not in "iu":
            raise ValueError(
                f"row_ids are integers (..., {len(self.heads)}), one for each head, not {rows.dtype} of {rows.shape}"
            )
        sizes = np.array(self.heads)
        wrong = (rows < 0) | (rows >= sizes)
        if wrong.any():
            place = tuple(int(one) for one in np.argwhere(wrong)[0])
            raise IndexError(f"row {rows[place]} of head {place[-1]} is out of range: it has {sizes[place[-1]]:,} rows")
        return rows.astype(np.int64) + (np.cumsum(sizes) - sizes)


class EngramStore:
    """The n-gram tables of one model. Safe for threads.

    store: a URL, a client, or an embedded store or view of pmkv; name: of the model. The layers that another process
    has populated are there."""

    def __init__(self, store: Any, name: str = "engram") -> None:
        self.store, self.name = open_store(store), name
        self._layers: dict[int, Layer] = {}
        self._ahead: dict[tuple[int, bytes], Future[Bytes]] = {}
        self._readers = ThreadPoolExecutor(READERS, "pmkv-engram")

    def populate(self, layer_id: int, buffers: Sequence[Any]) -> None:
        """Fill a layer. buffers: an array or tensor (rows, row) for each head, of rows of the same number of bytes.

        Rows are durable on return, and are put piece by piece: to exchange a layer that is served, populate a branch
        and promote it."""
        heads = [as_rows_of_bytes(buffer, f"buffer {at}") for at, buffer in enumerate(buffers)]
        widths = {head.shape[1] for head in heads}
        if len(widths) != 1:
            raise ValueError(
                f"the buffers of layer {layer_id} have rows of {sorted(widths)} bytes; one width is needed"
            )
        layer = self._created(layer_id, widths.pop(), tuple(len(head) for head in heads))
        first = 0
        for head in heads:
            for piece in pieces(head):
                layer.table.put(np.arange(first, first + len(piece)), piece)
                first += len(piece)

    def load(self, layer_id: int, path: str | Path, tensors: Sequence[str]) -> None:
        """Fill a layer from a safetensors file, without reading it whole. tensors: the name of the one of each head."""
        self.populate(layer_id, [safetensors_rows(path, name) for name in tensors])

    def lookup_into(self, layer_id: int, row_ids: Any, output: Any) -> None:
        """Read rows into memory. row_ids: [..., heads], such as [B, L, H]: a row of each head.

        output: an array or tensor, contiguous, of B x L x H rows of bytes, of any dtype."""
        layer = self.layer(layer_id)
        ids = layer.ids(row_ids)
        into = bytes_of(output)
        if into.size != ids.size * layer.width:
            raise ValueError(f"output has {into.size:,} bytes; {ids.size:,} rows of {layer.width} bytes are to be read")
        ahead = self._ahead.pop((layer_id, ids.tobytes()), None)
        rows = into.reshape(*ids.shape, layer.width)
        if ahead is not None:
            rows[...] = ahead.result()
        else:
            layer.table.get(ids, out=rows)

    def prefetch(self, layer_id: int, row_ids: Any) -> None:
        """Begin to read rows, which `lookup_into` of the same ids then takes: they are as of now."""
        layer = self.layer(layer_id)
        ids = layer.ids(row_ids)
        while len(self._ahead) >= MOST_AHEAD:
            self._ahead.pop(next(iter(self._ahead)), None)  # nobody asked for it
        self._ahead[layer_id, ids.tobytes()] = self._readers.submit(layer.table.get, ids)

    def layer(self, layer_id: int) -> Layer:
        """Return a layer. KeyError: nobody has populated it."""
        if layer_id not in self._layers:
            described = self.store.get(self._key(layer_id))
            if described is None:
                raise KeyError(f"layer {layer_id} of {self.name!r} was not populated")
            heads = tuple(json.loads(described)["heads"])
            table = self.store.table(self._table(layer_id))
            self._layers[layer_id] = Layer(table, table.row_dtype.itemsize, heads)
        return self._layers[layer_id]

    def layers(self) -> list[int]:
        """Return the numbers of the layers that are there."""
        beginning = self._table("")
        return sorted(int(name.removeprefix(beginning)) for name in self.store.tables() if name.startswith(beginning))

    def close(self) -> None:
        """End the threads that prefetch. The store stays open."""
        self._readers.shutdown()

    def __enter__(self) -> EngramStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _created(self, layer_id: int, width: int, heads: tuple[int, ...]) -> Layer:
        name, rows = self._table(layer_id), sum(heads)
        table = self.store.create_table(name, (np.dtype("u1"), width), rows=rows, exist_ok=True)
        value = json.dumps({"heads": heads}).encode()
        (self.store.set if hasattr(self.store, "set") else self.store.put)(self._key(layer_id), value)
        self._layers[layer_id] = Layer(table, width, heads)
        return self._layers[layer_id]

    def _table(self, layer_id: Any) -> str:
        return f"{self.name}.layer.{layer_id}"

    def _key(self, layer_id: int) -> bytes:
        return f"pmkv.engram/{self.name}/{layer_id}".encode()


def bytes_of(buffer: Any) -> Bytes:
    """Return the memory of an array or tensor as uint8[n]. ValueError: it is not contiguous, or cannot be written."""
    array = as_array(buffer.view(dtype_of_bytes(buffer)) if hasattr(buffer, "detach") else buffer, "output")
    if not array.flags.c_contiguous or not array.flags.writeable:
        raise ValueError("output must be contiguous and writable")
    return array.reshape(-1).view(np.uint8)


def dtype_of_bytes(tensor: Any) -> Any:
    """Return torch.uint8, of a tensor: dtypes that NumPy has not, such as fp8, are bytes to it."""
    return sys.modules["torch"].uint8


def as_rows_of_bytes(buffer: Any, label: str) -> Bytes:
    """Return an array or tensor of rows as uint8[rows, bytes of a row]. ValueError: it has no rows, or no dimension."""
    given = buffer.detach().cpu().contiguous() if hasattr(buffer, "detach") else buffer
    if hasattr(given, "detach"):
        given = given.view(dtype_of_bytes(given))
    array = as_array(given, label)
    if array.ndim < 2 or not array.size:
        raise ValueError(f"{label} has shape {array.shape}; rows of at least one byte are needed")
    if not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    return array.reshape(len(array), -1).view(np.uint8)


def pieces(rows: Bytes) -> Iterator[Bytes]:
    """Yield rows in pieces of PUT_PIECE_BYTES."""
    step = max(1, PUT_PIECE_BYTES // rows.shape[1])
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def safetensors_rows(path: str | Path, name: str) -> Bytes:
    """Map a tensor of a safetensors file as uint8[rows, bytes of a row]. ValueError: damaged, or no such tensor."""
    size = Path(path).stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(HEADER_LIMIT_BYTES, size - 8):
            raise ValueError(f"{path} is no safetensors file: its header would have {length:,} bytes")
        header = json.loads(file.read(length))
    if name not in header:
        raise ValueError(f"{path} has no tensor {name!r}; it has {', '.join(sorted(header.keys() - {'__metadata__'}))}")
    start, stop = header[name]["data_offsets"]
    rows = header[name]["shape"][0] if header[name]["shape"] else 0
    if not 0 <= start < stop <= size - 8 - length or not rows or (stop - start) % rows:
        raise ValueError(f"{path}: tensor {name!r} does not stand within the file, or has no rows")
    return np.memmap(path, np.uint8, "r", 8 + length + start, (rows, (stop - start) // rows))
