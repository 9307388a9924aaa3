"""Lemur: a recipe goes in, a served language agent comes out.

Importing the package is cheap: nothing here imports torch, kfp or transformers. The command line is
[lemur.cli][], the Python entry point is [lemur.client.Client][].
"""

__version__ = "0.1.0"
