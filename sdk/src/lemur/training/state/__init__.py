"""The state that training changes, as named stretches of numbers, for every engine alike."""

from lemur.training.state.base import PARTS, Part, Runs, Stretch, TrainingState

__all__ = ["PARTS", "Part", "Runs", "Stretch", "TrainingState"]
