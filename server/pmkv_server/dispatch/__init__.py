"""Serve the commands of all connections: ticks, the fast path, workers, and replies that wait to become durable."""
