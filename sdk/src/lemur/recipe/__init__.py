"""What a run may say: the recipe, one section for each stage.

A recipe is a YAML file; `lemur.recipe_file.load_recipe` reads it. Everything a stage does is written here or
is a default stated here; a stage receives its own section and nothing else, so that changing how a model is
evaluated never trains it again.
"""

from __future__ import annotations

from pydantic import model_validator

from lemur.plugins import Section
from lemur.recipe.data import DataSection
from lemur.recipe.evaluation import EvaluationSection, GateSection, Rule
from lemur.recipe.hardware import Accelerator, HardwareSection, ServingSection
from lemur.recipe.model import (
    Architecture,
    ModelSection,
    PretrainedStart,
    PretrainedTokenizer,
    RandomStart,
    TrainedTokenizer,
)
from lemur.recipe.names import Fraction, Name, Seed
from lemur.recipe.training import (
    AdapterTuning,
    FinetuneSection,
    FullTuning,
    LoraTuning,
    PretrainSection,
    QloraTuning,
    SpikeLimits,
)

__all__ = [
    "Accelerator",
    "AdapterTuning",
    "Architecture",
    "DataSection",
    "EvaluationSection",
    "FinetuneSection",
    "Fraction",
    "FullTuning",
    "GateSection",
    "HardwareSection",
    "LoraTuning",
    "ModelSection",
    "Name",
    "PretrainSection",
    "PretrainedStart",
    "PretrainedTokenizer",
    "QloraTuning",
    "RandomStart",
    "Recipe",
    "Rule",
    "Seed",
    "ServingSection",
    "SpikeLimits",
    "TrainedTokenizer",
]


class Recipe(Section):
    """One complete run, from raw text to a served model."""

    name: Name
    """Name of the run and of its release: lower-case letters, digits and dashes, at most 40."""
    storage: str
    """Where results live: `s3://bucket/prefix`, `file:///path`, or a path, which is taken from the folder the
    command runs in."""
    model: ModelSection
    data: DataSection
    pretrain: PretrainSection
    finetune: FinetuneSection
    evaluation: EvaluationSection
    gate: GateSection
    serving: ServingSection
    hardware: HardwareSection

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.data.sequence_length > self.model.architecture.max_position:
            raise ValueError(
                f"data.sequence_length {self.data.sequence_length} is longer than "
                f"model.architecture.max_position {self.model.architecture.max_position}"
            )
        if self.finetune.max_length > self.model.architecture.max_position:
            raise ValueError(
                f"finetune.max_length {self.finetune.max_length} is longer than "
                f"model.architecture.max_position {self.model.architecture.max_position}"
            )
        sequences, rest = divmod(self.pretrain.batch_tokens, self.data.sequence_length)
        devices = self.hardware.num_nodes * self.hardware.devices_per_node
        for name, section in (("pretrain", self.pretrain), ("finetune", self.finetune)):
            problems = section.engine.problems(section, devices)
            if problems:
                raise ValueError("; ".join(f"{name}: {problem}" for problem in problems))
        readers = devices // self.pretrain.engine.tensor_parallel_size
        if rest or sequences % (readers * self.pretrain.micro_batch_sequences):
            raise ValueError(
                f"pretrain.batch_tokens {self.pretrain.batch_tokens} must be a multiple of sequence_length "
                f"{self.data.sequence_length} x {readers} devices with sequences of their own x micro_batch_sequences "
                f"{self.pretrain.micro_batch_sequences}"
            )
        listed = {benchmark.kind for benchmark in self.evaluation.benchmarks}
        for rule in self.gate.rules:
            if rule.benchmark not in listed:
                raise ValueError(
                    f"gate rule on benchmark {rule.benchmark!r}, which evaluation.benchmarks does not list; "
                    f"listed: {', '.join(sorted(listed))}"
                )
        return self
