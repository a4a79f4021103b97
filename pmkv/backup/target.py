"""Where a backup lies: a directory, or the URL of an object store that fsspec knows.

A target is a flat set of files. A file is written once and never changed, except for the one that names the current
backup, which is replaced as a whole.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from ..catalog.lmdb_catalog import NO_ROOM
from ..errors import CorruptionError, FullError, InvalidError
from ..runtime.arguments import place_of


class Target(Protocol):
    """The files of one place. place: its path or URL, for messages and for the manifests that refer to it."""

    place: str

    def write(self, name: str, content: bytes) -> None:
        """Write a file, durably, or replace it as a whole."""

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes of a file, or those from `start` to `stop`. CorruptionError: there is no such file."""

    def names(self) -> list[str]:
        """Return the names of all files; none, if there is no such place."""

    def remove(self, name: str) -> None:
        """Remove a file; none is no error."""


def open_target(place: str | os.PathLike[str]) -> Target:
    """Return the target at a path or URL. InvalidError: fsspec is needed and not installed, or refuses the URL."""
    text = place_of(place, "the place of a backup")
    return ObjectStore(text) if "://" in text else Directory(Path(text).absolute())


def relative_place(place: str, start: str) -> str:
    """Return how a manifest at `start` names another place: relative, where both are directories."""
    if "://" in place or "://" in start:
        return place
    return os.path.relpath(place, start)


def absolute_place(place: str, start: str) -> str:
    """Return the absolute place of a backup that a manifest at `start` names, perhaps relative to itself."""
    if "://" in place or os.path.isabs(place):
        return place
    return start if place == "." else os.path.normpath(os.path.join(start, place))


def missing(place: str, name: str) -> CorruptionError:
    """Return the error for a file that is not there."""
    return CorruptionError(f"{name} is missing in the backup {place}: it is not complete; restore another backup")


class Directory:
    """A directory as a target."""

    def __init__(self, path: Path) -> None:
        self.path, self.place = path, str(path)

    def write(self, name: str, content: bytes) -> None:
        """Write a new file, sync it, rename it and sync the directory."""
        temporary = self.path / f"{name}.new"
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path / name)
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            kind = FullError if error.errno in NO_ROOM else InvalidError
            raise kind(f"{self.path / name} cannot be written: {error.strerror}; choose another place") from error

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        try:
            with open(self.path / name, "rb") as file:
                file.seek(start)
                return file.read(-1 if stop is None else stop - start)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise missing(self.place, name) from error
        except OSError as error:
            raise CorruptionError(f"{self.path / name} cannot be read: {error.strerror}") from error

    def names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InvalidError(f"{self.path} is no directory for backups: {error.strerror}") from error

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.path / name).unlink()


class ObjectStore:
    """A place that fsspec opens: `s3://bucket/folder`, `gs://...`, `memory://...`. Each file is put as a whole."""

    def __init__(self, url: str) -> None:
        self.place = url.rstrip("/")
        try:
            fsspec: Any = import_module("fsspec")
        except ImportError as error:
            raise InvalidError(f"a backup at {url} needs fsspec: pip install 'pmkv[backup]'") from error
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.place)
        except (ImportError, ValueError) as error:
            raise InvalidError(f"{url} is no place for a backup: {error}") from error

    def write(self, name: str, content: bytes) -> None:
        try:
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(posixpath.join(self._root, name), content)
        except OSError as error:
            raise InvalidError(f"{self.place}/{name} cannot be written: {error}") from error

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        try:
            return bytes(self._files.cat_file(posixpath.join(self._root, name), start=start, end=stop))
        except FileNotFoundError as error:
            raise missing(self.place, name) from error
        except OSError as error:
            raise CorruptionError(f"{self.place}/{name} cannot be read: {error}") from error

    def names(self) -> list[str]:
        self._files.invalidate_cache()
        try:
            found = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        return sorted(posixpath.basename(str(path).rstrip("/")) for path in found)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.rm_file(posixpath.join(self._root, name))
