"""The dispatcher: executes what has arrived on all connections, one tick at a time."""
