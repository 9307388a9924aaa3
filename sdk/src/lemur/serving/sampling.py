"""How the next token is drawn, each request by its own rules and its own random numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """What a request says about its answer."""

    max_tokens: int
    """Most tokens to make; 0 only reads the prompt."""
    temperature: float = 1.0
    """0 takes the likeliest token; above, the logits are divided by it before drawing."""
    top_p: float = 1.0
    """Draws from the fewest tokens whose probabilities reach this sum (Holtzman et al. 2020, nucleus sampling)."""
    seed: int | None = None
    """Makes the draws repeatable; `None` takes the operating system's randomness."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these."""
    ignore_eos: bool = False
    """Whether the answer goes on past the model's own end, for load tests."""
    num_logprobs: int | None = None
    """How many of the likeliest tokens to report at each place; 0 only the token itself, `None` nothing."""
    score_prompt: bool = False
    """Whether to report on the prompt's tokens too."""

    def random_source(self, choice: int) -> random.Random:
        """Returns the random numbers of one choice of the request; equal seeds give equal numbers."""
        return random.Random() if self.seed is None else random.Random(f"{self.seed}/{choice}")


class TokenScore(NamedTuple):
    """What the model thought of a token before it was there."""

    token_id: int
    logprob: float
    """Natural logarithm of its probability, at temperature 1."""
    top: list[tuple[int, float]]
    """The likeliest tokens and their log-probabilities, best first."""


def draw(logits: torch.Tensor, samplings: Sequence[Sampling], uniforms: Sequence[float]) -> torch.Tensor:
    """Draws one token for each row.

    The draw inverts the cumulative distribution at the row's own uniform number, so that a row's token does
    not depend on which other rows share its batch.

    Args:
        logits: Scores of every token, shape (rows, vocabulary), float32.
        samplings: Rules of each row.
        uniforms: A number in [0, 1) for each row; without effect at temperature 0.

    Returns:
        Token ids, shape (rows,), int64.
    """
    chosen = logits.argmax(dim=-1)
    drawn = [row for row, sampling in enumerate(samplings) if sampling.temperature > 0]
    # Apart, because tokens are in another order where the likeliest are cut out.
    for cut in (False, True):
        rows = [row for row in drawn if (samplings[row].top_p < 1) == cut]
        if rows:
            chosen[rows] = _draw(logits[rows], [samplings[row] for row in rows], [uniforms[row] for row in rows], cut)
    return chosen


def _draw(logits: torch.Tensor, samplings: list[Sampling], uniforms: list[float], cut: bool) -> torch.Tensor:
    import torch

    # Float64, because a float32 sum over a large vocabulary loses its tail.
    numbers: dict[str, Any] = {"device": logits.device, "dtype": torch.float64}
    temperatures = torch.tensor([sampling.temperature for sampling in samplings], **numbers)[:, None]
    weights = (logits.double() / temperatures).softmax(dim=-1)
    token_ids = None
    if cut:
        top_p = torch.tensor([sampling.top_p for sampling in samplings], **numbers)[:, None]
        weights, token_ids = weights.sort(dim=-1, descending=True)
        weights = weights.where(weights.cumsum(dim=-1) - weights < top_p, 0.0)
    cumulative = weights.cumsum(dim=-1)
    sought = torch.tensor(uniforms, **numbers)[:, None] * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, sought, right=True).clamp(max=logits.shape[-1] - 1)
    return (index if token_ids is None else token_ids.gather(-1, index))[:, 0]


def score(logits: torch.Tensor, token_ids: torch.Tensor, num_top: int) -> list[TokenScore]:
    """Returns what the model thought of given tokens.

    Args:
        logits: Scores of every token, shape (places, vocabulary), float32.
        token_ids: The token at each place, shape (places,).
        num_top: How many of the likeliest to report.
    """
    total = logits.logsumexp(dim=-1, keepdim=True)
    own = (logits.gather(-1, token_ids[:, None]) - total)[:, 0].tolist()
    if not num_top:
        return [TokenScore(*pair, []) for pair in zip(token_ids.tolist(), own, strict=True)]
    top, top_ids = logits.topk(min(num_top, logits.shape[-1]), dim=-1)
    pairs = [list(zip(*row, strict=True)) for row in zip(top_ids.tolist(), (top - total).tolist(), strict=True)]
    return [TokenScore(*values) for values in zip(token_ids.tolist(), own, pairs, strict=True)]
