"""PyTorch's fully sharded data parallelism (FSDP2), and tensor parallelism, as transformers offers them itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt

from lemur.errors import RecipeError
from lemur.training.engine import Arithmetic, Engine, Processes, StageSettings, tuning_method

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Trainer

    from lemur.training.state import TrainingState


class FsdpEngine(Engine):
    """Divides weights, gradients and optimizer by rows; each layer is gathered while it is at work.

    Loaded through `transformers.distributed` rather than wrapped by accelerate, which passes over `fsdp` without a
    word where there is no GPU, and cannot combine it with tensor parallelism there. Weights are gathered in bfloat16
    and gradients added up in float32.
    """

    kind: Literal["fsdp"]
    cpu_offload: bool = False
    """Keep weights, gradients and optimizer in main memory and bring each layer to the GPU when it is at work."""
    tensor_parallel: PositiveInt = 1
    """Processes that divide each matrix product; they see the same sequences. Keep them on one machine."""

    @property
    def divides(self) -> Literal[3]:
        """Everything is divided."""
        return 3

    @property
    def lower_precision(self) -> Literal["gathered"]:
        """Weights are cast when a layer is gathered."""
        return "gathered"

    @property
    def offloads(self) -> Literal["none", "all"]:
        """Everything, with `cpu_offload`."""
        return "all" if self.cpu_offload else "none"

    @property
    def tensor_parallel_size(self) -> int:
        """Processes that share each sequence."""
        return self.tensor_parallel

    def problems(self, section: StageSettings, num_processes: int) -> list[str]:
        """Lists numbers that do not divide, and what tensor parallelism cannot do."""
        found = []
        if num_processes % self.tensor_parallel:
            found.append(
                f"engine.tensor_parallel {self.tensor_parallel} does not divide the {num_processes} processes "
                "(hardware.num_nodes x devices_per_node); choose a divisor"
            )
        if self.tensor_parallel > 1 and tuning_method(section) != "full":
            found.append(
                f"engine.tensor_parallel {self.tensor_parallel} cannot divide adapters; set it to 1, or method: "
                "{kind: full}"
            )
        if section.precision == "float8":
            found.append(
                "engine fsdp divides the weights before torchao could convert their layers, so it does not compute in "
                "float8; set precision: bfloat16, or engine: {kind: ddp} or {kind: deepspeed}"
            )
        return found

    def local_problems(self, processes: Processes) -> list[str]:
        """Lists settings that need a GPU."""
        if self.cpu_offload and processes.on_cpu:
            return ["engine.cpu_offload moves weights between GPU and main memory, and there is no GPU; leave it out"]
        return []

    def arguments(self, section: StageSettings, arithmetic: Arithmetic, processes: Processes) -> dict[str, Any]:
        """Returns the sizes of the two ways to divide; FSDP casts itself, tensor parallelism alone is cast."""
        num_shards = processes.num_processes // self.tensor_parallel
        casting = {"bf16": arithmetic == "bfloat16" and num_shards == 1, "ddp_find_unused_parameters": False}
        if self.tensor_parallel == 1:
            return casting
        return {**casting, "parallelism_config": _sizes(self.tensor_parallel, num_shards)}

    def load(self, folder: Path, arithmetic: Arithmetic) -> PreTrainedModel:
        """Loads this process's part of each weight in float32.

        Raises:
            RecipeError: The model's sizes cannot be divided by `tensor_parallel`.
        """
        from transformers.distributed.configuration_utils import DistributedConfig

        from lemur.training.models import load_model

        num_processes = Processes.here().num_processes
        if num_processes == 1:
            return load_model(folder)
        num_shards = num_processes // self.tensor_parallel
        divided = DistributedConfig(
            tp_size=self.tensor_parallel,
            tp_plan=self._plan(folder),
            fsdp_size=num_shards,
            fsdp_cpu_offload=self.cpu_offload,
            fsdp_mixed_precision=arithmetic == "bfloat16" and num_shards > 1,
        )
        model = load_model(folder, distributed_config=divided)
        _share_padding(model)
        return model

    def _plan(self, folder: Path) -> dict[str, str] | None:
        """Returns what differs from the model's own plan of which matrix is divided in which direction."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        for name in ("num_key_value_heads", "intermediate_size"):
            if getattr(config, name) % self.tensor_parallel:
                raise RecipeError(
                    f"engine.tensor_parallel {self.tensor_parallel} does not divide the model's {name} "
                    f"{getattr(config, name)}; choose a divisor"
                )
        if config.vocab_size % self.tensor_parallel == 0:
            return None
        # A vocabulary with ChatML's tokens seldom divides; the hidden size does.
        return {"lm_head": "rowwise_split_input"}

    def state(self, trainer: Trainer) -> TrainingState:
        """Returns this process's part of each weight."""
        from lemur.training.state.sharded import ShardedState

        return ShardedState(trainer)

    @contextmanager
    def gathered(self, parameters: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
        """Makes copies that are whole."""
        from torch.distributed.tensor import DTensor

        yield [part.full_tensor() if isinstance(part, DTensor) else part for part in parameters]


def _share_padding(model: PreTrainedModel) -> None:
    """Lets the two modules of a tied weight share the buffer that a shard of uneven size is padded in.

    transformers ties after it has divided, so each of the two modules knows the weight as a parameter of its own.
    Before the first step each would copy the shard into a buffer of its own, and one of them would never see an
    update. Shards of even size need no buffer.
    """
    from torch.distributed.fsdp import FSDPModule

    known: dict[torch.Tensor, Any] = {}
    for module in model.modules():
        if not isinstance(module, FSDPModule):
            continue
        # Not public; a test holds tied and untied models to the losses of one process.
        for group in module._get_fsdp_state()._fsdp_param_groups or ():
            part: Any
            for part in group.fsdp_params:
                weight = getattr(part._module_info.module, part._module_info.param_name)
                if weight in known:
                    part.sharded_param, part._sharded_param_data = weight, known[weight]._sharded_param_data
                part.reset_sharded_param()
                known.setdefault(weight, part)


def _sizes(tensor_parallel: int, num_shards: int) -> Any:
    """Tells accelerate which processes see the same sequences.

    Its own check knows GPUs only, though nothing that it goes on to do needs one: batches are dealt by the place in
    the mesh, and the model is divided already.
    """
    from accelerate import ParallelismConfig

    class Sizes(ParallelismConfig):  # type: ignore[misc]
        def _validate_accelerator(self, accelerator: Any) -> None:
            if accelerator.device.type != "cpu":
                super()._validate_accelerator(accelerator)

    return Sizes(tp_size=tensor_parallel, dp_shard_size=num_shards)
