"""Ids, rows and results in the forms that libraries have; the client's module does the same."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow
import pytest

import pmkv_client.arrays
from pmkv.engine import array_forms

both = pytest.mark.parametrize("module", [array_forms, pmkv_client.arrays])
ROW = np.dtype([("price", "f4"), ("tag", "S3"), ("emb", "f4", (2,))])
COLUMNS = {"price": [1.5, 2.5], "tag": ["ab", "c"], "emb": [[1.0, 2.0], [3.0, 4.0]]}
IDS = np.array([7, 8])


def test_the_two_modules_are_twins() -> None:
    twins = [Path(module.__file__).read_text() for module in (array_forms, pmkv_client.arrays)]
    engine, client = (text.partition("SHORT_TENSORS = ")[2] for text in twins)
    assert engine == client


@both
@pytest.mark.parametrize(
    "given",
    [
        [[1, 2], [3, 4]], np.array([[1, 2], [3, 4]], ">u2"), np.array([[1, 2], [3, 4]], np.uint64),
        np.array([[1, 2], [3, 4]], object), np.array([[1, 3], [2, 4]]).T,
    ],
)  # fmt: skip
def test_ids_of_any_integer_type_and_shape(module: ModuleType, given: object) -> None:
    ids, shape = module.as_id_array(given, "ids")
    assert ids.dtype == np.int64 and ids.tolist() == [1, 2, 3, 4] and shape == (2, 2)
    assert module.as_id_array(5, "ids")[1] == () and module.as_id_array([], "ids")[0].dtype == np.int64


@both
@pytest.mark.parametrize(
    ("given", "words"),
    [([1.0], "integers, not float64"), ([2**64], "hold 18446744073709551616"), ([True], "bool"),
     ([[1], [2, 3]], "array"), (np.array([2**63], np.uint64), "at most 9223372036854775807"),
     (np.array([1, "a"], object), "integers")],
)  # fmt: skip
def test_what_is_no_id_is_said(module: ModuleType, given: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        module.as_id_array(given, "ids")


def frames() -> list[object]:
    return [COLUMNS, pyarrow.table({"id": IDS, **COLUMNS}), pyarrow.RecordBatch.from_pydict(COLUMNS)]


@both
@pytest.mark.parametrize("frame", frames(), ids=lambda frame: type(frame).__name__)
def test_columns_become_rows(module: ModuleType, frame: object) -> None:
    rows = module.as_row_array(frame, ROW, IDS, "rows")
    assert rows.dtype.names == ROW.names and rows.astype(ROW).tolist() == [
        (1.5, b"ab", pytest.approx([1, 2])), (2.5, b"c", pytest.approx([3, 4]))
    ]  # fmt: skip


@both
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_dataframes_become_rows(module: ModuleType, library: str) -> None:
    frame = pytest.importorskip(library).DataFrame({"id": IDS, **COLUMNS})
    rows = module.as_row_array(frame, ROW, IDS, "rows")
    assert rows["price"].tolist() == [1.5, 2.5] and rows["tag"].tolist() == [b"ab", b"c"]
    assert rows["emb"].tolist() == COLUMNS["emb"]
    assert module.as_id_array(frame["id"], "ids")[0].tolist() == [7, 8]


@both
@pytest.mark.parametrize(
    ("change", "words"),
    [({"tag": ["a", None]}, "missing values"), ({"emb": [[1.0], [2.0]]}, r"shape \(2, 1\)"), ({"more": [1, 2]}, "'m"),
     ({"emb": [[1.0], [2.0, 3.0]]}, "column 'emb'")],
)  # fmt: skip
def test_columns_that_do_not_fit_are_named(module: ModuleType, change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        module.as_row_array({**COLUMNS, **change}, ROW, IDS, "rows")
    with pytest.raises(ValueError, match="no column 'emb'"):
        module.as_row_array({"price": [1, 2], "tag": ["a", "b"]}, ROW, IDS, "rows")


@both
def test_memory_to_fill_must_fit(module: ModuleType) -> None:
    f4 = np.dtype("f4")
    whole = np.zeros((4, 3), "f4")
    assert module.out_array(whole, (4, 3), f4, "out") is whole
    for given, words in ((whole[:, ::2], "shape"), (whole.T, "contiguous"), (whole.astype("f8"), "float64"),
                         (whole.tolist(), "float64"), (np.array(3.0), "shape")):  # fmt: skip
        shape = (3, 4) if given is whole.T or words == "contiguous" else (4, 3)
        with pytest.raises(ValueError, match=words):
            module.out_array(given, shape, f4, "out")
    whole.flags.writeable = False
    with pytest.raises(ValueError, match="writable"):
        module.out_array(whole, (4, 3), f4, "out")


@both
def test_results_share_memory(module: ModuleType) -> None:
    rows = np.arange(12, dtype="f4").reshape(2, 3, 2)
    arrow = module.in_form(rows, "arrow")
    assert arrow.to_pylist() == rows.tolist()
    assert arrow.flatten().flatten().buffers()[1].address == rows.ctypes.data
    table = module.in_form(np.array([(1.0, b"a", [1, 2])], ROW), "arrow")
    assert table.to_pylist() == [{"price": 1.0, "tag": b"a", "emb": [1.0, 2.0]}]
    assert module.in_form(rows, "numpy") is rows
    with pytest.raises(ValueError, match="choose one of numpy, torch, arrow"):
        module.in_form(rows, "jax")
    with pytest.raises(ValueError, match="Arrow has no arrays of complex64"):
        module.in_form(np.zeros(2, "c8"), "arrow")


@both
def test_tensors(module: ModuleType) -> None:
    torch = pytest.importorskip("torch")
    rows = np.arange(6, dtype="f4").reshape(2, 3)
    tensor = module.in_form(rows, "torch")
    assert tensor.data_ptr() == rows.ctypes.data and tensor.shape == (2, 3)
    assert module.as_id_array(torch.tensor([[1, 2]], dtype=torch.int32), "ids")[1] == (1, 2)
    assert module.out_array(tensor, (2, 3), np.dtype("f4"), "out").ctypes.data == rows.ctypes.data
    with pytest.raises(ValueError, match="no tensors of"):
        module.in_form(np.zeros(1, ROW), "torch")
    with pytest.raises(ValueError, match="detach"):
        module.as_array(torch.ones(1, requires_grad=True), "rows")
