"""Benchmarks for the tables of docs/benchmarks.md: `python -m train.bench`."""
