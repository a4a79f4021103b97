"""The catalog in LMDB: the committed manifest, its checksummed records, and the ordered directory of keys."""
