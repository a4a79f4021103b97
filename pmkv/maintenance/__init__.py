"""Checkpoints and compactions: memtables become runs, and runs are merged."""
