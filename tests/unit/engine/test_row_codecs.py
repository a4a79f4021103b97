"""Codecs of rows against a plain NumPy model of FBGEMM's row-wise quantisation, and over everything a table does."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pmkv.engine import row_codecs
from pmkv.engine.engine import Engine
from pmkv.engine.row_codecs import checked_codec, codec_fields, codec_of
from pmkv.engine.row_schema import row_dtype
from pmkv.errors import ExistsError, InvalidError
from tests.engines import small_engine

CODECS = ["f2", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8", "int4"]
each = pytest.mark.parametrize("name", CODECS)
rng = np.random.default_rng(5)
ROWS = rng.normal(size=(20, 6)).astype("f4")


def fused8(row: np.ndarray) -> bytes:
    """FBGEMM's fused row of 8 bits: FloatToFused8BitRowwiseQuantizedSBFloat."""
    low, high = row.min(), row.max()
    spread = np.float32(high - low)
    inverse = np.float32(255) / (spread + np.float32(1e-8))
    levels = np.rint((row - low) * inverse).astype(np.uint8)
    return levels.tobytes() + np.array([spread / np.float32(255), low + np.float32(0)], "f4").tobytes()


def fused4(row: np.ndarray) -> bytes:
    """FBGEMM's fused row of 4 bits: FloatToFusedNBitRowwiseQuantizedSBHalf."""
    low = np.float16(row.min() + np.float32(0))
    spread = np.float32(row.max() - np.float32(low))
    scale = np.float16(1 if spread == 0 else spread / np.float32(15))
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / np.float32(scale)
    if scale == 0 or np.isinf(inverse):
        scale, inverse = np.float16(1), np.float32(1)
    levels = np.clip(np.rint((row - np.float32(low)) * inverse), 0, 15).astype(np.uint8)
    levels = np.pad(levels, (0, len(row) % 2))
    return (levels[::2] | levels[1::2] << 4).tobytes() + np.array([scale, low], "f2").tobytes()


MODELS = {"int8": fused8, "int4": fused4}
numbers = st.floats(-60000, 60000, width=32, allow_subnormal=True)


@settings(max_examples=60)
@given(rows=arrays("f4", st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=numbers))
@pytest.mark.parametrize("name", MODELS)
def test_quantised_rows_are_the_bytes_of_the_model(name: str, rows: np.ndarray) -> None:
    codec = checked_codec(name, ("f4", rows.shape[1:]))
    raw = codec.encode(rows, "rows")
    assert raw.tobytes() == b"".join(MODELS[name](row) for row in rows)
    assert raw.size == len(rows) * codec.width
    scale, bias = tail_of(raw.reshape(len(rows), -1), name)
    steps = {"int8": 255, "int4": 15}[name]
    reach = np.abs(bias) + steps * scale
    slack = reach * 2.0**-21 + (reach * 2.0**-10 if name == "int4" else 1e-8)
    assert (np.abs(codec.decode(raw, (len(rows),)) - rows) <= (scale / 2 + slack)[:, None]).all()


def tail_of(lines: np.ndarray, name: str) -> np.ndarray:
    real = {"int8": "<f4", "int4": "<f2"}[name]
    size = 2 * np.dtype(real).itemsize
    return np.ascontiguousarray(lines[:, -size:]).view(real).astype(np.float64).T


@pytest.mark.parametrize("name", MODELS)
def test_equal_numbers_are_exact_and_pieces_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = checked_codec(name, ("f4", 3))
    flat = np.repeat(np.array([[0.5], [-3], [0], [1000]], "f4"), 3, axis=1)
    assert codec.decode(codec.encode(flat, ""), (4,)).tolist() == flat.tolist()
    whole = codec.encode(ROWS[:, :3], "")
    monkeypatch.setattr(row_codecs, "ENCODED_AT_ONCE_BYTES", 40)
    assert codec.encode(ROWS[:, :3], "").tobytes() == whole.tobytes()


@each
def test_a_table_reads_what_its_codec_makes_of_the_rows(name: str) -> None:
    engine = small_engine()
    table = engine.create_table("t", ("f4", (2, 3)), codec=name)
    rows = ROWS.reshape(20, 2, 3)
    table.put(np.arange(20), rows)
    read = table.get(np.arange(20))
    assert (table.codec, read.dtype, read.shape) == (name, np.float32, (20, 2, 3))
    stored = table.get(np.arange(20), encoded=True)
    if name in MODELS:
        assert stored.tobytes() == b"".join(MODELS[name](row) for row in ROWS)
        assert stored.dtype == np.uint8 and stored.shape == (20, table.width)
    else:
        assert stored.tobytes() == ROWS.astype(stored.dtype).tobytes()
        assert read.tobytes() == stored.astype("f4").tobytes()
    table.get(np.arange(20), out=(into := np.empty((20, 2, 3), "f4")))
    assert into.tobytes() == read.tobytes()
    again = Engine.on_medium(engine.pool.medium).table("t")
    assert again.codec == name and again.get(np.arange(20)).tobytes() == read.tobytes()
    assert {int(one): row.tobytes() for ids, some in table.scan() for one, row in zip(ids, some)} == {
        one: row.tobytes() for one, row in enumerate(read)
    }
    table.check()


