"""The client of pmkv: redis-py with tables of embeddings and features in NumPy arrays."""

from .client import AsyncClient, Client, connect, connect_async
from .protocol import StaleTableError, TableInfo
from .table import AsyncTable, Table

__all__ = ["AsyncClient", "AsyncTable", "Client", "StaleTableError", "Table", "TableInfo", "connect", "connect_async"]
