"""The command line: options, variables and a TOML file; commands that ask a running server."""

from __future__ import annotations

import gc
import importlib
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

import pmkv
from pmkv_server import server as server_module
from pmkv_server.cli import main, quick_imports
from pmkv_server.config import Config
from tests.served import served


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The settings of every server that would have been started."""
    made: list[Config] = []

    class Silent:
        def __init__(self, config: Config, signals: object) -> None:
            made.append(config)

        def serve(self) -> None:
            pass

    monkeypatch.setattr(server_module, "Server", Silent)
    return made


def run(*words: str, **how: object) -> Result:
    return CliRunner().invoke(main, list(words), **how)


def test_defaults_are_those_of_config(configured: list[Config]) -> None:
    assert run("serve").exit_code == 0
    assert configured == [Config()]


def test_options_beat_variables_and_these_a_file(configured: list[Config], tmp_path: Path) -> None:
    path = tmp_path / "pmkv.toml"
    path.write_text('port = 1\nworkers = 3\nrest-port = "off"\ncapacity = "1GiB"\n')
    result = run("serve", "--config", str(path), "--port", "3", env={"PMKV_PORT": "2", "PMKV_WORKERS": "5"})
    assert result.exit_code == 0, result.output
    (config,) = configured
    assert (config.port, config.workers, config.rest_port, config.capacity) == (3, 5, None, "1GiB")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "70000"], "70000"),
        (["--port", "7_400"], "not a valid integer"),
        (["--rest-port", "x"], "x"),
        (["--durability", "maybe"], "maybe"),
        (["--max-clients", "0"], "0"),
    ],
)
def test_wrong_values(words: list[str], said: str, configured: list[Config]) -> None:
    result = run("serve", *words)
    assert result.exit_code == 2 and said in result.output
    assert not configured


@pytest.mark.parametrize(("text", "said"), [("prot = 1", "unknown keys prot; known are"), ("port =", "pmkv.toml")])
def test_a_file_that_is_wrong(text: str, said: str, configured: list[Config], tmp_path: Path) -> None:
    path = tmp_path / "pmkv.toml"
    path.write_text(text)
    result = run("serve", "--config", str(path))
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert not configured


def test_an_unsafe_server_is_not_started() -> None:
    result = run("serve", "--host", "0.0.0.0")
    assert result.exit_code == 1
    assert "no password is set" in result.output
    assert "Traceback" not in result.output


Answering = Callable[..., int]


@pytest.fixture
def answering() -> Iterator[Answering]:
    """`answering(*replies)` is the port of a server that says them, one for each command."""
    listeners = []

    def start(*replies: bytes) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                for reply in replies:
                    connection.recv(65536)
                    connection.sendall(reply)

        threading.Thread(target=answer, daemon=True).start()
        return listener.getsockname()[1]

    yield start
    for listener in listeners:
        listener.close()


def test_get_put_stats(answering: Answering) -> None:
    result = run("get", "a", "--port", str(answering(b"$3\r\n\xff\r\n\r\n")))
    assert (result.exit_code, result.stdout_bytes) == (0, b"\xff\r\n")
    assert run("put", "a", "b", "--port", str(answering(b"+OK\r\n"))).exit_code == 0
    result = run("stats", "--password", "p", "--port", str(answering(b"+OK\r\n", b"$9\r\n# A\r\nb:1\n\r\n")))
    assert result.output == "# A\nb:1\n"


def test_what_can_go_wrong_is_said(answering: Answering) -> None:
    for words, reply, said in (
        (["get", "a"], b"$-1\r\n", "no key 'a'"),
        (["put", "a", "b"], b"-OOM full\r\n", "OOM full"),
        (["get", "a"], b"-NOAUTH Authentication required.\r\n", "NOAUTH"),
    ):
        result = run(*words, "--port", str(answering(reply)))
        assert result.exit_code == 1 and said in result.output
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    result = run("get", "a", "--port", str(port))
    assert result.exit_code == 1 and f"no answer from 127.0.0.1:{port}" in result.output


def test_checkpoint_waits_for_it(answering: Answering) -> None:
    assert run("checkpoint", "--port", str(answering(b"+OK\r\n"))).exit_code == 0
    result = run("checkpoint", "--port", str(answering(b"-ERR no room\r\n")))
    assert result.exit_code == 1 and "ERR no room" in result.output


def test_scan() -> None:
    with served("--pool", ":memory:", "--capacity", "64MiB", "--rest-port", "0", "--password", "p") as server:
        client = server.raw()
        client("AUTH", "p")
        client("MSET", *(word for key in (b"a", b"b1", b"b\xff", b"b2", b"c") for word in (key, b"")))
        client.close()
        options = ["--password", "p", "--rest-port", re.search(r"REST on \S+?:(\d+)", server.log)[1]]
        for words, keys in (
            (["b"], b"b1\nb2\nb\xff\n"),
            (["--reverse"], b"c\nb\xff\nb2\nb1\na\n"),
            (["--reverse", "--limit", "2", "b"], b"b\xff\nb2\n"),
            (["nothing"], b""),
        ):
            assert run("scan", *words, *options).stdout_bytes == keys
        result = run("scan", *options[2:])
        assert result.exit_code == 1 and "Authorization" in result.output
    result = run("scan", *options)
    assert result.exit_code == 1 and "no answer from 127.0.0.1" in result.output


def test_versions() -> None:
    """Each command about views, and what it says when it is refused."""
    with served("--pool", ":memory:", "--capacity", "64MiB", "--password", "p") as server:
        client = server.raw()
        client("AUTH", "p")

        def says(words: str, status: int = 0) -> str:
            result = run(*words.split(), "--password", "p", "--port", str(server.port))
            assert result.exit_code == status, result.output
            return result.output

        client("TABLE.CREATE", "t", "DTYPE", "f4")
        client("SET", "a", 1)
        assert says("snapshot v1") == says("branch b --at v1") == ""
        client("VIEW.USE", "b")
        client("SET", "a", 2)
        client("TABLE.PUT", "t", bytes(8), bytes(4))
        lines = [line.split() for line in says("views").splitlines()]
        assert [line[:3] for line in lines] == [
            ["NAME", "KIND", "BASE"], ["main", "main", "-"], ["v1", "snapshot", "main"], ["b", "branch", "v1"],
        ]  # fmt: skip
        assert [line[-1] for line in lines[2:]] == ["0", "2"] and re.fullmatch(r"\d{4}-\d\d-\d\d", lines[3][3])
        assert says("promote b --table t") == ""
        client("VIEW.USE", "main")
        assert (client("TABLE.LEN", "t"), client("GET", "a")) == ((":", b"1"), ("$", b"1"))
        client("SET", "a", 3)
        assert "CONFLICT main has 1 write" in says("promote b --keys", status=1)
        assert says("promote b --keys --force") == ""
        assert client("GET", "a") == ("$", b"2")
        assert says("undo") == ""
        assert client("GET", "a") == ("$", b"3")
        assert says("rollback v1 --table t --no-keys") == says("rollback v1") == ""
        assert (client("TABLE.LEN", "t"), client("GET", "a")) == ((":", b"0"), ("$", b"1"))
        assert says("delete-view v1") == ""
        assert "NOVIEW" in says("rollback v1", status=1)
        client.close()


def test_check_verifies_and_salvages(tmp_path: Path) -> None:
    with pmkv.open(tmp_path / "s", capacity="8MiB") as store:
        for i in range(50):
            store.put(b"key:%d" % i, b"v" * 100)
    whole = CliRunner().invoke(main, ["check", str(tmp_path / "s")])
    assert whole.exit_code == 0 and "50 keys" in whole.output
    with open(tmp_path / "s" / "pool", "r+b") as pool:
        pool.seek(4096 + 4096)
        pool.write(bytes(256))
    damaged = CliRunner().invoke(main, ["check", str(tmp_path / "s"), "--salvage", str(tmp_path / "new")])
    assert damaged.exit_code == 1 and "damaged" in damaged.output and "copied to" in damaged.output
    with pmkv.open(tmp_path / "new") as store:
        assert 40 < len(store.keyspace(0)) < 50


def test_imports_at_the_start_leave_scipy_and_the_collector_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gc.freeze", lambda: None)  # what tests leave behind is to be collected
    monkeypatch.delitem(sys.modules, "scipy", raising=False)
    with pytest.raises(ModuleNotFoundError), quick_imports():
        assert not gc.isenabled()
        importlib.import_module("scipy")
    assert gc.isenabled() and "scipy" not in sys.modules
    monkeypatch.setitem(sys.modules, "scipy", there := ModuleType("scipy"))
    with quick_imports():
        assert sys.modules["scipy"] is there
    assert sys.modules["scipy"] is there


def test_backup_and_restore(tmp_path: Path) -> None:
    data, backups = tmp_path / "data", tmp_path / "backups"
    with pmkv.open(data, capacity="8MiB") as store:
        store.put(b"a", b"1")
        store.snapshot("v1")
        refused = run("backup", str(backups / "mon"), "--data", str(data))
        assert refused.exit_code == 1 and re.search(r"is locked by process \d+", refused.output)
    first = run("backup", str(backups / "mon"), "--data", str(data), "--all-views")
    assert first.exit_code == 0, first.output
    assert re.match(r"1 entries, [0-9,]+ bytes in 1 pieces, LSN \d+\n.*/mon/[0-9a-f-]+\.json\n$", first.output)
    with pmkv.open(data) as store:
        store.put(b"b", b"2")
    second = run("backup", str(backups / "tue"), "--data", str(data), "--since", str(backups / "mon"))
    assert second.output.startswith("1 entries, "), second.output
    restored = run("restore", str(backups / "tue"), str(tmp_path / "copy"))
    assert restored.output.startswith("2 entries in "), restored.output
    with pmkv.open(tmp_path / "copy") as store:
        assert dict(store.scan()) == {b"a": b"1", b"b": b"2"}
    assert run("restore", str(backups / "mon"), str(tmp_path / "v1")).exit_code == 0
    with pmkv.open(tmp_path / "v1") as store:
        assert sorted(store.views()) == ["main", "v1"]
    again = run("restore", str(backups / "mon"), str(tmp_path / "v1"))
    assert again.exit_code == 1 and "is not empty: restore to a new directory" in again.output
    nothing = run("restore", str(backups), str(tmp_path / "none"))
    assert nothing.exit_code == 1 and "there is no backup in" in nothing.output


def test_compact_a_directory(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with pmkv.open(data, capacity="64MiB") as store:
        store.put_many({b"%d" % i: b"x" * 100_000 for i in range(200)})
        store.put(b"kept", b"1")
        store.checkpoint()
        store.keyspace(0).delete_many([b"%d" % i for i in range(200)])
        refused = run("compact", "--data", str(data))
        assert refused.exit_code == 1 and "Or ask the server that has it: `pmkv compact --port ...`" in refused.output
    before = sum(file.stat().st_blocks * 512 for file in data.iterdir())
    done = run("compact", "--data", str(data))
    assert re.fullmatch(r"[0-9,]+ bytes freed\n", done.output), done.output
    assert sum(file.stat().st_blocks * 512 for file in data.iterdir()) < before / 4
    with pmkv.open(data) as store:
        assert dict(store.scan()) == {b"kept": b"1"}


def test_a_backup_by_a_running_server(tmp_path: Path) -> None:
    with served("--data", str(tmp_path / "data"), "--backup-dir", str(tmp_path / "backups")) as server:
        run("put", "a", "1", "--port", str(server.port))
        made = run("backup", "mon", "--port", str(server.port))
        assert re.match(r"1 entries, .* in 1 pieces, LSN \d+\n.*/backups/mon/[0-9a-f-]+\.json\n$", made.output), (
            made.output
        )
        refused = run("backup", "mon", "--data", str(tmp_path / "data"))
        assert refused.exit_code == 1 and "ask the server that has it: `pmkv backup NAME --port" in refused.output
