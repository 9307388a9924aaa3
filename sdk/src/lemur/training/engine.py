"""How the processes of a job share a model: one file for each engine in `engines/`."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lemur.plugins import Plugin

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import PreTrainedModel, Trainer

    from lemur.recipe import FinetuneSection, PretrainSection
    from lemur.training.state import TrainingState


class Processes(NamedTuple):
    """The processes of a job."""

    num_processes: int
    """All of them."""
    on_cpu: bool
    """Whether they compute on processors rather than GPUs."""


class Engine(Plugin, abstract=True):
    """Divides a model's weights, gradients and optimizer over processes, by the means of a library."""

    @property
    @abstractmethod
    def zero_stage(self) -> Literal[0, 1, 2, 3]:
        """What is divided, in ZeRO's count: 1 the optimizer, 2 gradients too, 3 weights too; 0 copies everything."""

    @property
    def tensor_parallel_size(self) -> int:
        """Processes that share each sequence; the others see different ones."""
        return 1

    def problems(self, processes: Processes) -> list[str]:
        """Lists what these processes cannot honour, each a sentence with the remedy."""
        return []

    @abstractmethod
    def arguments(self, section: PretrainSection | FinetuneSection, processes: Processes) -> dict[str, Any]:
        """Returns the engine's keyword arguments for `TrainingArguments`."""

    @abstractmethod
    def load(self, folder: Path) -> PreTrainedModel:
        """Loads a stored model in float32 for training, divided over the processes where the engine divides weights.

        Every process calls it, after the process group and the Trainer's arguments were made.
        """

    @abstractmethod
    def state(self, trainer: Trainer) -> TrainingState:
        """Returns this process's view of the state, once the Trainer has prepared model and optimizer."""

    @abstractmethod
    def weights(self, trainer: Trainer) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields each whole float32 weight on the CPU, by name, for the export.

        Collective: every process iterates to the end; only the first one gets the tensors, the others get empty ones.
        """
