"""Serves with Lemur's own server on transformers: light to install, runs anywhere, for one device."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from lemur.serving.process import free_port, server_process
from lemur.serving.runtime import Runtime


class TransformersRuntime(Runtime):
    """`lemur.serving.server` in a process of its own."""

    kind: Literal["transformers"]
    dtype: Literal["float32", "bfloat16"] | None = None
    """Arithmetic; `None` takes bfloat16 on a GPU and float32 on a CPU."""
    max_requests: PositiveInt = 32
    """Most answers made at a time; more wait. Each takes memory for its keys and values."""
    ready_seconds: PositiveInt = 600
    """How long the server may take to load the model."""

    def command(self, model: Path, *, name: str, host: str, port: int) -> list[str]:
        """Returns the command line of `lemur.serving.server`."""
        command = [sys.executable, "-m", "lemur.serving.server", "--model", str(model), "--name", name]
        command += ["--host", host, "--port", str(port), "--max-requests", str(self.max_requests)]
        if self.max_length is not None:
            command += ["--max-length", str(self.max_length)]
        if self.dtype is not None:
            command += ["--dtype", self.dtype]
        return command

    @contextmanager
    def serving(self, model: Path, *, name: str, log: Path) -> Iterator[str]:
        """Serves on a free loopback port while the context lasts."""
        port = free_port()
        command = self.command(model, name=name, host="127.0.0.1", port=port)
        with server_process(command, name=name, port=port, log=log, ready_seconds=self.ready_seconds):
            yield f"http://127.0.0.1:{port}/v1"
