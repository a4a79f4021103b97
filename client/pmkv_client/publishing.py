"""Publishing a model: a branch is loaded, verified and checked, then promoted, watched, and rolled back if that fails.

Nothing of it is visible in `main` before the promote, which takes one frame of the log; neither is a failure.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import redis

from .deltas import SUFFIX, import_delta
from .file_formats.batches import FileError
from .loaders import FileOptions, Progress, import_files, verify
from .requests import MAIN, ConflictError
from .sync import RAW, Client

BRANCH_PREFIX = "publish-"  # of the branches that are loaded
Check = Callable[[str], bool]  # says of a view, by its name, whether the model is good


class CheckFailedError(RuntimeError):
    """A check refused a model. The message says whether `main` ever had it, and what it has now."""


@dataclass(frozen=True)
class Plan:
    """A description of what is published. dense: files by key, such as the dense part of a model, which become values
    of keyspace `db`; verified: how many rows are compared with the files, None for all; watch: seconds for which the
    check is repeated after the promote, every `every` seconds; keep: leave the branch of a failed publish."""

    table: str
    paths: Sequence[Path | str]
    options: FileOptions | None = None
    dense: Mapping[str, Path] | None = None
    db: int = 1
    verified: int | None = 1000
    watch: float = 0.0
    every: float = 5.0
    force: bool = False
    keep: bool = False


@dataclass(frozen=True)
class Published:
    """The outcome of a publish. version: how often `main` was promoted or rolled back then."""

    rows: int
    verified: int
    version: int
    seconds: float


def publish(client: Client, plan: Plan, check: Check | None = None, progress: Progress | None = None) -> Published:
    """Publish files as one version of `main`. check: asked of the branch before the promote, and of `main` after it.

    CheckFailedError: a check failed; `main` has what it had before. ConflictError: `main` wrote to the table since, and
    nothing was changed."""
    began, branch = time.monotonic(), f"{BRANCH_PREFIX}{time.time_ns():x}"
    client.branch(branch).close()
    try:
        rows, compared = _load(client, branch, plan, progress)
        if check is not None and not check(branch):
            raise CheckFailedError(f"the check refused branch {branch}: `main` was not changed")
        client.promote(branch, force=plan.force)
        version = client.version[0]
    except BaseException:
        if not plan.keep:
            with contextlib.suppress(redis.RedisError):  # what went wrong first is what is told
                client.delete_view(branch)
        raise
    client.delete_view(branch)
    if check is not None:
        _watch(client, plan, check, version)
    return Published(rows, compared, version, time.monotonic() - began)


def branches_left(client: Client) -> list[str]:
    """Return the branches of publishes that are under way, or were killed: what those wrote takes space."""
    return [name for name, view in client.views().items() if view.kind == "branch" and name.startswith(BRANCH_PREFIX)]


def _load(client: Client, branch: str, plan: Plan, progress: Progress | None) -> tuple[int, int]:
    """Load and verify a branch; return how many rows it has, and how many of them were compared."""
    with client.view(branch) as view:
        if all(str(path).endswith(SUFFIX) for path in plan.paths):
            done = [import_delta(view, path, table=plan.table, progress=progress) for path in plan.paths]
            rows = compared = sum(
                one.changed + one.deleted for one in done
            )  # files are checked before they are applied
        else:
            rows = import_files(view, plan.table, plan.paths, plan.options, progress=progress).rows
            if not rows and not plan.dense:
                raise FileError(f"{', '.join(map(str, plan.paths))}: no rows are there, and nothing was published")
            compared = verify(view, plan.table, plan.paths, plan.options, sample=plan.verified, progress=progress)
    if plan.dense:
        _put_dense(client, branch, plan.db, plan.dense)
    return rows, compared


def _put_dense(client: Client, branch: str, db: int, dense: Mapping[str, Path]) -> None:
    """Put files as values of a keyspace of the branch, and read them back."""
    with client.view(branch) as view, view.pipeline(transaction=False) as pipe:
        for key, path in dense.items():
            content = Path(path).read_bytes()
            pipe.execute_command("SELECT", db)
            pipe.execute_command("SET", key, content)
            pipe.execute_command("GET", key, **RAW)
            if pipe.execute()[2] != content:
                raise FileError(f"{path}: key {key!r} of branch {branch} has not what the file has")


def _watch(client: Client, plan: Plan, check: Check, version: int) -> None:
    """Repeat the check, and undo the promote when it fails."""
    end = time.monotonic() + plan.watch
    while True:
        if not check(MAIN):
            _undo(client, version)
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(plan.every, left))


def _undo(client: Client, version: int) -> None:
    if client.version[0] != version:
        raise CheckFailedError(
            "the check failed after the promote, and `main` was promoted or rolled back again since: nothing was undone"
        )
    try:
        client.undo()
    except ConflictError as problem:
        raise CheckFailedError(
            f"the check failed after the promote, and an undo would drop writes: {problem}"
        ) from None
    raise CheckFailedError("the check failed after the promote: `main` has what it had before again")
