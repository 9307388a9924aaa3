"""How the processes of a job share a model: one file for each engine in `engines/`."""

from __future__ import annotations

import os
from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from lemur.plugins import Plugin

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from transformers import PreTrainedModel, Trainer

    from lemur.training.state import TrainingState

Arithmetic = Literal["float32", "bfloat16", "float8"]
"""What the forward and backward pass compute in."""


class StageSettings(Protocol):
    """What an engine looks at of the recipe's section for a stage that trains."""

    @property
    def precision(self) -> Arithmetic:
        """Arithmetic of the passes that the recipe asks for."""

    @property
    def learning_rate(self) -> float:
        """Peak learning rate."""

    @property
    def adam_betas(self) -> tuple[float, float]:
        """Decay of Adam's two moments."""

    @property
    def weight_decay(self) -> float:
        """Decoupled weight decay."""


class Processes(NamedTuple):
    """The processes of a job."""

    num_processes: int
    """All of them."""
    on_cpu: bool
    """Whether they compute on processors rather than GPUs."""

    @classmethod
    def here(cls) -> Processes:
        """Returns the processes of the job that this process belongs to."""
        import torch

        return cls(int(os.environ.get("WORLD_SIZE", "1")), not torch.cuda.is_available())


class Engine(Plugin, abstract=True):
    """Divides a model's weights, gradients and optimizer over processes, by the means of a library."""

    @property
    @abstractmethod
    def divides(self) -> Literal[0, 1, 2, 3]:
        """What is divided, in ZeRO's count: 1 the optimizer, 2 gradients too, 3 weights too; 0 copies everything."""

    @property
    def tensor_parallel_size(self) -> int:
        """Processes that share each sequence; the others see different ones."""
        return 1

    @property
    def lower_precision(self) -> Literal["cast", "gathered", "kept"]:
        """How weights become bfloat16: at each operation, with each layer, or for good, with float32 copies beside."""
        return "cast"

    @property
    def offloads(self) -> Literal["none", "optimizer", "all"]:
        """What is kept in main memory rather than on the device: the optimizer, or weights too."""
        return "none"

    def problems(self, section: StageSettings, num_processes: int) -> list[str]:
        """Lists what a recipe asks and the engine cannot do, each a sentence with the remedy.

        Args:
            section: Settings of the stage.
            num_processes: Processes of the job.
        """
        return []

    def local_problems(self, processes: Processes) -> list[str]:
        """Lists what the machine of this process lacks for the engine, each a sentence with the remedy."""
        return []

    @abstractmethod
    def arguments(self, section: StageSettings, arithmetic: Arithmetic, processes: Processes) -> dict[str, Any]:
        """Returns the engine's keyword arguments for `TrainingArguments`.

        Called before anything of the process group exists, so an engine may also set its library's variables here.

        Args:
            section: Settings of the stage.
            arithmetic: What this machine computes in.
            processes: The processes of the job.
        """

    @abstractmethod
    def load(self, folder: Path, arithmetic: Arithmetic) -> PreTrainedModel:
        """Loads a stored model for training, divided over the processes where the engine divides weights.

        Every process calls it, after the process group and the Trainer's arguments were made.

        Args:
            folder: Folder of the model's files.
            arithmetic: What this machine computes in.
        """

    def optimizer(self, section: StageSettings) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
        """Returns class and keyword arguments of another optimizer than PyTorch's fused AdamW, where one is needed.

        Raises:
            RecipeError: It cannot be had on this machine.
        """
        return None

    @abstractmethod
    def state(self, trainer: Trainer) -> TrainingState:
        """Returns this process's view of the state, once the Trainer has prepared model and optimizer."""

    def gathered(self, parameters: Sequence[torch.nn.Parameter]) -> AbstractContextManager[Sequence[torch.Tensor]]:
        """Returns a context in which parameters are whole, wherever their parts are; collective."""
        return nullcontext(parameters)


def tuning_method(section: StageSettings) -> str:
    """Returns which weights a stage changes: `full`, or the kind of adapters."""
    method = getattr(section, "method", None)
    return method.kind if method else "full"
