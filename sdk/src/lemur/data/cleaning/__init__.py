"""What is left out of the sources: copies, near copies, and documents that hold parts of benchmarks."""
