"""Making and loading models and their tokenizers."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from lemur.errors import RecipeError
from lemur.recipe import Architecture, ModelSection, PretrainedStart
from lemur.results import fetch, read_manifest
from lemur.storage import open_storage
from lemur.training.storing import Beside, beside, skeleton_of
from lemur.training.weights import read_weights, write_weights

_EMBEDDING, _OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Loads a tokenizer from a local folder; code that may lie in it is not run."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def load_model(folder: Path, *, dtype: torch.dtype = torch.float32, **division: Any) -> PreTrainedModel:
    """Loads a stored model's weights for training; code that may lie beside them is not run.

    Args:
        folder: Local folder of the model.
        dtype: Type of the weights in memory.
        **division: What `from_pretrained` is told of how to divide it.

    Raises:
        RecipeError: It cannot be loaded.
    """
    with _told(folder):
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, use_safetensors=True, **division
        )
    model.config.use_cache = False
    return model


def start_model(
    model: ModelSection, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> tuple[Beside, Iterator[tuple[str, torch.Tensor]]]:
    """Returns the model that training begins with, one weight after the other.

    Args:
        model: The model section.
        tokenizer: Its vocabulary and special tokens.
        folder: Local folder for weights that lie in storage.

    Raises:
        RecipeError: There is no such model, its sizes are not the recipe's, or it has too few embeddings.
    """
    if model.start.kind == "random":
        config = _config(model.architecture, tokenizer)
        parts = Beside(config, GenerationConfig.from_model_config(config), tokenizer)
        torch.manual_seed(model.start.seed)
        drawn = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
        return parts, ((name, weight.detach()) for name, weight in drawn.named_parameters())
    with _told(model.start.name):
        start = _local_folder(model.start, folder)
        parts = beside(start, tokenizer)
    _check_architecture(parts.config, model)
    if len(tokenizer) > parts.config.vocab_size:
        raise RecipeError(
            f"model.tokenizer has {len(tokenizer)} entries and {model.start.name} has embeddings for "
            f"{parts.config.vocab_size}; take the tokenizer of that model"
        )
    return parts, _stored(start, parts.config)


def _stored(folder: Path, config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the weights of an architecture from a folder, which may hold more (buffers, tied copies)."""
    with _told(folder), read_weights(folder) as weights:
        for name, _ in skeleton_of(config).named_parameters():
            if name not in weights:
                raise RecipeError(f"model.start.name: {folder} has no weight {name}; is it a Llama model?")
            yield name, weights.whole(name)


def with_new_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase, destination: Path, seed: int) -> Path:
    """Returns a stored model with embeddings for every token: the folder itself, or one that links to it.

    The rows of new tokens are drawn around the mean of the old ones, as `resize_token_embeddings` does; only the
    embeddings are read.

    Args:
        folder: The stored model.
        tokenizer: A tokenizer that may have more entries than the model.
        destination: Folder for what changes.
        seed: Seed of the draw.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if len(tokenizer) <= config.vocab_size:
        return folder
    embeddings = copy.deepcopy(config)
    embeddings.num_hidden_layers = 0
    model = LlamaForCausalLM(embeddings)  # type: ignore[no-untyped-call]
    names = [name for name, _ in model.named_parameters() if name in (_EMBEDDING, _OUTPUT)]
    destination.mkdir(parents=True, exist_ok=True)
    with read_weights(folder) as weights:
        for name in names:
            model.get_parameter(name).data.copy_(weights.whole(name))
        kept = [name for name in weights.names() if name not in (_EMBEDDING, _OUTPUT)]
        files = {name: f"base-{weights.file(name)}" for name in kept}
    set_seed(seed)
    model.resize_token_embeddings(len(tokenizer))
    new = [(name, model.get_parameter(name).detach()) for name in names]
    write_weights(destination, new, shapes={name: weight.shape for name, weight in new}, dtype=torch.float32)
    (destination / "model.safetensors").rename(destination / "tokens.safetensors")
    for file in sorted(set(files.values())):
        (destination / file).unlink(missing_ok=True)
        (destination / file).symlink_to((folder / file.removeprefix("base-")).resolve())
    places = {**files, **dict.fromkeys(names, "tokens.safetensors")}
    (destination / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8"
    )
    config.vocab_size = len(tokenizer)
    config.save_pretrained(destination)
    return destination


def architecture_of(config: Any) -> Architecture:
    """Returns the sizes that a Llama model's configuration states."""
    return Architecture(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        max_position=config.max_position_embeddings,
        rope_theta=config.rope_parameters["rope_theta"],
        tie_embeddings=config.tie_word_embeddings,
    )


@contextmanager
def _told(name: str | Path) -> Iterator[None]:
    """Makes one error of what the library raises when a model cannot be loaded."""
    try:
        yield
    except (OSError, ValueError) as error:
        if "trust_remote_code" in str(error):
            raise RecipeError(
                f"model.start.name {str(name)!r} needs code of its own, and `trust_remote_code` is never turned on: a "
                "model must not run programs here. Take a Llama model whose architecture transformers itself knows, "
                "or convert it to one"
            ) from error
        raise RecipeError(f"model.start.name {str(name)!r} could not be loaded: {error}") from error


def _config(architecture: Architecture, tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=architecture.hidden_size,
        intermediate_size=architecture.intermediate_size,
        num_hidden_layers=architecture.num_layers,
        num_attention_heads=architecture.num_heads,
        num_key_value_heads=architecture.num_kv_heads,
        max_position_embeddings=architecture.max_position,
        rope_parameters={"rope_type": "default", "rope_theta": architecture.rope_theta},
        tie_word_embeddings=architecture.tie_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _local_folder(start: PretrainedStart, folder: Path) -> Path:
    if "://" in start.name:
        storage = open_storage(start.name)
        return fetch(read_manifest(storage.uri).receipt(storage.uri), folder)
    if Path(start.name).is_dir():
        return Path(start.name)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(start.name, revision=start.revision, allow_patterns=["*.json", "*.safetensors"]))


def _check_architecture(config: Any, model: ModelSection) -> None:
    found, stated = architecture_of(config).model_dump(), model.architecture.model_dump()
    wrong = [f"{name} {stated[name]} (it has {found[name]})" for name in stated if stated[name] != found[name]]
    if wrong:
        raise RecipeError(f"model.architecture is not that of model.start.name: {', '.join(wrong)}")
