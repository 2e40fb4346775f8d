"""Files on disk and on the hub: JSON rows, parquet, training pairs, user images."""
