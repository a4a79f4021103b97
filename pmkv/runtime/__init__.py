"""Everything about the process rather than the data: compilation, scheduling, background threads, sizes."""
