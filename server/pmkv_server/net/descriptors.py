"""Share the process's file descriptors between clients and everything else that opens files.

Some are kept back, so that checkpoints, imports and SAVE never fail because too many clients are connected.
"""

from __future__ import annotations

import contextlib
import logging
import resource

log = logging.getLogger("pmkv.server")

RESERVED_DESCRIPTORS = 48  # for the pool, the catalog, runs, listeners, logs, and a burst of connections to refuse
ACCEPTED_AT_ONCE = 16  # connections accepted before the first of them can be refused; part of the reserve
REST_SHARE = 4  # REST gets one descriptor in so many of those for clients


def raise_limit() -> int:
    """Raise the soft limit of open files to the hard one, as far as the system grants it; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if limit == resource.RLIM_INFINITY else limit


def clients_that_fit(wanted: int, limit: int, with_rest: bool) -> tuple[int, int]:
    """Return the connections to allow on the Redis port and on REST; warn if they are fewer than wanted."""
    room = max(limit - RESERVED_DESCRIPTORS, 2)
    rest = min(wanted, max(room // REST_SHARE, 1)) if with_rest else 0
    clients = max(min(wanted, room - rest), 1)
    if clients < wanted:
        log.warning(
            "max-clients is %d instead of %d: at most %d files may be open, of which %d are kept back and %d are for "
            "REST; raise the limit (ulimit -n, LimitNOFILE= of systemd)",
            clients, wanted, limit, RESERVED_DESCRIPTORS, rest,
        )  # fmt: skip
    return clients, rest
