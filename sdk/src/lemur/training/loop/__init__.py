"""The library's training loop, and what surrounds it: callbacks, the curve, the guard, and signals."""
