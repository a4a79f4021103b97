"""STORE.COMPACT, on a server that serves meanwhile."""

from __future__ import annotations

from pathlib import Path

from pmkv_server.commands import find
from tests.served import Raw, served
from tests.unit.server.stand import Client


def test_space_of_what_was_deleted_comes_back(tmp_path: Path) -> None:
    with served("--data", str(tmp_path / "data"), "--capacity", "64MiB") as server:
        client = Raw(server.port)
        for i in range(40):
            client("SET", f"k{i}", b"x" * 500_000)
        client("SET", "kept", 1)
        client("DEL", *(f"k{i}" for i in range(40)))
        assert client("STORE.COMPACT")[0] == ":"
        _, text = client("INFO", "pmkv")
        facts = dict(line.split(b":", 1) for line in text.split(b"\r\n") if b":" in line)
        assert int(facts[b"pmkv_space_used"]) < 40 * 500_000 / 4
        assert client("GET", "kept") == ("$", b"1")
        client.close()


def test_not_within_a_transaction(client: Client) -> None:
    assert find([b"store.compact"]).waits is not None
    client.follows("""
        MULTI => OK
        STORE.COMPACT => -ERR Command not allowed inside a transaction
        EXEC => -EXECABORT Transaction discarded because of previous errors.
    """)
