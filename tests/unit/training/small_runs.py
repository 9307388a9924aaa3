"""Runs of a tiny model that need nothing of the stages: a Trainer, an engine, and checkpoints."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lemur.training.run import QUIET

os.environ.update(QUIET, DS_ACCELERATOR="cpu")
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["lemur.training.loop.running", "deepspeed", "transformers.models.llama"])

ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "zero1": {"kind": "deepspeed", "zero_stage": 1},
    "zero2": {"kind": "deepspeed", "zero_stage": 2},
    "zero3": {"kind": "deepspeed", "zero_stage": 3},
    "fsdp": {"kind": "fsdp"},
}
TENSOR_PARALLEL = {"tensor_parallel": {"kind": "fsdp", "tensor_parallel": 2}}
BATCH = 6
"""Sequences in a step: whole for 1, 2 and 3 processes."""
NUM_STEPS = 12


@dataclass(frozen=True)
class Run:
    """One attempt of a training job."""

    folder: Path
    """Where the model and the storage are; attempts in the same one continue each other."""
    engine: str = "ddp"
    """One of `ENGINES`, or of `TENSOR_PARALLEL`."""
    num_ranks: int = 1
    """Processes."""
    storage: str | None = None
    """Root URI of the storage; by default a folder below `folder`."""
    stop_after: int = NUM_STEPS
    """Step after which it stops as when preempted."""
    kill_after: int | None = None
    """Step after which rank 1, or the only one, kills itself."""
    kill_in_upload_of: int | None = None
    """Step whose checkpoint rank 1 does not live to store."""
    slow_storage: str | None = None
    """File that uploads wait for."""
    precision: str = "float32"
    """Arithmetic."""
    section: dict[str, Any] = field(default_factory=dict)
    """Settings of the section that differ."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Sizes of the model that differ."""
    adapters: bool = False
    """Whether low-rank adapters are trained on a frozen model."""
    environment: dict[str, str] = field(default_factory=dict)
    """Variables."""

    def go(self) -> list[dict[str, Any]]:
        """Runs it to its end; returns what each process says, with its exit code."""
        _make_model(self.folder / "model", self.sizes)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        out = self.folder / "said"
        out.mkdir(parents=True, exist_ok=True)
        for path in out.iterdir():
            path.unlink()
        processes = [
            _CONTEXT.Process(target=_process, args=(self, rank, port, dict(os.environ)))
            for rank in range(self.num_ranks)
        ]
        for process in processes:
            process.start()
        _join(processes)
        said = []
        for rank, process in enumerate(processes):
            path = out / f"{rank}.json"
            told = json.loads(path.read_text()) if path.is_file() else {}
            said.append({"exit_code": process.exitcode, **told})
        return said


def _join(processes: list[Any]) -> None:
    """Waits for all; where one fails, the others are ended, as torchrun's agent does."""
    while any(process.is_alive() for process in processes):
        if any(process.exitcode for process in processes):
            time.sleep(1)
            for process in processes:
                process.kill()
        time.sleep(0.02)
    for process in processes:
        process.join()


def _make_model(folder: Path, sizes: dict[str, int]) -> None:
    if folder.exists():
        return
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    # Sizes that two or three processes cannot divide evenly; of the keys' four rows, the last of three has none.
    uneven = {
        "vocab_size": 97,
        "hidden_size": 20,
        "intermediate_size": 34,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
    }
    LlamaForCausalLM(LlamaConfig(**{**uneven, **sizes})).save_pretrained(folder)


def _process(run: Run, rank: int, port: int, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment, DS_ACCELERATOR="cpu", CUDA_VISIBLE_DEVICES="", **run.environment)
    if run.num_ranks > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(run.num_ranks),
            LOCAL_WORLD_SIZE=str(run.num_ranks),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            GLOO_SOCKET_IFNAME="lo",
        )
    import torch

    torch.set_num_threads(1)
    told: dict[str, Any] = {}
    code = 0
    try:
        _train(run, rank, told)
    except Exception as error:
        import traceback

        told["error"], code = f"{type(error).__name__}: {error}", 1
        told["traceback"] = traceback.format_exc()
    (run.folder / "said" / f"{rank}.json").write_text(json.dumps(told))
    # As training processes do: without waiting for a group that others may have left.
    os._exit(code)


