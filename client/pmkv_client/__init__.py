"""The client of pmkv: redis-py with tables of embeddings and features in NumPy arrays, and views."""

from .client import AsyncClient, Client, connect, connect_async
from .requests import StaleTableError, TableInfo
from .table import AsyncTable, Table
from .views import ConflictError, NoViewError, ViewInfo

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
