"""What a training process is told: one JSON object in storage, which every process of the job reads.

It stands in storage and not in a local file, so that the processes find it wherever a backend starts them.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict

from lemur.progress import emit
from lemur.receipt import Receipt
from lemur.recipe import FinetuneSection, ModelSection, PretrainSection
from lemur.results import find_result
from lemur.reuse import damaged_objects
from lemur.storage import open_storage

StoredType = Literal["float32", "bfloat16"]
"""Type that weights are stored in."""


class TrainingDescription(BaseModel):
    """What pretraining and tuning have in common."""

    model_config = ConfigDict(frozen=True)

    storage: str
    """Root URI of the recipe's storage."""
    key: str
    """Key of the result."""
    peak_flops: float
    """Peak of one device in floating-point operations a second, for the utilisation."""

    @property
    def prefix(self) -> str:
        """Prefix of the result below the storage's root."""
        return checkpoint_prefix(self.key)

    @property
    def _name(self) -> str:
        return f"jobs/{self.key[:16]}.json"

    def result(self) -> Receipt | None:
        """Returns the finished result, or `None` while there is none."""
        return whole_result(self.storage, self.key)

    def save(self) -> str:
        """Writes the description to storage and returns its URI."""
        storage = open_storage(self.storage)
        storage.write(self._name, self.model_dump_json(indent=2).encode())
        return storage.uri_of(self._name)

    def forget(self) -> None:
        """Deletes what `save` wrote."""
        open_storage(self.storage).delete(self._name)

    @classmethod
    def load(cls, uri: str) -> Self:
        """Reads a description that `save` wrote."""
        folder, _, name = uri.rpartition("/")
        return cls.model_validate_json(open_storage(folder).read(name))


class PretrainingDescription(TrainingDescription):
    """A pretraining job."""

    model: ModelSection
    """The model section."""
    section: PretrainSection
    """The pretrain section."""
    tokens: Receipt
    """The token mixture."""
    initial_key: str
    """Key of the model before training."""

    @property
    def sequence_length(self) -> int:
        """Tokens in one sequence of the mixture."""
        return int(self.tokens.metadata["sequence_length"])

    @property
    def batch_sequences(self) -> int:
        """Sequences in one optimizer step."""
        return self.section.batch_tokens // self.sequence_length

    @property
    def num_steps(self) -> int:
        """Optimizer steps: the section's tokens, rounded up to whole batches."""
        return -(-self.section.tokens // self.section.batch_tokens)


class FinetuningDescription(TrainingDescription):
    """A tuning job."""

    section: FinetuneSection
    """The finetune section."""
    base: Receipt
    """The model that is tuned."""
    dialogues: Receipt
    """The dialogues."""


def whole_result(storage: str, key: str) -> Receipt | None:
    """Returns the model of that key; one with missing or truncated objects counts as none, and is named."""
    found = find_result(storage, checkpoint_prefix(key))
    damaged = damaged_objects(found) if found else []
    if damaged:
        emit("note", text=f"{storage}/{checkpoint_prefix(key)}/{damaged[0]} is damaged; making the model again")
        return None
    return found


def checkpoint_prefix(key: str) -> str:
    """Returns where a model of that key stands below the storage's root."""
    return f"checkpoints/{key[:16]}"


def stored_type(section: PretrainSection | FinetuneSection) -> StoredType:
    """Returns the type that a stage's model is stored in; float8 is a way to compute and not to store."""
    return "float32" if section.precision == "float32" else "bfloat16"
