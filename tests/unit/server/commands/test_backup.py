"""BACKUP.CREATE and BACKUP.STATUS, on a server that serves meanwhile."""

from __future__ import annotations

from pathlib import Path

import pmkv
from pmkv_server.commands import find
from tests.served import Raw, served
from tests.unit.server.stand import Client


def test_a_backup_while_serving(tmp_path: Path) -> None:
    with served("--data", str(tmp_path / "data"), "--backup-dir", str(tmp_path / "backups")) as server:
        client = Raw(server.port)
        client("SET", "a", 1)
        client("SNAPSHOT.CREATE", "v1")
        kind, flat = client("BACKUP.CREATE", "mon", "ALL")
        assert kind == "*", flat
        facts = dict(zip([name for _, name in flat[::2]], [value for _, value in flat[1::2]]))
        assert (facts[b"entries"], facts[b"pieces"]) == (b"1", b"1")
        client("SET", "b", 2)
        kind, flat = client("BACKUP.CREATE", "tue", "SINCE", "mon")
        assert flat[5] == (":", b"1")
        kind, flat = client("BACKUP.STATUS")
        assert (flat[1], flat[3]) == (("$", b""), (":", b"0"))
        assert client("BACKUP.CREATE", "..")[1].startswith(b"ERR '..' cannot name a backup")
        assert client("BACKUP.CREATE", "wed", "SINCE", "nothing")[1].startswith(b"ERR there is no backup in")
        assert client("BACKUP.CREATE", "wed", "FROM")[1] == b"ERR syntax error near 'FROM'"
        client.close()
    pmkv.restore(tmp_path / "backups/tue", tmp_path / "copy")
    with pmkv.open(tmp_path / "copy") as store:
        assert dict(store.scan()) == {b"a": b"1", b"b": b"2"}
    pmkv.restore(tmp_path / "backups/mon", tmp_path / "all")
    with pmkv.open(tmp_path / "all") as store:
        assert sorted(store.views()) == ["main", "v1"]


def test_not_within_a_transaction(client: Client) -> None:
    assert find([b"backup.create", b"mon"]).waits is not None
    client.follows("""
        MULTI => OK
        BACKUP.CREATE mon => -ERR Command not allowed inside a transaction
        EXEC => -EXECABORT Transaction discarded because of previous errors.
    """)
