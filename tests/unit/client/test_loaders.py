"""Imports and exports through a server: what comes in, goes on after an interruption, and comes out again."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet
import pytest
import safetensors.numpy

import pmkv_client
from pmkv_client import loaders
from pmkv_client.file_formats import batches
from pmkv_client.file_formats.batches import FileError
from pmkv_client.loaders import FileOptions, export_table, import_files, verify
from tests.served import Served, served

ROWS = np.random.default_rng(1).random((5000, 8), np.float32)
TENSOR = FileOptions(tensor="emb")


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served("--pool", ":memory:", "--capacity", "1GiB") as running:
        yield running


@pytest.fixture
def client(server: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[pmkv_client.Client]:
    monkeypatch.setattr(batches, "BATCH_BYTES", 32 * 512)
    with pmkv_client.connect(f"pmkv://127.0.0.1:{server.port}") as connected:
        yield connected
        for view in set(connected.views()) - {"main"}:
            connected.delete_view(view)
        for name in connected.tables():
            connected.drop_table(name)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet", ".arrow", ".csv", ".pt"])
def test_what_is_exported_is_imported_again(client: pmkv_client.Client, tmp_path: Path, suffix: str) -> None:
    if suffix == ".pt":
        pytest.importorskip("torch")
    items = client.create_table("items", ("f4", 8))
    items.put(np.arange(5000), ROWS)
    path = tmp_path / f"x{suffix}"
    out = export_table(client, "items", path)
    assert (out.rows, out.bytes) == (5000, ROWS.nbytes) and set(client.views()) == {"main"}
    back = import_files(client, "again", [path], FileOptions(dtype="f4") if suffix == ".csv" else None)
    assert (back.checksum, back.rows, back.resumed) == (out.checksum, 5000, 0)
    assert client.table("again").row_dtype == items.row_dtype
    assert np.array_equal(client.table("again").get(np.arange(5000)), ROWS)
    assert verify(client, "again", [path]) == 5000 and not list(tmp_path.glob("*.import"))


def test_an_import_goes_on_where_it_broke_off(
    client: pmkv_client.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "1.npy", tmp_path / "2.parquet", tmp_path / "3.npy"]
    np.save(paths[0], ROWS[:2000])
    lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(ROWS[2000:3000].reshape(-1)), 8)
    pyarrow.parquet.write_table(pyarrow.table({"id": np.arange(2000, 3000), "row": lists}), paths[1])
    np.save(paths[2], ROWS[3000:])
    put, left, resumed = pmkv_client.Table.put, [0], []

    def interrupted(self: pmkv_client.Table, ids: np.ndarray, rows: np.ndarray) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        put(self, ids, rows)

    monkeypatch.setattr(pmkv_client.Table, "put", interrupted)
    for pieces in (3, 1, 2, 99):
        left[0] = pieces
        try:
            done = import_files(client, "items", paths, progress=lambda rows, total: resumed.append((rows, total)))
        except KeyboardInterrupt:
            assert (tmp_path / "1.npy.items.import").exists()
    assert done.rows == 5000 and 0 < done.resumed < 5000 and done.bytes == ROWS.nbytes
    assert [rows for rows, _ in resumed] == sorted({rows for rows, _ in resumed}) and resumed[-1] == (5000, 5000)
    assert np.array_equal(client.table("items").get(np.arange(5000)), ROWS)
    assert f"{batches.checksum(np.arange(5000), ROWS):016x}" == done.checksum


IMPORT = """
import sys, time
import pmkv_client
from pmkv_client import loaders
from pmkv_client.file_formats import batches

batches.BATCH_BYTES, loaders.STATE_SECONDS = 32 * 512, 0.0
with pmkv_client.connect(sys.argv[1]) as client:
    loaders.import_files(client, "items", [sys.argv[2]], progress=lambda rows, total: time.sleep(0.02))
