"""Benchmark of resumable checkpoints: `python -m benchmarks.checkpoints`."""