def _train(run: Run, rank: int, told: dict[str, Any]) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from small_training import pretrain_section
    from transformers import PrinterCallback, TrainerCallback, TrainingArguments

    from lemur.training.checkpoints.resuming import newest_whole
    from lemur.training.checkpoints.steps import StepCheckpoints
    from lemur.training.description import TrainingDescription
    from lemur.training.engine import Processes
    from lemur.training.loop.checkpointing import Checkpointing
    from lemur.training.loop.curve import LossCurve
    from lemur.training.loop.running import SavingTrainer
    from lemur.training.loop.seeding import Seeding

    section = pretrain_section(
        engine={**ENGINES, **TENSOR_PARALLEL}[run.engine],
        **{"checkpoint_every_steps": 4, "checkpoint_retry_seconds": 0, **run.section},
    )
    arithmetic: Any = run.precision
    arguments = TrainingArguments(
        output_dir=str(run.folder / "work" / "trainer"),
        max_steps=NUM_STEPS,
        learning_rate=0.01,
        warmup_steps=2,
        lr_scheduler_type="cosine",
        weight_decay=0.1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=BATCH * section.engine.tensor_parallel_size // run.num_ranks,
        optim="adamw_torch_fused",
        use_cpu=True,
        ddp_backend="gloo" if run.num_ranks > 1 else None,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **section.engine.arguments(section, arithmetic, Processes(run.num_ranks, True)),
    )
    # Makes the process group, before anything is divided over it.
    assert arguments.distributed_state.num_processes == run.num_ranks
    model: Any = section.engine.load(run.folder / "model", arithmetic)
    if run.adapters:
        torch.manual_seed(1)
        model = get_peft_model(model, LoraConfig(r=3, target_modules=["q_proj", "up_proj"]))
    job = TrainingDescription(storage=run.storage or (run.folder / "storage").as_uri(), key="0" * 64, peak_flops=1.0)
    checkpoints = StepCheckpoints(job, section, stage="pretrain", parents={})
    resumed = newest_whole(arguments, checkpoints, run.folder / "work" / "resumed")
    curve = LossCurve(steps_per_point=1, num_steps=NUM_STEPS, flops_per_token=1.0, peak_flops=1.0)
    if resumed:
        curve.restore(resumed.folder, resumed.step)
    told["resumed_at"] = resumed.step if resumed else None

    class Data(torch.utils.data.Dataset[Any]):
        first = (resumed.step if resumed else 0) * BATCH

        def __len__(self) -> int:
            return NUM_STEPS * BATCH

        def __getitem__(self, index: int) -> dict[str, Any]:
            place = self.first + index
            ids = torch.randint(0, 96, (16,), generator=torch.Generator().manual_seed(place)) // (1 + place % 5)
            return {"input_ids": ids, "labels": ids}

    checkpointing = Checkpointing(
        checkpoints,
        resumed,
        curve,
        None,
        section=section,
        folder=run.folder / "work",
        leaves_after=lambda state: state.global_step == run.stop_after < NUM_STEPS,
    )

    class Watching(TrainerCallback):
        """Keeps the curve, notes what the state is, and does what the run says."""

        said = 0

        def checkpoint_state(self) -> dict[str, Any]:
            return {"said": self.said}

        def restore_state(self, state: dict[str, Any]) -> None:
            told["restored"] = state

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.said = state.global_step
            if state.global_step == run.stop_after < NUM_STEPS:
                control.should_save = control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if "loss" in logs:
                rates = {name: float(logs[name]) for name in ("loss", "learning_rate", "grad_norm")}
                curve.add(state.global_step, state.global_step, **rates)
                if state.global_step == run.kill_after and rank == run.num_ranks - 1:
                    os.kill(os.getpid(), signal.SIGKILL)

    if run.kill_in_upload_of is not None and rank == 1:
        _die_in_upload_of(run.kill_in_upload_of)
    watching = Watching()
    trainer = SavingTrainer(
        model=model, args=arguments, train_dataset=Data(), callbacks=[Seeding(0), watching, checkpointing]
    )
    trainer.remove_callback(PrinterCallback)
    checkpointing.attach(trainer)
    if run.slow_storage:
        _wait_in_upload_for(Path(run.slow_storage))
    told["state_at_start"] = None

    class Dumping(TrainerCallback):
        """Comes after the checkpoint was taken up."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if resumed:
                told["state_at_start"] = _dump(section.engine.state(trainer))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if run.slow_storage and state.global_step == 5:
                told["stored_when_let_go"] = checkpointing._begun().stored_step
                Path(run.slow_storage).touch()

    trainer.add_callback(Dumping())
    with checkpointing.in_background():
        trainer.train()
    state = section.engine.state(trainer)
    told.update(
        state_at_end=_dump(state),
        owned=[[stretch.parameter, stretch.part, list(stretch.shape), *stretch.runs] for stretch in state.owned()],
        num_updates=state.num_updates(),
        losses=[point["loss"] for point in curve.points],
        rates=[point["learning_rate"] for point in curve.points],
        stall_seconds=checkpointing.stall_seconds,
        weights=_weights(section.engine, trainer),
    )


def _dump(state: Any) -> list[Any]:
    """Returns all numbers a process holds, as JSON."""
    return [
        [stretch.parameter, stretch.part, list(stretch.shape), *stretch.runs, stretch.values.flatten().tolist()]
        for stretch in state.held()
    ]


def _weights(engine: Any, trainer: Any) -> str:
    """Returns a digest of what the model computes with, not of the masters behind it."""
    import hashlib

    import torch
    from torch.distributed.tensor import DTensor

    digest = hashlib.sha256()
    for name, parameter in sorted(trainer.model.named_parameters()):
        if hasattr(parameter, "ds_id"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([parameter]):
                whole = parameter.detach().clone()
        else:
            whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
        digest.update(name.encode())
        digest.update(whole.detach().to(torch.float32).numpy().tobytes())
    return digest.hexdigest()


def _die_in_upload_of(step: int) -> None:
    import lemur.training.checkpoints.saving as saving

    write = saving._write

    def write_half(name: str, file: Any, path: Path) -> Any:
        if f"{step:08d}" in str(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f"{name}.half").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return write(name, file, path)

    saving._write = write_half


def _wait_in_upload_for(path: Path) -> None:
    import lemur.training.checkpoints.saving as saving

    write = saving._write

    def wait_then_write(*arguments: Any) -> Any:
        while not path.exists():
            time.sleep(0.01)
        return write(*arguments)

    saving._write = wait_then_write


Numbers = dict[tuple[str, str], list[float]]


def whole_state(said: list[dict[str, Any]], when: str) -> Numbers:
    """Puts together what processes said of their state; where several have an element, they must agree.

    Args:
        said: What `Run.go` returned.
        when: `state_at_start` or `state_at_end`.
    """
    found: Numbers = {}
    for told in said:
        for name, part, shape, *runs, values in told[when]:
            numbers = found.setdefault((name, part), [math.nan] * math.prod(shape))
            for place, value in zip(places(*runs), values, strict=True):
                assert math.isnan(numbers[place]) or numbers[place] == value, (name, part, place)
                numbers[place] = value
    assert not any(math.isnan(value) for numbers in found.values() for value in numbers)
    return found


def places(start: int, length: int, num_runs: int, stride: int) -> list[int]:
    """Returns the elements of a flattened parameter that runs stand for, in their order."""
    return [start + run * stride + place for run in range(num_runs) for place in range(length)]
