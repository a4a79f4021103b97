"""Files of arrays and of columns: how they are read and written in batches, with memory bounded at any size."""
