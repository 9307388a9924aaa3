"""Adapters merged into the weights they stand beside."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lemur.recipe import LoraTuning
from lemur.training.adapters import add_adapters
from lemur.training.merging import whole_weights

NEW_TOKENS = [60, 61, 63]


@pytest.mark.parametrize("tied", [True, False], ids=["tied embeddings", "two matrices"])
def test_the_merged_model_says_what_the_adapted_one_says(tmp_path: Path, tied: bool) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=64, num_key_value_heads=2, tie_word_embeddings=tied, **sizes)
    ).save_pretrained(tmp_path)
    base, merged = (LlamaForCausalLM.from_pretrained(tmp_path).eval() for _ in range(2))
    adapted = add_adapters(base, LoraTuning(kind="lora", rank=4), NEW_TOKENS, tmp_path).eval()
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.1 * torch.randn_like(parameter))

    weights = dict(whole_weights(adapted, lambda parts: nullcontext(parts), is_first=True))
    merged.load_state_dict(weights, strict=not tied)

    token_ids = torch.cat([torch.tensor(NEW_TOKENS), torch.arange(20)])[None]
    with torch.no_grad():
        ours, theirs = merged(token_ids).logits, adapted(token_ids).logits
        before = LlamaForCausalLM.from_pretrained(tmp_path)(token_ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (ours - before).abs().max() > 0.01
