"""Benchmark of storage: `python -m benchmarks.storage`."""
