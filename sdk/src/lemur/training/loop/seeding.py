"""Randomness in training that follows from the seed, the step and the process alone."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lemur.receipt import digest_of


class Seeding(TrainerCallback):
    """Makes what is random in a step, such as dropout, follow from the seed, the step and the process alone.

    So a resumed run draws what an unbroken one draws, without any state of generators to restore.

    Args:
        seed: Seed of the stage.
        num_together: Neighbouring processes that see the same sequences, and so must draw the same.
    """

    def __init__(self, seed: int, num_together: int = 1) -> None:
        self._seed, self._num_together = seed, num_together

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seeds the generators of all devices."""
        place = args.process_index // self._num_together
        torch.manual_seed(int(digest_of([self._seed, state.global_step, place])[:15], 16))