"""


def test_an_import_that_is_killed_goes_on(client: pmkv_client.Client, server: Served, tmp_path: Path) -> None:
    np.save(path := tmp_path / "x.npy", ROWS)
    command = [sys.executable, "-c", IMPORT, f"pmkv://127.0.0.1:{server.port}", str(path)]
    state = tmp_path / "x.npy.items.import"
    with subprocess.Popen(command) as process:
        while not state.exists():
            assert process.poll() is None
        process.kill()
    done = import_files(client, "items", [path])
    assert process.returncode == -9 and 0 < done.resumed < done.rows == 5000 and not state.exists()
    assert np.array_equal(client.table("items").get(np.arange(5000)), ROWS)
    assert done.checksum == f"{batches.checksum(np.arange(5000), ROWS):016x}"


@pytest.mark.parametrize("change", ["file", "table", "rollback", "options", "nonsense"])
def test_a_state_of_something_else_counts_for_nothing(client: pmkv_client.Client, tmp_path: Path, change: str) -> None:
    np.save(path := tmp_path / "x.npy", ROWS)
    items = client.create_table("items", ("f4", 8))
    client.snapshot("before")
    source = loaders.open_sources([path], FileOptions())
    state = loaders._State.read(tmp_path / "s", loaders._identity(client, items, source, FileOptions()))
    state.add(next(loaders.prepared(items, source, FileOptions())))
    state.write()
    options = FileOptions(first_id=1) if change == "options" else FileOptions()
    if change == "file":
        np.save(path, ROWS + 1)
    elif change == "table":
        client.drop_table("items")
    elif change == "rollback":
        items.put([1], ROWS[:1])
        client.rollback("before")
    elif change == "nonsense":
        (tmp_path / "s").write_text(json.dumps({"rows": 3}))
    done = import_files(client, "items", [path], options, state=tmp_path / "s")
    assert done.resumed == 0 and len(client.table("items")) == 5000


def test_one_tensor_of_many_files(client: pmkv_client.Client, tmp_path: Path) -> None:
    for name, tensors in (("1", {"emb": ROWS[:3000]}), ("2", {"w": ROWS[:2]}), ("3", {"emb": ROWS[3000:]})):
        safetensors.numpy.save_file({k: v.copy() for k, v in tensors.items()}, tmp_path / f"{name}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"emb": "1.safetensors", "w": "2.safetensors", "x": "3.safetensors"}}))
    assert import_files(client, "items", [index], TENSOR).rows == 5000
    assert np.array_equal(client.table("items").get(np.arange(5000)), ROWS)
    with pytest.raises(FileError, match="none of 3 files has a tensor 'z'"):
        import_files(client, "items", sorted(tmp_path.glob("*.safetensors")), FileOptions(tensor="z"))


def test_columns_into_tables(client: pmkv_client.Client, tmp_path: Path) -> None:
    table = pyarrow.table({"user": ["a", "b"], "x": [1.5, 2.5], "y": [3, 4], "tag": ["p", "q"]})
    pyarrow.parquet.write_table(table, path := tmp_path / "x.parquet")
    with pytest.raises(FileError, match=r"column 'tag' is text: create the table first, with S<n>"):
        import_files(client, "users", [path], FileOptions(id_column="user"))
    users = client.create_table("users", [("tag", "S4"), ("x", "f4")])
    assert import_files(client, "users", [path], FileOptions("user", ("x", "tag"))).rows == 2
    assert users.get(users.ids_of(["b"])).tolist() == [(b"q", 2.5)]
    import_files(client, "plain", [path], FileOptions(None, ("x", "y"), dtype="f4", first_id=5))
    assert client.table("plain").get([5, 6]).tolist() == [[1.5, 3], [2.5, 4]]
    import_files(client, "fields", [path], FileOptions(None, ("x", "y")))
    assert client.table("fields").dtype == [("x", "f8"), ("y", "i8")]
    with pytest.raises(FileError, match=r"row 0 and following: .*no column 'x'"):
        import_files(client, "users", [path], FileOptions("user", ("tag",)))
    with pytest.raises(FileError, match="the column of ids is float64"):
        import_files(client, "users", [path], FileOptions("x", ("tag",)))


def test_a_dense_table(client: pmkv_client.Client, tmp_path: Path) -> None:
    np.save(path := tmp_path / "x.npy", ROWS)
    import_files(client, "items", [path, path], FileOptions(dense=True))
    assert client.table("items").rows == 10_000 and np.array_equal(client.table("items").get([5003]), ROWS[3:4])


def test_verifying_finds_what_differs(client: pmkv_client.Client, tmp_path: Path) -> None:
    np.save(path := tmp_path / "x.npy", ROWS)
    import_files(client, "items", [path])
    assert 300 < verify(client, "items", [path], sample=500) < 700
    client.table("items").put([4000], ROWS[:1])
    with pytest.raises(FileError, match="the row of id 4000 is another one"):
        verify(client, "items", [path])
    client.table("items").delete([17])
    with pytest.raises(FileError, match="the row of id 17 is missing"):
        verify(client, "items", [path])
    with pytest.raises(FileError, match=r"has no row 17, and \.npy files hold rows 0 to n - 1"):
        export_table(client, "items", tmp_path / "y.npy")


def test_a_branch_and_a_snapshot_are_exported_as_they_are(client: pmkv_client.Client, tmp_path: Path) -> None:
    items = client.create_table("items", ("f4", 8))
    items.put([0], ROWS[:1])
    client.snapshot("v1")
    items.put([0], ROWS[1:2])
    for view, row in (("v1", ROWS[0]), ("main", ROWS[1])):
        with client.view(view) as there:
            export_table(there, "items", tmp_path / "x.npy")
        assert np.array_equal(np.load(tmp_path / "x.npy"), [row])


def test_what_is_no_file_of_rows(client: pmkv_client.Client, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("")
    for name, options, words in (
        ("none.npy", FileOptions(), "no such file"), ("x.txt", FileOptions(), r"no format is known by '\.txt'"),
        ("x.txt", TENSOR, "only safetensors and state dicts"),
    ):  # fmt: skip
        with pytest.raises(FileError, match=words):
            import_files(client, "items", [tmp_path / name], options)
    np.save(tmp_path / "e.npy", ROWS[:0])
    with pytest.raises(FileError, match="it has no rows, and there is no table 'items'"):
        import_files(client, "items", [tmp_path / "e.npy"])


def test_memory_is_bounded(server: Served, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.lib.format.open_memmap(path, "w+", "f4", (1 << 20, 64))  # 256 MiB that are nowhere on the disk
    script = (
        "import re, pmkv_client; from pmkv_client.loaders import import_files\n"
        f"client = pmkv_client.connect('pmkv://127.0.0.1:{server.port}')\n"
        f"print(import_files(client, 'bounded', [{str(path)!r}]).rows)\n"
        "client.drop_table('bounded')\n"
        "print(int(re.search(r'VmHWM:\\s*(\\d+) kB', open('/proc/self/status').read())[1]) >> 10)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    rows, mebibytes = map(int, done.stdout.split())
    assert rows == 1 << 20 and mebibytes < 200


def files_of_all_formats(folder: Path) -> dict[str, bytes]:
    """Return a small file of each format."""
    ids, rows = np.arange(20), ROWS[:20, :2]
    columns = pyarrow.table({"id": ids, "x": rows[:, 0], "s": [f"word {n}" for n in ids]})
    np.save(folder / "a.npy", rows)
    np.savez_compressed(folder / "a.npz", ids=ids, rows=rows)
    safetensors.numpy.save_file({"emb": rows}, folder / "a.safetensors")
    pyarrow.parquet.write_table(columns, folder / "a.parquet")
    pyarrow.feather.write_feather(columns, folder / "a.arrow", compression="uncompressed")
    pyarrow.csv.write_csv(columns, folder / "a.csv")
    return {path.suffix: path.read_bytes() for path in folder.glob("a.*")}


def read_through(path: Path, raw: bytes) -> None:
    """Read a file from end to end; damage that nobody can notice is let through."""
    path.write_bytes(raw)
    with contextlib.suppress(FileError):
        for _ in loaders.open_source(path, FileOptions()).batches(0):
            pass


def test_damaged_files_are_refused_with_words(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for suffix, raw in files_of_all_formats(tmp_path).items():
        for number, size in enumerate([*range(0, 70, 7), *range(70, len(raw), len(raw) // 10)]):
            read_through(tmp_path / f"cut{number}{suffix}", raw[:size])
        for number in range(60):
            changed = bytearray(raw)
            changed[random.integers(len(raw))] = random.integers(256)
            read_through(tmp_path / f"changed{number}{suffix}", bytes(changed))
        with pytest.raises(FileError, match="cut0"):
            loaders.open_source(tmp_path / f"cut0{suffix}", FileOptions())
