"""Adam's own numbers: the two moments of each gradient, and the count of updates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from lemur.errors import TrainingError
from lemur.training.state.base import Part, Stretch

if TYPE_CHECKING:
    from transformers import Trainer

_PREFIXES = ("module.", "_orig_mod.", "_checkpoint_wrapped_module.")
"""What wrappers of the libraries put into the names of parameters."""


def plain_name(name: str) -> str:
    """Returns the name of a parameter in the model itself."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix).replace(f".{prefix}", ".")
    return name


def trainable(trainer: Trainer) -> list[tuple[str, Any]]:
    """Returns the parameters that training changes, by their plain names, in the order of the model."""
    assert trainer.model
    named = trainer.model.named_parameters()
    return [(plain_name(name), parameter) for name, parameter in named if parameter.requires_grad]


def innermost(trainer: Trainer) -> torch.optim.Optimizer:
    """Returns PyTorch's own optimizer, which the libraries wrap."""
    optimizer: Any = trainer.optimizer
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def moments(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> dict[str, Any]:
    """Returns the optimizer's state of a parameter; before the first update it is made, as zeros.

    Raises:
        TrainingError: The optimizer keeps other numbers than Adam's.
    """
    state: dict[str, Any] = optimizer.state[parameter]
    if not state:
        group = next(
            (group for group in optimizer.param_groups if any(other is parameter for other in group["params"])),
            optimizer.param_groups[0],
        )
        on_device = bool(group.get("fused") or group.get("capturable"))
        count = torch.zeros((), device=parameter.device if on_device else "cpu")
        # DeepSpeed's own optimizers count in integers.
        state["step"] = count if isinstance(optimizer, torch.optim.Adam) else 0
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    if "exp_avg" not in state or "exp_avg_sq" not in state:
        raise TrainingError(
            f"checkpoints hold Adam's moments exp_avg and exp_avg_sq, and {type(optimizer).__name__} keeps "
            f"{', '.join(map(str, state))}; choose an Adam in float32"
        )
    return state


def stretches(
    optimizer: torch.optim.Optimizer, parameter: torch.Tensor, cut: Callable[[Part, torch.Tensor], Iterable[Stretch]]
) -> Iterator[Stretch]:
    """Yields what there is of a weight and its moments.

    Args:
        optimizer: PyTorch's own.
        parameter: The weight, as the optimizer knows it.
        cut: Makes stretches of one part's numbers.
    """
    state = moments(optimizer, parameter)
    yield from cut("weight", parameter.detach())
    yield from cut("exp_avg", state["exp_avg"])
    yield from cut("exp_avg_sq", state["exp_avg_sq"])


def count_of_updates(states: Iterable[dict[str, Any]]) -> int:
    """Returns the optimizer's count of updates; 0 where there is no state."""
    counts = [torch.as_tensor(state["step"]) for state in states]
    return int(torch.stack(counts).max()) if counts else 0


def set_count_of_updates(states: Iterable[dict[str, Any]], num_updates: int) -> None:
    """Sets the optimizer's count of updates, in tensors where it keeps it in tensors."""
    for state in states:
        if isinstance(state["step"], torch.Tensor):
            state["step"].fill_(num_updates)
        else:
            state["step"] = num_updates
