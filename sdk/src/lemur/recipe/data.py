"""The data section: what the model reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from lemur.plugins import OneOf, Section
from lemur.recipe.names import Fraction, Seed

if TYPE_CHECKING:
    from lemur.data.source import Source
else:
    # The folder is named, not imported: a recipe holds whatever variants it has.
    Source = Annotated[Any, OneOf("lemur.data.sources")]


class NearDuplicates(Section):
    """Documents that are almost the same, found by MinHash and locality-sensitive hashing."""

    threshold: Annotated[float, Field(ge=0.5, le=1)] = 0.8
    """Jaccard similarity of two documents' n-grams from which the later one is left out."""
    ngram_words: PositiveInt = 5
    """Words in an n-gram."""
    num_permutations: Annotated[int, Field(ge=16, le=1024)] = 128
    """Hashes in a signature: more of them tell similar from almost similar more sharply, and take more room."""


class Decontamination(Section):
    """Documents that hold a part of a benchmark are left out and listed."""

    benchmarks: Annotated[dict[str, str], Field(min_length=1)]
    """File or folder with each benchmark's problems, by its name: JSON, JSONL, CSV, TSV or text, plain or compressed.
    Every text in them counts, prompts and solutions alike; transcripts of models do not belong there."""
    ngram_words: Annotated[int, Field(ge=5, le=100)] = 13
    """So many words in a row that a document and a benchmark share make it contaminated; 13 is GPT-3's choice. Case,
    punctuation and white space do not count; a text of fewer words counts as a whole, from eight words on."""


class CleaningSection(Section):
    """What is left out of the sources before they are mixed, each with its count in the receipt."""

    exact_duplicates: bool = True
    """Leave out documents whose text stands in the same or an earlier source already."""
    near_duplicates: NearDuplicates | None = None
    """Leave out documents that are almost the same as an earlier one; `None` keeps them."""
    decontamination: Decontamination | None = None
    """Leave out documents that hold parts of benchmarks; `None` looks for none."""
    max_unreadable: Fraction = 0.001
    """Share of a source's records that may be unreadable before the run stops; ten are always let pass."""


class DataSection(Section):
    """What the model reads: the pretraining mixture and the dialogues for tuning."""

    sources: Annotated[list[Source], Field(min_length=1)]
    """Documents for pretraining. A source's share is its `weight` within its `group`."""
    groups: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Weight of each group, for example `{code: 10, text: 1}`; empty where the sources name no group."""
    sequence_length: PositiveInt
    """Tokens in one training sequence."""
    packing: Literal["best_fit", "concatenate"] = "best_fit"
    """How documents fill sequences. `best_fit` cuts only documents that are longer than a sequence and pads what
    stays free (Ding et al. 2024, arXiv 2404.10830); `concatenate` joins all and cuts wherever a sequence ends, as the
    paper did."""
    cleaning: CleaningSection = CleaningSection()
    """What is left out."""
    heldout_fraction: Annotated[float, Field(ge=0, lt=0.5)] = 0.01
    """Share of each source's documents kept from training and used to measure bits per byte. Chosen by the
    document's digest, so that a document stays on its side whatever else changes."""
    heldout_max_bytes: PositiveInt = 200_000
    """At most so much held-out text for each source; what is beyond goes back to training."""
    partition_bytes: PositiveInt = 268_435_456
    """Files of a source are tokenized in partitions of about so much text, each a result that is made, checked and, if
    need be, made anew by itself. A larger file is a partition of its own."""
    num_workers: PositiveInt = 1
    """Steps that tokenize side by side, each an equal part of the partitions with all the cores it finds."""
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
