"""Dialogues that teach what small Python expressions print."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, PositiveInt

from lemur.data.source import Record, Source
from lemur.expressions import generate
from lemur.receipt import digest_of


class ExpressionsSource(Source):
    """Questions about small Python expressions, made on the spot; those of the benchmark are never among them."""

    kind: Literal["expressions"]
    num_dialogues: PositiveInt = 4000
    """How many different dialogues."""
    seed: int = Field(default=0, ge=0, lt=2**53)
    """Seed of the draw."""

    def records(self) -> Iterator[Record]:
        """Yields a prompt and its completion for each expression.

        Raises:
            RecipeError: There are not that many different expressions.
        """
        for row, expression in enumerate(generate("train", self.num_dialogues, seed=self.seed)):
            fields = {"prompt": expression.prompt, "completion": expression.completion}
            yield Record(fields, origin=f"expressions#{row}")

    def fingerprint(self) -> str:
        """Returns a digest of all records, so that a change of the families counts as new data."""
        return digest_of([record.fields for record in self.records()])

    def estimated_bytes(self) -> int:
        """Returns how many bytes the prompts and completions hold."""
        return sum(len(str(text).encode()) for record in self.records() for text in record.fields.values())
