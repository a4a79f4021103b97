"""`pmkv import` and `pmkv export`: options, what is printed, and errors of one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy
from click.testing import CliRunner, Result

import pmkv_client
from pmkv_server.cli import main
from tests.served import ROOT, Served, free_port, served

ROWS = np.arange(12, dtype="f4").reshape(4, 3)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served("--pool", ":memory:", "--capacity", "256MiB") as running:
        yield running


def run(server: Served, *words: str | Path) -> Result:
    return CliRunner().invoke(main, [*map(str, words), "--port", str(server.port)])


def test_files_go_in_and_out(server: Served, tmp_path: Path) -> None:
    np.save(path := tmp_path / "x.npy", ROWS)
    done = run(server, "import", path, "--table", "items", "--first-id", "10")
    assert (done.exit_code, done.stderr) == (0, "")
    checksum = done.stdout.split()[-1]
    assert done.stdout == f"table items: 4 rows, 48 bytes, checksum {checksum}\n"
    done = run(server, "export", tmp_path / "y.npz", "--table", "items")
    assert done.exit_code == 0 and done.stdout.split()[-1] == checksum
    for given, status in ((checksum, 0), ("0" * 16, 1)):
        done = run(server, "import", tmp_path / "y.npz", "--table", "again", "--checksum", given)
        assert done.exit_code == status, done.output
    with pmkv_client.Client(port=server.port) as client:
        assert np.array_equal(client.table("again").get([10, 13]), ROWS[[0, 3]])


def test_a_branch_is_created_and_loaded(server: Served, tmp_path: Path) -> None:
    np.savez(path := tmp_path / "x.npz", key=[5, 6, 7, 8], emb=ROWS, other=[1])
    for _ in range(2):
        done = run(server, "import", path, "--table", "t2", "--branch", "b", "--id-column", "key", "--columns", "emb")
        assert done.exit_code == 0 and done.stdout.startswith("table t2 of branch b: 4 rows")
    with pmkv_client.Client(port=server.port, view="b") as branch:
        assert np.array_equal(branch.table("t2").get([8]), ROWS[3:])
    done = run(server, "export", tmp_path / "y.npz", "--table", "t2")
    assert done.exit_code == 1 and "no table 't2'" in done.stderr
    assert run(server, "export", tmp_path / "y.npz", "--table", "t2", "--at", "b").exit_code == 0


def test_what_goes_wrong_is_one_line(server: Served, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"nothing")
    done = run(server, "import", tmp_path / "x.npy", "--table", "items")
    assert done.exit_code == 1 and done.stderr.startswith("Error: ") and "no .npy array" in done.stderr
    done = CliRunner().invoke(main, ["import", str(tmp_path / "x.npy"), "--table", "t", "--port", str(free_port())])
    assert done.exit_code == 1 and len(done.stderr.splitlines()) == 1


def test_the_documented_commands_run(server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/FILES.md").read_text()
    monkeypatch.chdir(tmp_path)
    np.save("vectors.npy", ROWS)
    users = pyarrow.table({"user_id": ["a", "b"], "age": [1, 2], "score": [0.5, 1]})
    pyarrow.parquet.write_table(users, "users.parquet")
    safetensors.numpy.save_file({"embedding.weight": ROWS, "bias": ROWS[0]}, "model.safetensors")
    Path("rules.json").write_text("{}")
    commands = re.findall(r"^\$ pmkv (.*)$", text, re.MULTILINE)
    assert len(commands) == 10
    for command in commands:
        done = run(server, *command.split())
        assert done.exit_code == 0, f"{command}: {done.output}"
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    with pmkv_client.Client(port=server.port) as client:
        for name in client.tables():
            client.drop_table(name)
        monkeypatch.setattr(pmkv_client, "connect", lambda url: client)
        exec(compile("\n".join(blocks), "docs/FILES.md", "exec"), {})


def test_deltas_go_from_server_to_table_in_order(server: Served, tmp_path: Path) -> None:
    with pmkv_client.Client(port=server.port) as client:
        source = client.create_table("source", ("f4", 3))
        source.put(range(4), ROWS)
        done = run(server, "export", tmp_path / "1.delta", "--table", "source")
        assert done.exit_code == 0 and "4 rows changed, 0 deleted, up to snapshot delta-" in done.stdout
        source.delete([0])
        done = run(server, "export", tmp_path / "2.delta", "--table", "source", "--since", done.stdout.split()[-1])
        assert done.exit_code == 0 and "0 rows changed, 1 deleted" in done.stdout
        assert run(server, "import", tmp_path / "1.delta", tmp_path / "2.delta", "--table", "sink").exit_code == 0
        assert client.table("sink").contains(range(4)).tolist() == [False, True, True, True]
    done = run(server, "import", tmp_path / "2.delta", "--table", "sink")
    assert done.exit_code == 1 and "has this delta already" in done.stderr


def test_a_check_sees_the_branch_and_then_main(server: Served, tmp_path: Path) -> None:
    np.save(path := tmp_path / "x.npy", ROWS)
    log = tmp_path / "log"
    words = ["publish", path, "--table", "checked", "--check", f"echo $PMKV_VIEW $PMKV_PORT >> {log}", "--sample", "2"]
    done = run(server, *words)
    assert done.exit_code == 0 and "table checked: 4 rows" in done.stdout, done.output
    (branch, port), main = (line.split() for line in log.read_text().splitlines())
    assert branch.startswith("publish-") and main == ["main", port] == ["main", str(server.port)]
    done = run(server, *words[:4], "--check", "test $PMKV_VIEW != main")
    assert done.exit_code == 1 and "`main` has what it had before again" in done.stderr
