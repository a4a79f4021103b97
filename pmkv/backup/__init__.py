"""Backups: pieces of entries with checksums in a directory or an object store, and the manifest that names them."""
