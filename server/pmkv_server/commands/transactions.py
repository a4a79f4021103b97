"""MULTI, EXEC, DISCARD, WATCH: a transaction is one batch of the store, so a crash leaves all of it or nothing."""

from __future__ import annotations

import contextlib

from pmkv_server.commands.execution import is_heavy, run
from pmkv_server.commands.registry import CommandError, Group
from pmkv_server.net.session import Session
from pmkv_server.resp.scan import NULL_ARRAY, OK, Reply, joined

group = Group("transactions")
command = group.command

RECORD_OVERHEAD_BYTES = 256  # of the log: an upper bound for what a record and its frame take besides key and value
_ABORTED = "EXECABORT Transaction discarded because of previous errors."


@command("multi", 1, "fast loop in_multi")
def multi(session: Session, arguments: list[bytes]) -> Reply:
    """Begin a transaction: the commands that follow are queued until EXEC."""
    if session.queue is not None:
        raise CommandError("ERR MULTI calls can not be nested")
    session.begin()
    return OK


@command("discard", 1, "fast loop in_multi")
def discard(session: Session, arguments: list[bytes]) -> Reply:
    """Drop the transaction."""
    if session.queue is None:
        raise CommandError("ERR DISCARD without MULTI")
    session.end()
    return OK


@command("watch", -2, "fast in_multi", (1, -1, 1))
def watch(session: Session, arguments: list[bytes]) -> Reply:
    """Let the next EXEC do nothing if one of these keys is written before it."""
    if session.queue is not None:
        raise CommandError("ERR WATCH inside MULTI is not allowed")
    for key in arguments[1:]:
        session.watched.add(session.keyspace, key)
    return OK


@command("unwatch", 1, "fast loop")
def unwatch(session: Session, arguments: list[bytes]) -> Reply:
    """Forget all watched keys."""
    session.watched.release()
    return OK


def _exec_is_heavy(session: Session, arguments: list[bytes]) -> bool:
    return any(is_heavy(session, entry, words) for entry, words in session.queue or ())


@command("exec", 1, "in_multi", heavy=_exec_is_heavy)
def exec_(session: Session, arguments: list[bytes]) -> Reply:
    """Run the queued commands as one batch, or none if a watched key was written."""
    if session.queue is None:
        raise CommandError("ERR EXEC without MULTI")
    try:
        if session.broken:
            raise CommandError(_ABORTED)
        with _exclusive(session):
            if session.watched.changed_key() is not None:
                return NULL_ARRAY[session.protocol]
            queue, session.queue = session.queue, None
            return joined([run(session, entry, words) for entry, words in queue])
    finally:
        session.end()


def _exclusive(session: Session) -> contextlib.AbstractContextManager[None]:
    """Return a context without other writers, with room in the pool reserved for all that the queue writes."""
    store = session.server.store
    if store.readonly:
        return contextlib.nullcontext()
    growing = [words for entry, words in session.queue or () if "denyoom" in entry.flags]
    return store.batch(reserve=sum(sum(map(len, words)) + RECORD_OVERHEAD_BYTES * len(words) for words in growing))
