"""Files on disk and on the hub: rows, parquet, pairs to train on, images that people hand over."""
