"""What the server remembers of a client, and what RESET, EXEC and AUTH make of it."""

from __future__ import annotations

from typing import Any

import pytest

from pmkv.errors import UnknownViewError
from pmkv_server.net.session import Session
from tests.unit.server.stand import Stub


def test_ids_are_never_used_twice(server: Stub) -> None:
    ids = [Session(server).id for _ in range(5)]
    assert ids == sorted(set(ids))


def test_only_an_authenticated_client_outside_multi_is_plain(store: Any) -> None:
    session = Session(Stub(store, password="secret"))
    assert not session.plain
    session.authenticate(True)
    assert session.plain
    session.begin()
    assert not session.plain
    session.end()
    assert session.plain
    session.authenticate(False)
    assert not session.plain
    assert Session(Stub(store)).plain


def test_end_of_a_transaction_forgets_all_of_it(server: Stub) -> None:
    session = Session(server)
    session.begin()
    session.broken = True
    session.watched.add(session.keyspace, b"a")
    session.end()
    assert (session.queue, session.broken, session.watched.keys) == (None, False, {})
    assert not session.keyspace.watches


def test_begin_clears_an_old_error_and_keeps_what_is_watched(server: Stub) -> None:
    session = Session(server)
    session.broken = True
    session.watched.add(session.keyspace, b"a")
    session.begin()
    assert (session.queue, session.broken, [*session.watched.keys]) == ([], False, [(session.keyspace, b"a")])


def test_select_changes_the_keyspace(server: Stub, store: Any) -> None:
    session = Session(server)
    assert session.keyspace is store.keyspace(0)
    session.select(3)
    assert (session.db, session.keyspace) == (3, store.keyspace(3))


def test_a_view_in_use_has_keyspaces_of_its_own(server: Stub, store: Any) -> None:
    session, branch = Session(server), store.branch("b")
    session.select(3)
    session.use(branch)
    assert (session.db, session.keyspace, session.at(None)) == (3, branch.keyspace(3), branch)
    session.select(0)
    assert session.keyspace is branch.keyspace(0) is not store.keyspace(0)
    assert session.at("main") is store
    store.delete_view("b")
    with pytest.raises(UnknownViewError):
        session.select(5)
    assert session.db == 0, "what is refused changes nothing"
    session.reset()
    assert (session.view, session.keyspace) == (store, store.keyspace(0))


def test_only_resp3_is_told_of_switches(server: Stub) -> None:
    session, said = Session(server), []
    session.push = said.append
    session.track(True)
    session.tell_switch(1, 7)
    session.protocol = 3
    session.tell_switch(2, 8)
    assert said == [b">3\r\n$11\r\nview.switch\r\n:2\r\n:8\r\n"]
    assert server.version_events.followers == {session.tell_switch}
    session.reset()
    assert not server.version_events.followers


def test_reset_is_a_new_connection(store: Any) -> None:
    session = Session(Stub(store, password="secret"))
    session.authenticate(True)
    session.select(3)
    session.begin()
    session.protocol, session.name = 3, b"me"
    session.reset()
    assert (session.db, session.keyspace, session.protocol, session.name) == (0, store.keyspace(0), 2, b"")
    assert (session.queue, session.authenticated, session.plain) == (None, False, False)
