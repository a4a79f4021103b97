"""Run one command: decide whether a worker runs it, and turn its exceptions into error replies."""

from __future__ import annotations

import logging
from time import perf_counter_ns

from pmkv import errors
from pmkv_server.commands.registry import Command, CommandError
from pmkv_server.net.session import Session
from pmkv_server.resp.scan import Reply, error
from pmkv_server.system_errors import describe

log = logging.getLogger("pmkv.server")

HEAVY_BYTES = 1 << 20  # of all arguments
HEAVY_ARGUMENTS = 4096  # a count


def uses_store(entry: Command) -> bool:
    """Tell whether a command may have to wait for the store's locks, or for the disk."""
    return "loop" not in entry.flags and entry.group != "connection"


def is_heavy(session: Session, entry: Command, arguments: list[bytes]) -> bool:
    """Tell whether a command belongs in a worker.

    Heavy are long arguments, many arguments, what the entry's own `heavy` says, and every lookup while index files
    may have to be read from disk.
    """
    if session.server.store.is_cold and uses_store(entry):
        return True
    if len(arguments) > HEAVY_ARGUMENTS and "loop" not in entry.flags:  # even their inspection takes long
        return True
    try:
        if entry.heavy is not None and entry.heavy(session, arguments):
            return True
    except Exception:
        return False  # running the command raises the same error, which becomes its reply
    return sum(map(len, arguments)) > HEAVY_BYTES and "loop" not in entry.flags


def run(session: Session, entry: Command, arguments: list[bytes], may_wait: bool = False) -> Reply:
    """Return the reply of a command, and count it.

    may_wait: raise FullError if a write finds the pool full, with nothing done and nothing counted"""
    stats, lookups = session.server.stats, session.server.store.lookups
    began, before = perf_counter_ns(), (lookups.hits, lookups.misses)
    try:
        reply = entry.function(session, arguments)
    except Exception as problem:
        if may_wait and isinstance(problem, errors.FullError):
            raise
        if entry.name == "exec" and session.queue is not None:
            session.end()  # for want of room, and there is no other attempt
        reply = failure(problem)
        stats.by_command[entry.name].failed += 1
        stats.count_error(reply)
    if not entry.counts_lookups:
        lookups.hits, lookups.misses = before
    stats.count(entry.name, 1, perf_counter_ns() - began)
    return reply


async def run_waiting(session: Session, entry: Command, arguments: list[bytes]) -> Reply:
    """Return the reply of a command that waits for an event."""
    try:
        return await entry.waits(session, arguments)
    except Exception as problem:
        return failure(problem)


def failure(problem: Exception) -> bytes:
    """Return the error reply for an exception."""
    match problem:
        case CommandError():
            return error(str(problem))
        case errors.FullError():
            return error(f"OOM command not allowed when used memory > 'maxmemory'. {problem}")
        case errors.FlushError():
            return not_durable(problem)
        case errors.UnknownViewError():
            return error(f"NOVIEW {problem}")
        case errors.ReadOnlyError():
            return error(f"READONLY {problem}")
        case errors.ConflictError():
            return error(f"CONFLICT {problem}")
        case errors.CorruptionError():
            log.error("corruption: %s", problem)
            return error(f"ERR corruption: {problem}")
        case errors.PmkvError():
            return error(f"ERR {problem}")
        case OSError():
            log.error("the system refused a command: %s", describe(problem))
            return error(f"ERR the system refused: {describe(problem)}")
        case MemoryError():
            log.error("a command lacked memory")
            return error("ERR the server lacks the memory for this command: send or ask for less at once")
    log.error("a command failed", exc_info=problem)
    return error(f"ERR internal error: {type(problem).__name__}: {problem}")


def not_durable(problem: Exception) -> bytes:
    """Return the reply for a command whose flush failed."""
    return error(f"MISCONF Errors writing to the log: {problem}. What this reply waited for may be lost.")
