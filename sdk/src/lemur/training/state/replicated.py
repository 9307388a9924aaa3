"""The state where every process keeps a whole copy of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from lemur.training.state.base import Stretch, TrainingState

if TYPE_CHECKING:
    from transformers import Trainer


class ReplicatedState(TrainingState):
    """Whole parameters; process p of n writes the p-th n-th of each.

    Args:
        trainer: The Trainer, with model and optimizer prepared.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def held(self) -> Sequence[Stretch]:
        """Returns every weight and moment, whole."""
        raise NotImplementedError

    def owned(self) -> Sequence[Stretch]:
        """Returns this process's share of each."""
        raise NotImplementedError

    def restored(self, step: int) -> None:
        """Sets the optimizer's count of steps."""
        raise NotImplementedError
