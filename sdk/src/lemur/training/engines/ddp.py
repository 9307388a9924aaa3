"""Distributed data parallelism of PyTorch: every process keeps a whole copy of everything."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lemur.training.engine import Arithmetic, Engine, Processes, StageSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer

    from lemur.training.state import TrainingState


class DdpEngine(Engine):
    """Copies of everything in every process; the simplest, and the fastest where a model fits."""

    kind: Literal["ddp"]

    @property
    def divides(self) -> Literal[0]:
        """Nothing is divided."""
        return 0

    def arguments(self, section: StageSettings, arithmetic: Arithmetic, processes: Processes) -> dict[str, Any]:
        """Returns the arguments of the process group; gradients are cast automatically."""
        return {"bf16": arithmetic != "float32", "ddp_find_unused_parameters": False, "ddp_broadcast_buffers": False}

    def load(self, folder: Path, arithmetic: Arithmetic) -> PreTrainedModel:
        """Loads the whole model in float32."""
        from lemur.training.models import load_model

        return load_model(folder)

    def state(self, trainer: Trainer) -> TrainingState:
        """Returns whole parameters; each process writes an equal share of them."""
        from lemur.training.state.sharded import ShardedState

        return ShardedState(trainer)