@each
def test_pooling_equals_pooling_what_is_read(name: str) -> None:
    engine = small_engine()
    table, plain = engine.create_table("t", ("f4", 6), codec=name), engine.create_table("p", ("f4", 6))
    table.put(np.arange(20), ROWS)
    plain.put(np.arange(20), table.get(np.arange(20)))
    ids, offsets = rng.integers(0, 25, 40), [0, 7, 7, 30]
    for mode in ("sum", "mean", "max"):
        assert table.pool(ids, offsets, mode=mode).tobytes() == plain.pool(ids, offsets, mode=mode).tobytes()
    weights = rng.random(40)
    assert table.pool(ids, offsets, weights).tobytes() == plain.pool(ids, offsets, weights).tobytes()


@each
def test_encoded_rows_go_in_as_they_came_out(name: str) -> None:
    engine = small_engine()
    one, other = (engine.create_table(table, ("f4", 6), codec=name) for table in "ab")
    one.put(np.arange(20), ROWS)
    stored = one.get(np.arange(20), encoded=True)
    other.put(np.arange(20), stored)  # quantised rows, by their dtype and shape; floats as floats
    other.put(np.arange(20, 40), stored, encoded=True)
    other.put(np.arange(40, 60), stored.tobytes(), encoded=True)
    ids = np.arange(60)
    assert other.get(ids).reshape(3, 20, 6).tolist() == [one.get(np.arange(20)).tolist()] * 3
    assert np.concatenate([rows for _, rows in one.scan(encoded=True)]).dtype == stored.dtype


def test_rows_that_are_as_wide_as_their_numbers_are_told_apart_by_the_argument() -> None:
    table = small_engine().create_table("t", ("f4", 8), codec="int4")  # 4 bytes of levels, 4 of scale and bias
    rows = np.arange(8, dtype=np.uint8)[None]
    table.put([1], rows)
    assert np.abs(table.get([1]) - rows).max() <= 0.25  # numbers, not levels
    stored = table.get([1], encoded=True)
    table.put([2], stored, encoded=True)
    assert table.get([2]).tobytes() == table.get([1]).tobytes()


@pytest.mark.parametrize("name", MODELS)
def test_what_has_no_finite_range_is_refused(name: str) -> None:
    table = small_engine().create_table("t", ("f4", 2), codec=name)
    for strange in (np.nan, np.inf, -np.inf):
        with pytest.raises(InvalidError, match=f"cannot be quantised to {name}; replace it"):
            table.put([1, 2], [[1, 2], [strange, 0]])
    with pytest.raises(InvalidError, match="the range is too great"):
        table.put([1], [[-3e38, 3e38]])
    if name == "int4":
        with pytest.raises(InvalidError, match="the range is too great"):
            table.put([1], [[70000, 70000]])
    broken = np.full((1, table.width), 255, np.uint8)  # NaN as scale and bias
    with pytest.raises(InvalidError, match="is not finite"):
        table.put([1], broken)
    assert len(table) == 0


def test_rounding_codecs_keep_what_their_floats_have() -> None:
    engine = small_engine()
    for name in ("f2", "bfloat16", "float8_e5m2"):
        table = engine.create_table(name, ("f4", 3), codec=name)
        table.put([1], [[np.nan, np.inf, -np.inf]])
        assert str(table.get([1])[0].tolist()) == "[nan, inf, -inf]"
        with pytest.raises(InvalidError, match="does not fit"):
            table.put([1], [[3.4e38, 0, 0]])
    table = engine.create_table("e4", ("f4", 2), codec="fp8")
    table.put([1], [[np.nan, 448]])
    assert str(table.get([1])[0].tolist()) == "[nan, 448.0]"
    with pytest.raises(InvalidError, match="does not fit"):
        table.put([1], [[np.inf, 0]])  # float8_e4m3fn has no infinities


