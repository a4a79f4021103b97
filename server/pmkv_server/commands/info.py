"""INFO: facts and counters in the sections of Redis, and in a section `Pmkv` of its own."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator

from pmkv_server import REDIS_VERSION
from pmkv_server.bgsave import saved_at
from pmkv_server.commands.keys import HEAVY_UNCOUNTED, KEYSPACES
from pmkv_server.commands.registry import Group
from pmkv_server.net.session import Session
from pmkv_server.resp.scan import Reply, text
from pmkv_server.stats import CommandFigures

group = Group("server")
command = group.command

Fields = dict[str, object]


def _counts_much(session: Session, arguments: list[bytes]) -> bool:
    """Tell whether counting keys and rows takes long: many are uncounted, or indexes may be read from disk."""
    store = session.server.store
    spaces = (store.keyspace(number) for number in range(KEYSPACES))
    return store.is_cold or any(part.uncounted > HEAVY_UNCOUNTED for part in (*spaces, *store.tables().values()))


@command("info", -1, "loop", heavy=_counts_much)
def info(session: Session, arguments: list[bytes]) -> Reply:
    """Return facts and counters about the server."""
    names = {word.decode("latin-1").lower() for word in arguments[1:]} or {"default"}
    everything = names & {"default", "all", "everything"}
    texts = [
        f"# {name}\r\n" + "".join(f"{field}:{_shown(value)}\r\n" for field, value in section(session.server).items())
        for name, section in _SECTIONS.items()
        if everything or name.lower() in names
    ]
    return text("\r\n".join(texts).encode(), session.protocol)


def _shown(value: object) -> str:
    """Return a value as text of one line: flags as 0 or 1, nothing as the empty string, counts by name as `a=1,b=2`,
    several counts of a name as `a.x=1,a.y=2`."""
    match value:
        case None:
            return ""
        case bool():
            return str(int(value))
        case float():
            return f"{value:.6f}"
        case dict():
            return ",".join(f"{name}={count}" for name, count in _flat(value))
    return " ".join(str(value).splitlines())


def _flat(counts: dict) -> Iterator[tuple[str, object]]:
    for name, count in counts.items():
        if isinstance(count, dict):
            yield from ((f"{name}.{inner}", value) for inner, value in _flat(count))
        else:
            yield str(name), count


def _server(server) -> Fields:
    uptime = int(time.time() - server.stats.started)
    return {
        "redis_version": REDIS_VERSION,
        "redis_mode": "standalone",
        "os": f"{os.uname().sysname} {os.uname().release} {os.uname().machine}",
        "arch_bits": 64 if sys.maxsize > 1 << 32 else 32,
        "process_id": os.getpid(),
        "tcp_port": server.port,
        "uptime_in_seconds": uptime,
        "uptime_in_days": uptime // 86400,
        "executable": sys.executable,
        "config_file": server.config.config or "",
    }


def _clients(server) -> Fields:
    return {
        "connected_clients": len(server.sessions),
        "maxclients": server.config.max_clients,
        "blocked_clients": server.version_events.waiting,
    }


def _memory(server) -> Fields:
    with open("/proc/self/statm") as statm:
        resident = int(statm.read().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "used_memory": resident,
        "used_memory_rss": resident,
        "used_memory_peak": max(peak, resident),
        "mem_fragmentation_ratio": "1.00",  # both figures are what the system counts
        "maxmemory": server.store.capacity,
        "maxmemory_policy": "noeviction",
    }


def _persistence(server) -> Fields:
    """Present a checkpoint as Redis' RDB file and the log as its append-only file, which is never rewritten."""
    stats, bgsave = server.store.stats(), server.bgsave
    enabled = server.store.durability != "none"
    return {
        "loading": 0,
        "async_loading": 0,
        "rdb_changes_since_last_save": stats.replay_records,
        "rdb_bgsave_in_progress": int(bgsave.is_under_way),
        "rdb_last_save_time": saved_at(server),
        "rdb_last_bgsave_status": "err" if stats.maintenance_error or bgsave.failed else "ok",
        "rdb_last_bgsave_time_sec": bgsave.last_seconds,
        "rdb_current_bgsave_time_sec": bgsave.seconds,
        "rdb_saves": stats.checkpoints,
        "aof_enabled": int(enabled),
        "aof_rewrite_in_progress": 0,
        "aof_rewrite_scheduled": 0,
        "aof_last_rewrite_time_sec": -1,
        "aof_current_rewrite_time_sec": -1,
        "aof_last_bgrewrite_status": "ok",
        "aof_last_write_status": "err" if server.store.failed else "ok",
        **({"aof_current_size": stats.used} if enabled else {}),
    }


