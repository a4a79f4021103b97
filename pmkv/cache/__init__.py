"""Hot rows in DRAM, and batches of reads that wait for the disk once."""
