"""DeepSpeed's ZeRO: optimizer, gradients and weights divided by flat ranges."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lemur.errors import RecipeError
from lemur.training.engine import Arithmetic, Engine, Processes, StageSettings, tuning_method

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, Trainer

    from lemur.training.state import TrainingState

_BUCKET_ELEMENTS = 50_000_000
"""Numbers that are sent at a time: 200 MB, which saturates a network, and a tenth of the library's default, which
would take 4 GB of a device for two buckets."""
_BUILD_TOOLS = ("g++", "ninja")


class DeepspeedEngine(Engine):
    """ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054): in bfloat16, with float32 copies in the optimizer."""

    kind: Literal["deepspeed"]
    zero_stage: Literal[1, 2, 3] = 2
    """What is divided: 1 the optimizer, 2 gradients too, 3 weights too."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """What is kept in main memory: nothing, the optimizer (whose steps a processor then makes), weights too."""

    @property
    def divides(self) -> Literal[1, 2, 3]:
        """The stage."""
        return self.zero_stage

    @property
    def lower_precision(self) -> Literal["kept"]:
        """Weights are in bfloat16, and their float32 copies in the optimizer."""
        return "kept"

    @property
    def offloads(self) -> Literal["none", "optimizer", "all"]:
        """What `offload` says."""
        return self.offload

    def problems(self, section: StageSettings, num_processes: int) -> list[str]:
        """Lists settings that exclude each other."""
        found = []
        if self.offload == "all" and self.zero_stage != 3:
            found.append(
                f"engine.offload all moves weights, which ZeRO stage {self.zero_stage} does not divide; set "
                "engine.zero_stage: 3, or offload: optimizer"
            )
        if self.zero_stage == 3 and tuning_method(section) == "qlora":
            found.append(
                "ZeRO stage 3 cannot divide weights of four bits; set engine.zero_stage: 2, or method: {kind: lora}"
            )
        if self.zero_stage == 3 and section.precision == "float8":
            found.append(
                "ZeRO stage 3 gathers weights that torchao's float8 layers hold on to; set engine.zero_stage: 2, or "
                "precision: bfloat16"
            )
        return found

    def local_problems(self, processes: Processes) -> list[str]:
        """Lists what is not installed."""
        found = []
        if find_spec("deepspeed") is None:
            found.append("deepspeed is not installed; `pip install lemur[deepspeed]`, or take another engine")
        missing = [tool for tool in _BUILD_TOOLS if shutil.which(tool) is None]
        if self.offload != "none" and missing:
            found.append(
                f"engine.offload {self.offload} builds an optimizer for this processor, and {' and '.join(missing)} "
                "is not installed; install it, or set offload: none"
            )
        return found

    def arguments(self, section: StageSettings, arithmetic: Arithmetic, processes: Processes) -> dict[str, Any]:
        """Returns DeepSpeed's configuration; `auto` stands for what the Trainer's own arguments say."""
        if processes.on_cpu:
            # Looked at when the library is imported; it would look for a GPU otherwise.
            os.environ["DS_ACCELERATOR"] = "cpu"
        if "RANK" not in os.environ:
            _be_alone()
        return {"bf16": arithmetic != "float32", "deepspeed": self._configuration(processes)}

    def _configuration(self, processes: Processes) -> dict[str, Any]:
        zero: dict[str, Any] = {
            "stage": self.zero_stage,
            # Buffers of one piece fragment the memory least; sending while computing needs a GPU's streams.
            "contiguous_gradients": True,
            "overlap_comm": not processes.on_cpu,
            "reduce_bucket_size": _BUCKET_ELEMENTS,
            "allgather_bucket_size": _BUCKET_ELEMENTS,
        }
        if self.zero_stage == 3:
            zero["stage3_prefetch_bucket_size"] = _BUCKET_ELEMENTS
        memory = {"device": "cpu", "pin_memory": not processes.on_cpu}
        if self.offload != "none":
            zero["offload_optimizer"] = memory
            # Neighbouring gradients go to different processes, so that all of them copy at the same time.
            zero["round_robin_gradients"] = self.zero_stage < 3
        if self.offload == "all":
            zero["offload_param"] = memory
        return {
            "train_micro_batch_size_per_gpu": "auto",
            "gradient_accumulation_steps": "auto",
            "train_batch_size": "auto",
            "gradient_clipping": "auto",
            "bf16": {"enabled": "auto"},
            # Sums over micro batches and processes would lose in bfloat16 what each of them adds.
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
            "zero_optimization": zero,
            # PyTorch's fused AdamW, the same as with the other engines.
            "zero_allow_untested_optimizer": True,
            # Accelerate would put one of its own making in the place of ours, without its betas.
            "zero_force_ds_cpu_optimizer": False,
        }

    def optimizer(self, section: StageSettings) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
        """Returns DeepSpeed's AdamW for processors where the optimizer is offloaded.

        Raises:
            RecipeError: It could not be built.
        """
        if self.offload == "none":
            return None
        from deepspeed.ops.adam import DeepSpeedCPUAdam
        from deepspeed.ops.op_builder import CPUAdamBuilder

        try:
            CPUAdamBuilder().load(verbose=False)
        except Exception as error:
            raise RecipeError(
                f"engine.offload {self.offload}: DeepSpeed's optimizer for processors could not be built: {error}; "
                "install a C++ compiler that PyTorch supports, or set offload: none"
            ) from error
        settings = {
            "lr": section.learning_rate,
            "betas": section.adam_betas,
            "eps": 1e-8,
            "weight_decay": section.weight_decay,
            "adamw_mode": True,
        }
        return DeepSpeedCPUAdam, settings

    def load(self, folder: Path, arithmetic: Arithmetic) -> PreTrainedModel:
        """Loads the model, with stage 3 this process's part of it: transformers sees the Trainer's arguments."""
        import deepspeed
        import torch

        from lemur.training.models import load_model

        if not deepspeed.comm.is_initialized():
            # It takes up the process group that is there; without it the library believes to be alone.
            deepspeed.init_distributed(auto_mpi_discovery=False)
        return load_model(folder, dtype=torch.float32 if arithmetic == "float32" else torch.bfloat16)

    def state(self, trainer: Trainer) -> TrainingState:
        """Returns this process's flat ranges."""
        from lemur.training.state.zero import ZeroState

        return ZeroState(trainer)

    @contextmanager
    def gathered(self, parameters: Sequence[torch.nn.Parameter]) -> Iterator[Sequence[torch.Tensor]]:
        """Gathers what stage 3 divides."""
        import deepspeed

        with deepspeed.zero.GatheredParameters([part for part in parameters if hasattr(part, "ds_id")]):
            yield parameters


def _be_alone() -> None:
    """Describes a process that no launcher started, because DeepSpeed always makes a process group."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ.update(
        RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
