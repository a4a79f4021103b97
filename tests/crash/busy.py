"""A server that takes a checkpoint every few frames and folds every second run, so that one is always under way when it
is killed: `python -m tests.crash.busy serve ...`."""

from __future__ import annotations

from pmkv.maintenance import compaction_policy as fold
from pmkv.maintenance import scheduler
from pmkv.runtime import background
from pmkv_server.cli import main

if __name__ == "__main__":
    scheduler.CHECKPOINT_DUE_S, fold.TIER, fold.MOST = 0.002, 2, 4
    background.lower_priority = lambda nice: None  # else it would wait for the writers, who never rest
    main()
