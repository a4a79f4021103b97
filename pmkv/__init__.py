"""pmkv: crash-consistent storage for online features and embeddings.

`open` gives a store; `errors` are what it raises. Importing this is light: the engine loads when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "BytesArray",
    "Keyspace",
    "Spans",
    "Stats",
    "Store",
    "Table",
    "View",
    "ViewInfo",
    "Watch",
    "WaveFound",
    "WaveRecords",
    "errors",
    "open",
    "restore",
    "run_wave",
]

if TYPE_CHECKING:
    from . import errors
    from .engine.byte_batch import BytesArray
    from .engine.byte_batch import BytesArray as Spans
    from .engine.keyspace import Keyspace
    from .engine.table import Table
    from .engine.watches import Watch
    from .engine.wave import WaveFound, WaveRecords, run_wave
    from .stats import Stats
    from .store import Store
    from .store import open_store as open
    from .tools.restore import restore
    from .versions.view_set import ViewInfo
    from .view import View

_PLACES = {
    "open": ("store", "open_store"),
    "Store": ("store", "Store"),
    "Stats": ("stats", "Stats"),
    "Table": ("engine.table", "Table"),
    "Keyspace": ("engine.keyspace", "Keyspace"),
    "BytesArray": ("engine.byte_batch", "BytesArray"),
    "Spans": ("engine.byte_batch", "BytesArray"),
    "View": ("view", "View"),
    "Watch": ("engine.watches", "Watch"),
    "run_wave": ("engine.wave", "run_wave"),
    "WaveFound": ("engine.wave", "WaveFound"),
    "WaveRecords": ("engine.wave", "WaveRecords"),
    "restore": ("tools.restore", "restore"),
    "ViewInfo": ("versions.view_set", "ViewInfo"),
}


def __getattr__(name: str) -> Any:
    # import_module, not `from . import`, which would ask this function for the submodule first
    if name in _PLACES:
        module, attribute = _PLACES[name]
        return getattr(import_module(f"pmkv.{module}"), attribute)
    if name.endswith("Error"):
        found = getattr(import_module("pmkv.errors"), name, None)
        if found is not None:
            return found
    raise AttributeError(f"module 'pmkv' has no attribute {name!r}")
