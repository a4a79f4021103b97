"""One tree of errors. Every message is written for the person who reads it: what was wrong, where, what to do."""

from __future__ import annotations


class PmkvError(Exception):
    """The root: everything that pmkv raises on purpose."""


class CorruptionError(PmkvError):
    """Bytes that were acknowledged are damaged; the message names the place."""


class FullError(PmkvError):
    """The pool, or the disk below it, has no room; what was stored stays readable, deletes stay possible."""


class ConflictError(PmkvError):
    """Something else was written meanwhile; nothing was changed."""


class AbortedError(PmkvError):
    """A write was interrupted, so that what belongs to it is not written; try again."""


class ClosedError(PmkvError):
    """The store was closed, or belongs to the parent of this forked process."""


class ReadOnlyError(PmkvError):
    """The store (or the view) takes no writes."""


class FlushError(PmkvError):
    """The medium refused to make a write durable: whether it survives is not known, and the store takes no more
    writes."""


class LockedError(PmkvError):
    """Another process has the data directory open."""


class FormatError(PmkvError):
    """The data directory was written by another version of the format, or its files do not belong together."""


class UnknownNameError(PmkvError, LookupError):
    """No table or view has this name."""


class UnknownViewError(UnknownNameError):
    """No view has this name, or the view was deleted."""


class ExistsError(PmkvError):
    """The name is taken."""


class InvalidError(PmkvError, ValueError):
    """An argument has the wrong shape, dtype, size or form."""
