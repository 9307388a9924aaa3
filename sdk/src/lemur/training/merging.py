"""The whole weights of a trained model, one after the other, with adapters merged into the matrices beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lemur.training.weights import StoredWeights, read_weights

if TYPE_CHECKING:
    from peft import PeftModel

Gathering = Callable[[Sequence[nn.Parameter]], AbstractContextManager[Sequence[torch.Tensor]]]
"""Context that makes whole tensors of parameters, wherever their parts are; collective."""


def whole_weights(model: nn.Module, gathering: Gathering, *, is_first: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields each weight of a model by its name without adapters; a matrix that is used twice comes once.

    Args:
        model: The model, with or without adapters.
        gathering: Makes whole tensors.
        is_first: Whether this process gets the weights; the others get empty ones.

    Yields:
        Name, and weight in float32 on the CPU.
    """
    from peft import PeftModel

    if isinstance(model, PeftModel):
        yield from _merged(model, gathering, is_first=is_first)
        return
    for name, parameter in model.named_parameters():
        with torch.no_grad(), gathering([parameter]) as (whole,):
            yield name, _ours(whole) if is_first else torch.empty(0)


def _merged(model: PeftModel, gathering: Gathering, *, is_first: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """Merges adapters into the weights as they are stored, which are frozen and may be divided or quantized here."""
    from peft.tuners.lora import LoraLayer

    from lemur.training.adapters import LearnedRows

    base = model.get_base_model()
    changed: dict[str, Any] = {
        f"{name}.weight": module for name, module in base.named_modules() if isinstance(module, LoraLayer | LearnedRows)
    }
    with read_weights(Path(str(base.name_or_path))) as stored:
        for name in _names_in_order(base, stored):
            module = changed.get(name)
            with torch.no_grad(), gathering(_adapting(module)) as parts:
                if is_first:
                    weight = stored.whole(name).float()
                    yield name, _updated(module, weight, [_ours(part) for part in parts]) if module else weight
                else:
                    yield name, torch.empty(0)


def _names_in_order(base: nn.Module, stored: StoredWeights) -> list[str]:
    """Returns the names of the model without adapters, in the order of its parameters."""
    names = (name.replace(".base_layer.", ".") for name, _ in base.named_parameters())
    return [name for name in names if name in stored]


def _adapting(module: nn.Module | None) -> list[nn.Parameter]:
    from peft.tuners.lora import LoraLayer

    from lemur.training.adapters import LearnedRows

    if isinstance(module, LoraLayer):
        (adapter,) = module.active_adapters
        return [module.lora_A[adapter].weight, module.lora_B[adapter].weight]
    return [module.rows] if isinstance(module, LearnedRows) else []


def _updated(module: nn.Module, weight: torch.Tensor, parts: list[torch.Tensor]) -> torch.Tensor:
    """Returns `weight + scale x B A` (Hu et al. 2021, arXiv 2106.09685), or the weight with its learned rows."""
    from peft.tuners.lora import LoraLayer

    from lemur.training.adapters import LearnedRows

    if isinstance(module, LoraLayer):
        (adapter,) = module.active_adapters
        down, up = parts
        merged: torch.Tensor = weight + (up @ down) * module.scaling[adapter]
        return merged
    assert isinstance(module, LearnedRows)
    learned: torch.Tensor = weight.index_copy(0, module.token_ids.cpu(), parts[0])
    return learned


def _ours(tensor: torch.Tensor) -> torch.Tensor:
    ours: torch.Tensor = tensor.detach().to("cpu", torch.float32, copy=True)
    return ours
