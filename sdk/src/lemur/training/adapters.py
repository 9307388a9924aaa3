"""Low-rank adapters, and the rows of new tokens that are learned beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from lemur.training.weights import read_weights

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from lemur.recipe import AdapterTuning


class LearnedRows(nn.Module):
    """An embedding or an output layer of which only the rows of some tokens are learned.

    Its matrix stays as it is and may be divided as the engine likes: what the layer makes of those tokens is replaced,
    not the matrix. (The module of `peft` for this copies the matrix in every pass, and cannot be divided.)

    Args:
        base_layer: The layer, frozen.
        rows: Learned rows, [number of tokens, hidden size].
        token_ids: Tokens they belong to.
    """

    token_ids: torch.Tensor
    _place: torch.Tensor

    def __init__(self, base_layer: nn.Module, rows: nn.Parameter, token_ids: Sequence[int]) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.rows = rows
        # An output layer's features are the entries of the vocabulary, as an embedding's are.
        num_entries = getattr(base_layer, "num_embeddings", None) or base_layer.out_features
        place = torch.full((num_entries,), -1)  # type: ignore[arg-type]
        place[list(token_ids)] = torch.arange(len(token_ids))
        self.register_buffer("token_ids", torch.tensor(token_ids), persistent=False)
        self.register_buffer("_place", place, persistent=False)

    @property
    def weight(self) -> torch.Tensor:
        """The frozen matrix."""
        return self.base_layer.weight  # type: ignore[return-value]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Returns embeddings of token ids, or logits of hidden states."""
        outputs: torch.Tensor = self.base_layer(inputs)
        if isinstance(self.base_layer, nn.Embedding):
            place = self._place[inputs]
            learned = nn.functional.embedding(place.clamp(min=0), self.rows).to(outputs.dtype)
            return torch.where((place >= 0)[..., None], learned, outputs)
        logits = nn.functional.linear(inputs.to(self.rows.dtype), self.rows).to(outputs.dtype)
        return outputs.index_copy(-1, self.token_ids, logits)


def add_adapters(model: PreTrainedModel, method: AdapterTuning, token_ids: Sequence[int], folder: Path) -> PeftModel:
    """Puts adapters beside a model's linear layers and makes the rows of some tokens learned; all else is frozen.

    Args:
        model: The model, divided or not.
        method: Sizes and places of the adapters.
        token_ids: Tokens that the base model has never met.
        folder: The stored model, where the rows begin.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=method.rank,
        lora_alpha=method.alpha,  # type: ignore[arg-type]
        lora_dropout=method.dropout,
        target_modules=method.target_modules,
    )
    adapted = get_peft_model(model, settings)
    assert isinstance(adapted, PeftModel)
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    shared = _learned(embedding, _rows(folder, "model.embed_tokens.weight", token_ids), token_ids)
    model.set_input_embeddings(shared)
    assert isinstance(output, nn.Module)
    if model.config.tie_word_embeddings:
        head = LearnedRows(output, shared.rows, token_ids)
    else:
        head = _learned(output, _rows(folder, "lm_head.weight", token_ids), token_ids)
    model.set_output_embeddings(head)  # type: ignore[no-untyped-call]
    return adapted


def _learned(layer: nn.Module, rows: torch.Tensor, token_ids: Sequence[int]) -> LearnedRows:
    device = next(layer.parameters()).device
    return LearnedRows(layer, nn.Parameter(rows.to(device)), token_ids).to(device)


def _rows(folder: Path, name: str, token_ids: Sequence[int]) -> torch.Tensor:
    with read_weights(folder) as weights:
        return weights.rows(name, token_ids).float()
