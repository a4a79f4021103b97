"""Versions: layers of what was written, the views that show them, the index stack that reads them."""