def _stats(server) -> Fields:
    stats, lookups = server.stats, server.store.lookups
    return {
        "total_connections_received": stats.connections,
        "total_commands_processed": stats.commands,
        "instantaneous_ops_per_sec": round(stats.rates["commands"]),
        "total_net_input_bytes": stats.input_bytes,
        "total_net_output_bytes": stats.output_bytes,
        "instantaneous_input_kbps": f"{stats.rates['input_bytes'] / 1024:.2f}",
        "instantaneous_output_kbps": f"{stats.rates['output_bytes'] / 1024:.2f}",
        "rejected_connections": stats.rejected,
        "client_query_buffer_limit_disconnections": stats.cut_off,
        "client_output_buffer_limit_disconnections": stats.output_cut_off,
        "expired_keys": lookups.expired,
        "evicted_keys": 0,
        "keyspace_hits": lookups.hits,
        "keyspace_misses": lookups.misses,
        "total_error_replies": sum(stats.errors.values()),
        "ticks": stats.ticks,
    }


def _commandstats(server) -> Fields:
    return {f"cmdstat_{name}": _figures(one) for name, one in sorted(server.stats.by_command.items())}


def _figures(figures: CommandFigures) -> Fields:
    microseconds = figures.nanoseconds / 1000
    return {
        "calls": figures.calls,
        "usec": round(microseconds),
        "usec_per_call": f"{microseconds / max(figures.calls, 1):.2f}",
        "rejected_calls": figures.rejected,
        "failed_calls": figures.failed,
    }


def _errorstats(server) -> Fields:
    return {f"errorstat_{code}": {"count": number} for code, number in sorted(server.stats.errors.items())}


def _replication(server) -> Fields:
    return {"role": "master", "connected_slaves": 0}


def _cpu(server) -> Fields:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"used_cpu_sys": f"{usage.ru_stime:.6f}", "used_cpu_user": f"{usage.ru_utime:.6f}"}


def _cluster(server) -> Fields:
    return {"cluster_enabled": 0}


def _pmkv(server) -> Fields:
    """Return the figures of `store.stats()`."""
    promotions, lsn = server.version_events.latest
    figures = {"version": f"{promotions}-{lsn}", **server.store.stats().asdict()}
    space = figures.pop("space")
    figures |= {f"space_{name}": int(one) if isinstance(one, bool) else one for name, one in space.items()}
    figures |= {f"space_pinned_by_{name}": size for name, size in figures.pop("space_pinned_by").items()}
    return {f"pmkv_{name}": value for name, value in figures.items()}


def _keyspace(server) -> Fields:
    sizes = {number: len(server.store.keyspace(number)) for number in range(KEYSPACES)}
    return {f"db{number}": f"keys={size},expires=0,avg_ttl=0" for number, size in sizes.items() if size}


_SECTIONS = {
    "Server": _server,
    "Clients": _clients,
    "Memory": _memory,
    "Persistence": _persistence,
    "Stats": _stats,
    "Replication": _replication,
    "CPU": _cpu,
    "Commandstats": _commandstats,
    "Errorstats": _errorstats,
    "Cluster": _cluster,
    "Pmkv": _pmkv,
    "Keyspace": _keyspace,
}
