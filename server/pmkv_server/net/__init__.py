"""Connections: receive bytes, keep per-connection state, send replies."""
