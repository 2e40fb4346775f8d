"""Benchmarks for the README's tables of speed and memory: `python -m train.bench`."""
