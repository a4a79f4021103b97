"""The engine: views of keyspaces and tables over one log. It is synchronous and starts no threads."""
