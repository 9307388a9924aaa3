"""The speed of training, side by side with the plain libraries: `python -m benchmarks.train --help`."""
