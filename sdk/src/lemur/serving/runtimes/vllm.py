"""Serves with vLLM: large models, several GPUs, many users."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from lemur.errors import ServingError
from lemur.serving.process import free_port, server_process
from lemur.serving.runtime import Runtime


class VllmRuntime(Runtime):
    """vLLM's OpenAI-compatible server in a process of its own."""

    kind: Literal["vllm"]
    tensor_parallel_size: PositiveInt = 1
    """GPUs that share each layer; must divide the attention heads."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of each GPU's memory for weights and KV cache; 0.9 is vLLM's own default."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """Arithmetic; `auto` takes what the weights are stored in."""
    extra_arguments: list[str] = Field(default_factory=list)
    """Further arguments of vLLM, one entry for each word, for example `[--enable-prefix-caching]`."""
    ready_seconds: PositiveInt = 1800
    """How long the server may take to load, compile and warm up."""

    def command(self, model: Path, *, name: str, host: str, port: int) -> list[str]:
        """Returns the command line of vLLM's API server."""
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(model), "--served-model-name", name, "--host", host, "--port", str(port)]
        command += ["--tensor-parallel-size", str(self.tensor_parallel_size)]
        command += ["--gpu-memory-utilization", str(self.gpu_memory_utilization), "--dtype", self.dtype]
        if self.max_length is not None:
            command += ["--max-model-len", str(self.max_length)]
        return [*command, *self.extra_arguments]

    def check_installed(self) -> None:
        """Refuses where vLLM is not installed."""
        if importlib.util.find_spec("vllm") is None:
            raise ServingError(
                "the model server vLLM is not installed: `pip install vllm` on a machine with a GPU, or choose the "
                "runtime `transformers`, in a recipe `serving: {runtime: {kind: transformers}}`"
            )

    @contextmanager
    def serving(self, model: Path, *, name: str, log: Path) -> Iterator[str]:
        """Serves on a free loopback port while the context lasts."""
        self.check_installed()
        port = free_port()
        command = self.command(model, name=name, host="127.0.0.1", port=port)
        with server_process(command, name=name, port=port, log=log, ready_seconds=self.ready_seconds):
            yield f"http://127.0.0.1:{port}/v1"
