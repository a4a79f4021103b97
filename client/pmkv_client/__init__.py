"""The client of pmkv: redis-py with views, and with tables of embeddings and features as NumPy arrays."""

from .aio import AsyncClient, AsyncTable, connect_async
from .requests import ConflictError, NoViewError, StaleTableError, TableInfo, ViewInfo
from .sync import Client, Table, connect

__all__ = [
    "AsyncClient",
    "AsyncTable",
    "Client",
    "ConflictError",
    "NoViewError",
    "StaleTableError",
    "Table",
    "TableInfo",
    "ViewInfo",
    "connect",
    "connect_async",
]
