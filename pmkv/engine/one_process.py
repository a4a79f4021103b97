"""Objects of an open store belong to the process that opened it: pickling and copying them gives advice."""

from __future__ import annotations

from typing import NoReturn, SupportsIndex


class OneProcess:
    """The base class of stores, views, tables, keyspaces and transactions."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Raise TypeError: the object cannot be pickled or copied."""
        raise TypeError(
            f"a {type(self).__name__} of an open store cannot be pickled or copied: it belongs to the process that "
            "opened the store. In another process call pmkv.open(path, readonly=True), or serve the store and use "
            "pmkv_client.connect(url), whose clients and tables can be pickled; in this one use the same object"
        )
