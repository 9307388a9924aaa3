"""Documents that stand in one sequence and must not see each other.

Attention in `transformers` tells documents apart by positions that begin again, but only where no attention mask and
no cache reaches the model; with either of them it attends across documents and says nothing. Variable-length kernels
want one row, and the lengths in it. What is checked here is checked in every forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lemur.errors import TrainingError

NO_LABEL = -100
"""Label of a token that is not learned from; PyTorch's loss passes over it."""


def is_flat(attention: str) -> bool:
    """Says whether a kernel wants a micro batch as one row with the lengths of its documents."""
    return attention.startswith("flash")


def in_one_row(items: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, Any]:
    """Collates sequences into one row, with where each document begins in it.

    Args:
        items: Sequences, each with `input_ids`, `labels` and `position_ids` of shape [tokens].

    Returns:
        The same in one row, [1, all tokens], and what variable-length attention takes. A sequence's first token is no
        label, as it would not be one in a row of its own.
    """
    row = {name: torch.cat([item[name] for item in items])[None] for name in ("input_ids", "labels", "position_ids")}
    row["labels"] = row["labels"].masked_fill(row["position_ids"] == 0, NO_LABEL)
    return with_lengths(row)


def with_lengths(batch: dict[str, Any]) -> dict[str, Any]:
    """Adds to a batch of one row what variable-length attention takes: starts and the greatest length.

    Attention would work them out itself, in every layer, and wait for the device each time.
    """
    (positions,) = batch["position_ids"]
    starts = torch.nonzero(positions == 0)[:, 0].to(torch.int32)
    bounds = torch.cat([starts, torch.tensor([len(positions)], dtype=torch.int32)])
    longest = int(torch.diff(bounds).max())
    return {
        **batch,
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def guard_isolation(model: nn.Module) -> None:
    """Has every forward pass of a model refuse inputs with which documents would see each other.

    Args:
        model: A causal language model of `transformers`, without wrappers.
    """

    def check(module: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        positions, use_cache = named.get("position_ids"), named.get("use_cache")
        leaks = []
        if positions is None:
            leaks.append("there are no position_ids")
        if named.get("attention_mask") is not None:
            leaks.append("there is an attention_mask")
        if module.config.use_cache if use_cache is None else use_cache:
            leaks.append("use_cache is on")
        if is_flat(module.config._attn_implementation) and named.get("cu_seq_lens_q") is None:
            leaks.append("there are no cu_seq_lens_q, which a variable-length kernel takes")
        if leaks:
            raise TrainingError(
                f"documents of a sequence would see each other, because {' and '.join(leaks)}; this is a fault in the "
                "program and not in the recipe. isolate_documents: false trains without it"
            )

    model.register_forward_pre_hook(check, with_kwargs=True)
