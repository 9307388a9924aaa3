"""The data section: what the model reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from lemur.plugins import OneOf, Section
from lemur.recipe.names import Seed

if TYPE_CHECKING:
    from lemur.data.source import Source
else:
    # The folder is named, not imported: a recipe holds whatever variants it has.
    Source = Annotated[Any, OneOf("lemur.data.sources")]


class DataSection(Section):
    """What the model reads: the pretraining mixture and the dialogues for tuning."""

    sources: Annotated[list[Source], Field(min_length=1)]
    """Documents for pretraining. A source's share is its `weight` within its `group`."""
    groups: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Weight of each group, for example `{code: 10, text: 1}`; empty where the sources name no group."""
    sequence_length: PositiveInt
    """Tokens in one training sequence."""
    packing: Literal["concatenate"] = "concatenate"
    """How documents fill sequences: `concatenate` joins them with an end-of-text token and cuts, as the paper did."""
    heldout_fraction: Annotated[float, Field(ge=0, lt=0.5)] = 0.01
    """Share of each source's documents kept from training and used to measure bits per byte. Chosen by the
    document's digest, so that a document stays on its side whatever else changes."""
    heldout_max_bytes: PositiveInt = 200_000
    """At most so much held-out text for each source; what is beyond goes back to training."""
    shard_tokens: PositiveInt = 16_777_216
    """Tokens in one stored shard."""
    seed: Seed = 0
    """Seed of the order in which sequences are read."""
    dialogues: list[Source] = Field(default_factory=list)
    """Dialogues for tuning, records with `messages` or with `prompt` and `completion`; their `weight` is the
    number of times each is repeated in an epoch."""

    @model_validator(mode="after")
    def _names_and_groups(self) -> DataSection:
        for role, sources in (("sources", self.sources), ("dialogues", self.dialogues)):
            names = [source.name for source in sources]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two {role} have the name {twice[0]!r}; names must differ")
        used = {source.group for source in self.sources if source.group}
        if self.groups or used:
            loose = [source.name for source in self.sources if not source.group]
            if loose:
                raise ValueError(f"source {loose[0]!r} names no group; groups: {', '.join(sorted(self.groups)) or '-'}")
            if used != set(self.groups):
                raise ValueError(
                    f"groups with a weight ({', '.join(sorted(self.groups)) or '-'}) and groups named by sources "
                    f"({', '.join(sorted(used))}) must be the same"
                )
        return self
