"""Making, loading and storing models and their tokenizers."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lemur.errors import RecipeError
from lemur.receipt import Receipt
from lemur.recipe import Architecture, ModelSection, PretrainedStart
from lemur.results import fetch, read_manifest, write_result
from lemur.storage import open_storage
from lemur.training.description import checkpoint_prefix
from lemur.training.loop.curve import METRICS_NAME
from lemur.training.settings import Precision
from lemur.training.workplace import writing


@dataclass(frozen=True)
class Record:
    """What the receipt of a model says of it."""

    role: Literal["initial", "base", "chat"]
    """Which model of the run it is."""
    key: str
    """Key of the result."""
    parents: Mapping[str, Receipt]
    """Results it was made from, by role."""
    curve_folder: Path | None = None
    """Folder with the loss curve to be stored beside the model; `None` where nothing was trained."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Figures."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """More than every model's receipt says."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Loads a tokenizer from a local folder; code that may lie in it is not run."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def load_model(name: str | Path, revision: str | None = None) -> PreTrainedModel:
    """Loads a model's weights in float32, in which they are trained; code that may lie beside them is not run.

    Raises:
        RecipeError: There is no such model, or it cannot be loaded without running code of its own.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, revision=revision, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"model.start.name {str(name)!r} could not be loaded: {error}") from error
    return model


def start_model(model: ModelSection, tokenizer: PreTrainedTokenizerBase, folder: Path) -> PreTrainedModel:
    """Returns the model that training begins with, the same in every process.

    Args:
        model: The model section.
        tokenizer: Its vocabulary and special tokens.
        folder: Local folder for weights that lie in storage.

    Raises:
        RecipeError: A pretrained model whose sizes are not the recipe's, or that has too few embeddings.
    """
    if model.start.kind == "random":
        torch.manual_seed(model.start.seed)
        return LlamaForCausalLM(_config(model.architecture, tokenizer))  # type: ignore[no-untyped-call]
    loaded = load_model(_local_name(model.start, folder), model.start.revision)
    _check_architecture(loaded, model)
    if len(tokenizer) > loaded.config.vocab_size:
        raise RecipeError(
            f"model.tokenizer has {len(tokenizer)} entries and {model.start.name} has embeddings for "
            f"{loaded.config.vocab_size}; take the tokenizer of that model"
        )
    return loaded


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


def store_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, record: Record, *, storage: str, precision: Precision
) -> Receipt:
    """Stores a model as a result that `from_pretrained` loads.

    Args:
        model: The model; its weights are converted to `precision` in place.
        tokenizer: Its tokenizer.
        record: What the receipt says of it.
        storage: Root URI of the recipe's storage.
        precision: Type that the weights are stored in.
    """
    model.config.use_cache = True
    cast(model, precision)
    with tempfile.TemporaryDirectory(prefix="lemur-model-", dir=record.curve_folder) as folder:
        with writing(f"the {record.role} model", Path(folder)):
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        writer = write_result(
            storage,
            prefix=checkpoint_prefix(record.key),
            kind="checkpoint",
            stage="finetune" if record.role == "chat" else "pretrain",
            key=record.key,
            parents=record.parents,
        )
        writer.add_folder(Path(folder))
        if record.curve_folder:
            writer.add(METRICS_NAME, record.curve_folder / METRICS_NAME)
        common = {
            "role": record.role,
            "num_parameters": model.num_parameters(),
            "weights": precision,
            "versions": versions(),
        }
        return writer.commit(metrics=record.metrics, metadata={**common, **record.metadata})


def cast(model: PreTrainedModel, precision: Precision) -> None:
    """Converts a model's weights in place; its buffers, such as the rotary frequencies, stay as exact as they are."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, precision))


def versions() -> dict[str, str]:
    """Returns the releases of what decides the numbers of a training run."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


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


def _local_name(start: PretrainedStart, folder: Path) -> str:
    if "://" not in start.name:
        return start.name
    storage = open_storage(start.name)
    return str(fetch(read_manifest(storage.uri).receipt(storage.uri), folder))


def _check_architecture(loaded: PreTrainedModel, model: ModelSection) -> None:
    found, stated = architecture_of(loaded.config).model_dump(), model.architecture.model_dump()
    wrong = [f"{name} {stated[name]} (it has {found[name]})" for name in stated if stated[name] != found[name]]
    if wrong:
        raise RecipeError(f"model.architecture is not that of model.start.name: {', '.join(wrong)}")
