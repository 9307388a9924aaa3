"""A model folder, loaded and ready for forward passes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from lemur.errors import ServingError
from lemur.serving.key_value_cache import KeyValueCache
from lemur.serving.vocabulary import Vocabulary

_ONE_THREAD_BELOW = 100_000_000
"""Multiplications in a forward pass below which a CPU's threads spend more time waiting for each other than they
save: measured on a model of 4 M parameters, whose single tokens are made up to twice as fast by one thread."""


class LoadedModel:
    """Weights, tokenizer and limits of one served model.

    Args:
        model: A causal language model of transformers, in evaluation mode on its device.
        vocabulary: Its tokenizer.
        max_length: Longest prompt and answer together, in tokens.
    """

    def __init__(self, model: Any, vocabulary: Vocabulary, max_length: int) -> None:
        self._model = model
        self.vocabulary = vocabulary
        self.max_length = max_length
        self.device: torch.device = model.device
        self._num_parameters: int = model.num_parameters()
        self._num_threads = torch.get_num_threads()
        self.vocab_size: int = model.config.get_text_config().vocab_size
        defaults = model.generation_config
        ends = defaults.eos_token_id
        self.end_ids = frozenset([ends] if isinstance(ends, int) else ends or [])
        # As `generate` does: a model that does not ask to be sampled from gives its likeliest answer.
        self.default_temperature = float(defaults.temperature or 1.0) if defaults.do_sample else 0.0
        self.default_top_p = 1.0 if defaults.top_p is None else float(defaults.top_p)

    def forward(
        self,
        token_ids: torch.Tensor,
        mask: torch.Tensor | None,
        positions: torch.Tensor | None,
        cache: KeyValueCache,
        *,
        last_only: bool = True,
    ) -> torch.Tensor:
        """Runs the model over new columns.

        Args:
            token_ids: New tokens, shape (rows, new columns).
            mask: 1 where a column belongs to its row, shape (rows, all columns); `None` where all do.
            positions: Place of each new token in its row, shape as `token_ids`; `None` where no row begins late.
            cache: Keys and values so far; the new columns are appended.
            last_only: Whether only the logits of the last column are wanted.

        Returns:
            Logits, shape (rows, new columns or 1, vocabulary).
        """
        if self.device.type == "cpu":
            is_small = self._num_parameters * token_ids.numel() < _ONE_THREAD_BELOW
            torch.set_num_threads(1 if is_small else self._num_threads)
        output = self._model(
            input_ids=token_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1 if last_only else 0,
        )
        logits: torch.Tensor = output.logits
        return logits

    def part_tokens(self, num_rows: int, logits_bytes: int | None) -> int:
        """Returns how many columns of a prompt to read at a time, so that activations and logits stay bounded."""
        columns = self.prefill_tokens
        if logits_bytes is not None:
            columns = min(columns, logits_bytes // (4 * self.vocab_size))
        return max(1, columns // num_rows)

    @property
    def prefill_tokens(self) -> int:
        """Tokens of prompts, padding included, in one forward pass; more is slower on a CPU, whose caches are small."""
        return 2048 if self.device.type == "cpu" else 32768

    @property
    def cached_tokens(self) -> int:
        """Tokens, padding included, that the cache may hold for all rows.

        As many as take a quarter of the memory that is free on a GPU, or an eighth of the machine's: a cache is
        copied when rows join, and the forward pass needs room besides.
        """
        config = self._model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token_bytes = 2 * config.num_hidden_layers * heads * head_size * self._model.dtype.itemsize
        if self.device.type == "cuda":
            cache_bytes = torch.cuda.mem_get_info(self.device)[0] // 4
        else:
            cache_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 8
        return int(cache_bytes // token_bytes)


def load_model(folder: Path, *, max_length: int | None = None, dtype: str | None = None) -> LoadedModel:
    """Loads a model folder onto the best device there is.

    Args:
        folder: Folder with config.json, safetensors and tokenizer.
        max_length: Longest prompt and answer together, in tokens; `None` takes what the model was made for.
        dtype: `float32` or `bfloat16`; `None` takes bfloat16 on a GPU and float32 on a CPU, where bfloat16 is
            slow and equal requests would differ with their batch.

    Raises:
        ServingError: Files are missing or broken, or the length is more than the model was made for.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen = dtype or ("bfloat16" if device.type == "cuda" else "float32")
    try:
        vocabulary = Vocabulary.load(folder)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, chosen), local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ServingError(f"the model in {folder} cannot be loaded: {error}") from error
    model, found = loaded
    # Without this check transformers draws missing weights at random and only warns.
    for trouble in ("missing_keys", "mismatched_keys"):
        if found[trouble]:
            names = sorted(map(str, found[trouble]))
            raise ServingError(
                f"the weights in {folder} do not fit its config.json: {trouble.replace('_', ' ')}: "
                f"{', '.join(names[:5])}{' …' if len(names) > 5 else ''}; copy or export the folder again"
            )
    longest = model.config.get_text_config().max_position_embeddings
    if max_length is not None and max_length > longest:
        raise ServingError(f"max length {max_length} is more than the {longest} tokens the model was made for")
    return LoadedModel(model.eval().to(device), vocabulary, max_length or longest)
