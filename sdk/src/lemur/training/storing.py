"""Storing models as results that `from_pretrained` loads, a file at a time."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import transformers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)

from lemur.receipt import Receipt
from lemur.results import fetch, write_result
from lemur.storage import open_storage
from lemur.training.description import StoredType, checkpoint_prefix
from lemur.training.loop.curve import METRICS_NAME
from lemur.training.loop.events import EVENTS_FOLDER
from lemur.training.weights import write_weights
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


class Beside(NamedTuple):
    """What lies beside the weights of a model."""

    config: PreTrainedConfig
    """Its architecture."""
    generation: GenerationConfig
    """What ends a text."""
    tokenizer: PreTrainedTokenizerBase
    """Its tokenizer."""


def fetch_once(result: Receipt, destination: Path, arguments: TrainingArguments) -> Path:
    """Fetches and verifies a result in one process of each machine; returns the folder, as `fetch` does, in all."""
    with arguments.distributed_state.local_main_process_first():
        if arguments.distributed_state.is_local_main_process:
            return fetch(result, destination)
    return open_storage(result.uri).local_path() or destination


def beside(folder: Path, tokenizer: PreTrainedTokenizerBase) -> Beside:
    """Reads what lies beside the weights below a folder; the tokenizer is given, since tuning extends it."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if (folder / "generation_config.json").is_file():
        return Beside(config, GenerationConfig.from_pretrained(folder), tokenizer)
    return Beside(config, GenerationConfig.from_model_config(config), tokenizer)


def store_model(
    model: Beside,
    weights: Iterable[tuple[str, torch.Tensor]],
    record: Record,
    *,
    storage: str,
    precision: StoredType,
) -> Receipt:
    """Stores a model as a result that `from_pretrained` loads.

    Args:
        model: All but its weights.
        weights: Name and value of each weight, in the order of the model's parameters.
        record: What the receipt says of it.
        storage: Root URI of the recipe's storage.
        precision: Type that the weights are stored in.

    Raises:
        IntegrityError: The weights are not those of the architecture.
        StorageError: The local disk or the storage is full or cannot be written.
    """
    dtype = getattr(torch, precision)
    skeleton = skeleton_of(model.config)
    shapes = {name: tuple(parameter.shape) for name, parameter in skeleton.named_parameters()}
    model.config.use_cache, model.config.dtype = True, dtype
    model.config.architectures = [type(skeleton).__name__]
    with tempfile.TemporaryDirectory(prefix="lemur-model-", dir=record.curve_folder) as name:
        folder = Path(name)
        with writing(f"the {record.role} model", folder):
            model.config.save_pretrained(folder)
            model.generation.save_pretrained(folder)
            model.tokenizer.save_pretrained(folder)
            write_weights(folder, weights, shapes=shapes, dtype=dtype)
        writer = write_result(
            storage,
            prefix=checkpoint_prefix(record.key),
            kind="checkpoint",
            stage="finetune" if record.role == "chat" else "pretrain",
            key=record.key,
            parents=record.parents,
        )
        writer.add_folder(folder, move=True)
        if record.curve_folder:
            writer.add(METRICS_NAME, record.curve_folder / METRICS_NAME)
            writer.add_folder(record.curve_folder / EVENTS_FOLDER, EVENTS_FOLDER)
        common = {
            "role": record.role,
            "num_parameters": sum(parameter.numel() for parameter in skeleton.parameters()),
            "weights": precision,
            "versions": versions(),
        }
        return writer.commit(metrics=record.metrics, metadata={**common, **record.metadata})


def skeleton_of(config: PreTrainedConfig) -> PreTrainedModel:
    """Returns a model without weights, for the names and shapes of its parameters; never a divided one."""
    with torch.device("meta"):
        made: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        model: PreTrainedModel = made(config)
    return model


def versions() -> dict[str, str]:
    """Returns the releases of what decides the numbers of a training run."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
