"""Programs over a data directory: check it, dump it, salvage what is readable."""
