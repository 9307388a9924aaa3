"""Benchmark of the data engine: `python -m benchmarks.data`."""
