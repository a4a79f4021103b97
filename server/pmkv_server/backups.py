"""Backups that clients request: below the server's backup directory, one at a time, in a thread of their own."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Any

from pmkv.errors import InvalidError

log = logging.getLogger("pmkv.server")

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")


class ServerBackups:
    """Writes backups to places below `place`, a directory or a URL; with none, every request is refused."""

    def __init__(self, place: str) -> None:
        self._place = place
        self.name = ""  # of the backup under way
        self.done = self.total = 0  # entries looked at, and of how many
        self.last_error = ""
        self.last_at = 0  # unix ms when the last one was complete

    def place_of(self, name: str) -> str:
        """Return the place of the backup `name`. InvalidError: there is no backup directory, or this is no name."""
        if not self._place:
            raise InvalidError(
                "this server has no backup directory: start it with --backup-dir PLACE (PMKV_BACKUP_DIR)"
            )
        if not NAME.fullmatch(name):
            raise InvalidError(f"{name!r} cannot name a backup: letters, digits, _ . : and -, at most 128")
        return f"{self._place.rstrip('/')}/{name}"

    def begin(
        self, store: Any, name: str, view: str | None, since: str | None, ended: Callable[[Any, Exception | None], None]
    ) -> None:
        """Begin a backup. ended: called at the end, in its thread, with its report or with the error."""
        target = self.place_of(name)
        earlier = self.place_of(since) if since is not None else None
        run = self._run
        threading.Thread(
            target=run, args=[store, name, target, view, earlier, ended], name="pmkv-backup", daemon=True
        ).start()

    def _run(
        self,
        store: Any,
        name: str,
        target: str,
        view: str | None,
        since: str | None,
        ended: Callable[[Any, Exception | None], None],
    ) -> None:
        def progress(done: int, total: int) -> None:
            self.name, self.done, self.total = name, done, total

        report, problem = None, None
        try:
            report = store.backup(target, view, since, progress=progress)
            self.last_at, self.last_error = int(time.time() * 1000), ""
            log.info("backup %s: %d entries, %d bytes in %.1f s", target, report.entries, report.bytes, report.seconds)
        except Exception as error:  # whatever it is, the client is told
            problem, self.last_error = error, str(error)
            log.warning("the backup %s failed: %s", target, error)
        self.name, self.done, self.total = "", 0, 0
        ended(report, problem)
