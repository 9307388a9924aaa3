"""What a plan says of the data: tokens from each source, how often it is read, and what there is too little of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from lemur.errors import RecipeError
from lemur.mixture import mixture_shares
from lemur.recipe import Recipe

if TYPE_CHECKING:
    from lemur.data.source import Source

_COUNTED_BYTES = 64_000_000
"""Dialogue files up to this size are read through to count their records; larger ones would make a plan wait."""


class SourcePlan(BaseModel):
    """One source of documents: what is read of it, and what it has."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """Name of the source."""
    group: str | None
    """Its group, where the recipe has groups."""
    share: float
    """Its part of the mixture, 0 to 1."""
    tokens: int
    """Tokens read in training."""
    available_tokens: int | None
    """Tokens it has for training; `None` where nobody knows."""
    available_from: Literal["recipe", "bytes", "unknown"]
    """Whether the recipe states that, or it was estimated from the source's bytes."""
    epochs: float | None
    """How often each of its tokens is read; `None` where its size is unknown."""
    max_epochs: float | None
    """How often they may be read."""


class DialoguesPlan(BaseModel):
    """One source of dialogues."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """Name of the source."""
    repeats: float
    """How often each dialogue is read in an epoch."""
    num_dialogues: int | None
    """Dialogues it has; `None` where that is not known before it is read."""
    tokens: int | None
    """Tokens it has; `None` where nobody knows."""


class SourceSize(NamedTuple):
    """How much a source holds, and how that is known."""

    tokens: int | None
    """Tokens; `None` where unknown."""
    known_from: Literal["recipe", "bytes", "unknown"]
    """Where the figure is from."""
    problem: str | None = None
    """Why the source cannot be read at all."""


def bytes_per_token(vocab_size: int) -> float:
    """Returns about how many bytes of code or text make a token.

    Measured with byte-level BPE on held-out modules of Python's standard library: 2.6 at 1,024 entries, 3.3 at
    4,096, 3.8 at 16,384, 3.9 at 32,000; between these the nearest lower one counts.
    """
    return next((ratio for entries, ratio in _BYTES_PER_TOKEN if vocab_size >= entries), 2.0)


_BYTES_PER_TOKEN = ((32_000, 3.9), (16_384, 3.8), (4_096, 3.3), (1_024, 2.6))


def plan_sources(recipe: Recipe, *, tokens: int) -> tuple[list[SourcePlan], list[str]]:
    """Plans what is read of each source.

    Args:
        recipe: The recipe.
        tokens: Tokens of the whole training, in whole batches.

    Returns:
        One entry for each source, in the recipe's order, and the problems found.
    """
    plans, problems = [], []
    shares = mixture_shares(recipe.data)
    for index, source in enumerate(recipe.data.sources):
        size = _size(source, recipe.model.tokenizer.vocab_size)
        place = f"data.sources[{index}] ({source.name!r})"
        if size.problem:
            problems.append(f"{place}: {size.problem}")
        available = None if size.tokens is None else size.tokens - _heldout_tokens(recipe, size.tokens)
        needed = round(tokens * shares[source.name])
        plan = SourcePlan(
            name=source.name,
            group=source.group,
            share=shares[source.name],
            tokens=needed,
            available_tokens=available,
            available_from=size.known_from,
            epochs=needed / available if available else None,
            max_epochs=source.max_epochs,
        )
        plans.append(plan)
        problems.extend(f"{place}: {problem}" for problem in _shortages(plan))
    return plans, problems


def _heldout_tokens(recipe: Recipe, available: int) -> int:
    most = recipe.data.heldout_max_bytes / bytes_per_token(recipe.model.tokenizer.vocab_size)
    return round(min(recipe.data.heldout_fraction * available, most))


def _shortages(plan: SourcePlan) -> list[str]:
    """Says where a source would be read more often than it may."""
    if plan.epochs is None or plan.max_epochs is None or plan.available_tokens is None:
        return []
    allowed = int(plan.available_tokens * plan.max_epochs)
    if plan.tokens <= allowed:
        return []
    return [
        f"its share is {plan.tokens:,} tokens and max_epochs {plan.max_epochs:g} over the {plan.available_tokens:,} "
        f"tokens it has allows {allowed:,}: {plan.tokens - allowed:,} tokens too few; lower its weight or "
        f"pretrain.tokens, raise max_epochs to {plan.epochs:.2f} or more, or give it more data"
    ]


_MARKUP_TOKENS = 12
"""What ChatML adds to a dialogue of two turns, the usual one: start, role, end and two line feeds for each."""


def plan_dialogues(recipe: Recipe) -> tuple[list[DialoguesPlan], list[str]]:
    """Plans what is read of each source of dialogues in one epoch, and lists the problems found."""
    plans, problems = [], []
    for index, source in enumerate(recipe.data.dialogues):
        size = _size(source, recipe.model.tokenizer.vocab_size)
        if size.problem:
            problems.append(f"data.dialogues[{index}] ({source.name!r}): {size.problem}")
        num_dialogues = None if size.problem else _num_dialogues(source)
        tokens = size.tokens
        if size.known_from == "bytes" and tokens is not None and num_dialogues is not None:
            tokens += num_dialogues * _MARKUP_TOKENS
        plans.append(DialoguesPlan(name=source.name, repeats=source.weight, num_dialogues=num_dialogues, tokens=tokens))
    return plans, problems


def _num_dialogues(source: Source) -> int | None:
    if source.available_records is not None:
        return source.available_records
    num_bytes = source.estimated_bytes()
    if num_bytes is None or num_bytes > _COUNTED_BYTES:
        return None
    return sum(1 for _ in source.records())


def _size(source: Source, vocab_size: int) -> SourceSize:
    if source.available_tokens is not None:
        return SourceSize(source.available_tokens, "recipe")
    try:
        num_bytes = source.estimated_bytes()
    except RecipeError as error:
        return SourceSize(None, "unknown", str(error))
    if num_bytes is None:
        return SourceSize(None, "unknown")
    if num_bytes == 0:
        return SourceSize(None, "bytes", "it holds no text")
    return SourceSize(round(num_bytes / bytes_per_token(vocab_size)), "bytes")
