"""MULTI, EXEC, DISCARD, WATCH: a transaction is one batch of the store, so a crash leaves all of it or nothing."""

from __future__ import annotations

import contextlib

from pmkv.errors import FullError
from pmkv_server.commands.execution import HEAVY_ARGUMENTS, HEAVY_BYTES, is_heavy
from pmkv_server.commands.registry import MAX_REPLY_BYTES, Command, CommandError, Group
from pmkv_server.commands.strings import LONG_VALUE_BYTES, some_value_is_long, value_is_long
from pmkv_server.net.session import Queued, Session
from pmkv_server.resp.scan import IN_PLACE, NULL_ARRAY, OK, Reply, chunks, error

group = Group("transactions")
command = group.command

HEAVY_COMMANDS = 1024  # a longer queue is run by a worker
_BY_LENGTH = (value_is_long, some_value_is_long)  # say that a command is heavy if a value of its keys is long
_REWRITING = {"append", "setrange", "copy"}  # what these write has the present value in it
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
    """Tell whether the queue is long, or one of its commands is heavy. The lengths of values are looked up together."""
    queue = session.queue or []
    keys = [key for entry, words in queue if entry.heavy in _BY_LENGTH for key in entry.keys_of(words)]
    if len(queue) > HEAVY_COMMANDS or len(keys) > HEAVY_ARGUMENTS or session.server.store.is_cold:
        return True
    if sum(len(word) for _, words in queue for word in words) > HEAVY_BYTES:
        return True
    if any((size or 0) > LONG_VALUE_BYTES for size in (session.keyspace.sizes(keys) if keys else ())):
        return True
    return any(is_heavy(session, *queued) for queued in queue if queued[0].heavy not in _BY_LENGTH)


@command("exec", 1, "in_multi", heavy=_exec_is_heavy)
def exec_(session: Session, arguments: list[bytes]) -> Reply:
    """Run the queued commands as one batch, or none if a watched key was written."""
    if session.queue is None:
        raise CommandError("ERR EXEC without MULTI")
    is_over = True
    try:
        if session.broken:
            raise CommandError(_ABORTED)
        with _exclusive(session):
            if session.watched.changed_key() is not None:
                return NULL_ARRAY[session.protocol]
            queue, session.queue = session.queue, None
            return _reply(session, queue)
    except FullError:  # it may be tried again
        is_over = False
        raise
    finally:
        if is_over:
            session.end()


def _reply(session: Session, queue: list[Queued]) -> Reply:
    """Run the queued commands, and return their replies; those beyond what may be held in memory become errors."""
    parts: list = [b"*%d\r\n" % len(queue)]
    size = 0
    for reply, count in session.server.transaction_waves.replies(session, queue):
        length = sum(map(len, chunks(reply)))
        if size + length > MAX_REPLY_BYTES:
            parts += [error(f"ERR the command was run, but the replies take more than {MAX_REPLY_BYTES} bytes")] * count
        else:
            size += length
            parts += chunks(reply)
    return parts if size > IN_PLACE else b"".join(parts)


def _exclusive(session: Session) -> contextlib.AbstractContextManager[None]:
    """Return a context without other writers, with room in the pool reserved for all that the queue writes."""
    store = session.server.store
    if store.readonly:
        return contextlib.nullcontext()
    growing = [(entry, words) for entry, words in session.queue or () if "denyoom" in entry.flags]
    rewritten = [words[1] for entry, words in growing if entry.name in _REWRITING]
    present = sum(size or 0 for size in session.keyspace.sizes(rewritten)) if rewritten else 0
    return store.batch(reserve=sum((_log_bytes(session, *one) for one in growing), start=present * 9 // 8))


def _log_bytes(session: Session, entry: Command, words: list[bytes]) -> int:
    """Return the most bytes of the log that a queued command takes for its own words."""
    return session.server.store.log_bytes(len(entry.keys_of(words)), sum(map(len, words[1:])))
