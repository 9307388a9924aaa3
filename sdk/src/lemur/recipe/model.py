"""The model section: which model is made, and from what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from lemur.plugins import Section
from lemur.recipe.names import Seed


class Architecture(Section):
    """Sizes of a Llama decoder. They size the plan, and for a random start they make the model."""

    hidden_size: PositiveInt
    """Width of the residual stream."""
    intermediate_size: PositiveInt
    """Width inside the gated feed-forward layers."""
    num_layers: PositiveInt
    """Decoder layers."""
    num_heads: PositiveInt
    """Query heads; must divide the hidden size."""
    num_kv_heads: PositiveInt
    """Key and value heads; must divide the query heads. Fewer of them shrink the KV cache."""
    max_position: PositiveInt
    """Longest sequence, in tokens, that the rotary embedding is made for."""
    rope_theta: PositiveFloat = 10_000.0
    """Base of the rotary embedding; 10,000 is Llama 2's."""
    tie_embeddings: bool = False
    """Whether input and output embeddings are one matrix. Llama 2 keeps two; small models save one."""

    @model_validator(mode="after")
    def _divides(self) -> Architecture:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        return self


class RandomStart(Section):
    """Weights drawn at random."""

    kind: Literal["random"]
    seed: Seed = 0
    """Seed of the draw."""


class PretrainedStart(Section):
    """Weights of an existing model: a Hugging Face repository, a local folder, or a Lemur checkpoint."""

    kind: Literal["pretrained"]
    name: str
    """Repository (`meta-llama/Llama-2-70b-hf`), path, or storage URI."""
    revision: str | None = None
    """Commit or tag of the repository; required for a result that can be repeated, `None` takes the newest."""


class TrainedTokenizer(Section):
    """A byte-level BPE learned from the run's own documents."""

    kind: Literal["train"]
    vocab_size: PositiveInt = 4096
    """Entries, special tokens included. Small, because a small model spends most parameters on them."""
    sample_bytes: PositiveInt = 8_000_000
    """How much text it learns from, taken from the sources by weight; more is slower and changes little."""


class PretrainedTokenizer(Section):
    """The tokenizer of an existing model."""

    kind: Literal["pretrained"]
    name: str
    """Repository, path, or storage URI."""
    revision: str | None = None
    """Commit or tag of the repository; `None` takes the newest."""
    vocab_size: PositiveInt
    """Its number of entries, so that a plan needs no download; checked when it is loaded."""


class ModelSection(Section):
    """Which model is made, and from what."""

    start: Annotated[RandomStart | PretrainedStart, Field(discriminator="kind")]
    """Where the weights come from."""
    architecture: Architecture
    """Sizes; for a pretrained start they must be the ones of that model, which is checked when it is loaded."""
    tokenizer: Annotated[TrainedTokenizer | PretrainedTokenizer, Field(discriminator="kind")]
    """How text becomes tokens."""