@each
def test_absent_rows_read_as_if_they_were_stored(name: str) -> None:
    engine = small_engine()
    table = engine.create_table("t", ("f4", 6), default={"uniform": (-1, 1), "seed": 3}, codec=name)
    plain = engine.create_table("p", ("f4", 6), default={"uniform": (-1, 1), "seed": 3})
    table.put([100], plain.get([7]))
    assert table.get([7]).tobytes() == table.get([100]).tobytes()
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(table.get([7]), plain.get([7]))
    assert np.isnan(table.get([7], default=np.nan)).all()  # said by the reader, it needs no encoding
    rows, found = table.get([7, 100], default=0.1, return_found=True)
    assert (rows[0] == np.float32(0.1)).all() and found.tolist() == [False, True]
    made = engine.create_table("c", ("f4", 6), default={"normal": (0, 1), "create": True}, codec=name)
    first = made.get([3, 5])
    assert made.contains([3, 5]).all() and made.get([3, 5]).tobytes() == first.tobytes()


@each
def test_add_adds_to_what_is_read_and_encodes_the_sum(name: str) -> None:
    engine = small_engine()
    table = engine.create_table("t", ("f4", 6), codec=name)
    table.put([1], ROWS[:1])
    change = table.get([1]) * 0 + np.float32(0.25)
    wanted = engine.create_table("w", ("f4", 6), codec=name)
    encoded_change = checked_codec(name, ("f4", 6)).encode(change, "")
    wanted.put([1], table.get([1]) + checked_codec(name, ("f4", 6)).decode(encoded_change, (1,)))
    table.add([1], change)
    assert table.get([1]).tobytes() == wanted.get([1]).tobytes()


def test_decisions_say_what_is_stored_and_what_is_read() -> None:
    codec = checked_codec("int8", ("f4", 64))
    fields = codec_fields(codec)
    assert fields == {"descr": ["|u1", [72]], "codec": {"name": "int8", "descr": ["<f4", [64]]}}
    assert codec_of(fields).row_dtype == row_dtype(("f4", 64)) and codec_of(fields).width == 72
    assert codec_fields(checked_codec(None, "f4")) == {"descr": ["<f4", []]}
    with pytest.raises(InvalidError, match="are not stored as"):
        codec_of(fields | {"descr": ["|u1", [71]]})


def test_names_and_dtypes_that_do_not_fit_are_refused() -> None:
    for short, name in (("bf16", "bfloat16"), ("fp8", "float8_e4m3fn"), ("float16", "f2")):
        assert checked_codec(short, "f4").name == name
    with pytest.raises(InvalidError, match="choose one of f2, bfloat16"):
        checked_codec("int2", "f4")
    for dtype in ("f8", "i4", [("a", "f4")], "bfloat16"):
        with pytest.raises(InvalidError, match="stores rows of f4"):
            checked_codec("int8", dtype)
    for default in (math.nan, {"uniform": (-3e38, 3e38)}, {"normal": (0, 1e38)}):
        with pytest.raises(InvalidError):
            small_engine().create_table("t", ("f4", 2), codec="int8", default=default)
    engine = small_engine()
    table = engine.create_table("t", "f4", codec="bf16")
    assert engine.create_table("t", "f4", codec="bfloat16", exist_ok=True) is table
    with pytest.raises(ExistsError, match=r"codec='bfloat16', not with .* codec=None"):
        engine.create_table("t", "f4", exist_ok=True)
    with pytest.raises(InvalidError, match="no such field"):
        table.put([1], [1.0], newer="time")


@pytest.mark.parametrize("dtype", ["f2", "bfloat16", "float8_e4m3fn"])
def test_tables_of_short_floats_without_a_codec_pool_by_the_same_kernels(dtype: str) -> None:
    table = small_engine().create_table("t", (dtype, 3))
    table.put(np.arange(4), ROWS[:4, :3])
    rows = table.get(np.arange(4))
    assert rows.dtype == getattr(ml_dtypes, dtype, dtype)
    assert table.pool(np.arange(4), [0]).tolist() == [np.add.reduce(rows.astype("f4"), dtype="f4").tolist()]


@pytest.mark.parametrize(("name", "prepack", "unpack"), [
    ("int8", "embedding_bag_byte_prepack", "embedding_bag_byte_unpack"),
    ("int4", "embedding_bag_4bit_prepack", "embedding_bag_4bit_unpack"),
])  # fmt: skip
def test_torchs_own_quantised_bags_have_the_same_rows(name: str, prepack: str, unpack: str) -> None:
    torch = pytest.importorskip("torch")
    operators, rows = torch.ops.quantized, rng.normal(size=(2000, 32)).astype("f4")
    codec = checked_codec(name, ("f4", 32))
    ours = codec.encode(rows, "").reshape(2000, -1)
    theirs = getattr(operators, prepack)(torch.from_numpy(rows)).numpy()
    assert ours.shape == theirs.shape and np.mean(ours == theirs) > 0.999  # it multiplies and adds in one step
    read = getattr(operators, unpack)(torch.from_numpy(ours)).numpy()
    np.testing.assert_allclose(read, codec.decode(ours.reshape(-1), (2000,)), rtol=1e-5, atol=1e-5)
