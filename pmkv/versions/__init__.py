"""What stands between what is written and what is read: chains of runs, the catalog, checkpoints, folds."""
