"""Which rows a table has, and what each of them is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.train.sizes import Size


class Device(NamedTuple):
    """What the rows run on."""

    device: str
    """Its name, or `processor`."""
    num_devices: int
    """GPUs; 0 where there is none."""
    precision: str
    """What it computes in."""
    peak_flops: float
    """Its peak, in operations a second."""
    peak_is: str
    """Where that figure is from."""


class Row(NamedTuple):
    """One row of a table."""

    name: str
    """What it is, as the table says it."""
    program: str
    """Module of `benchmarks.train` that runs it: `ours` or `peers`."""
    settings: dict[str, Any]
    """What the module is told beside what all rows of a table have in common."""
    num_processes: int = 1
    """Processes that share the work."""


class Steps(NamedTuple):
    """How long a row runs."""

    num_warmup: int
    """Steps before the clock starts."""
    num_measured: int
    """Steps after that."""

    @property
    def total(self) -> int:
        """All steps."""
        return self.num_warmup + self.num_measured


def pretraining_rows(size: Size, steps: Steps, device: Device, *, compiled: bool) -> list[Row]:
    """Returns the rows of pretraining: the plain Trainer and ours; on a GPU float8 too, and engines on several.

    Args:
        size: The model.
        steps: How long each row runs.
        device: What it runs on.
        compiled: Whether models are compiled.
    """
    plain = _peer(size, steps, device, compiled=compiled) | {
        "stage": "pretrain",
        "batch_sequences": size.batch_sequences,
        "micro_batch": size.micro_batch_sequences,
        "accumulation": size.batch_sequences // size.micro_batch_sequences,
    }

    def ours(name: str, num_processes: int = 1, **changes: Any) -> Row:
        section = {
            **_section(device, compiled=compiled),
            "tokens": steps.total * size.batch_sequences * size.sequence_length,
            "batch_tokens": size.batch_sequences * size.sequence_length,
            "micro_batch_sequences": size.micro_batch_sequences,
            "warmup_steps": 1,
            "weight_decay": 0.0,
            **changes,
        }
        return Row(name, "ours", {"stage": "pretrain", "section": section}, num_processes)

    rows = [
        Row("transformers.Trainer; documents see each other", "peers", plain),
        ours("Lemur; documents see each other", isolate_documents=False),
        ours("Lemur"),
    ]
    if device.num_devices:
        rows.append(ours("Lemur, float8", precision="float8", compile=True))
    rows += [
        ours(f"Lemur, {_told(engine)}, {device.num_devices} GPUs", device.num_devices, engine=engine)
        for engine in _engines(device)
    ]
    return rows


def tuning_rows(size: Size, steps: Steps, device: Device, *, compiled: bool, mean_dialogue: float) -> list[Row]:
    """Returns the rows of tuning: the original's way, the plain libraries, and ours.

    Args:
        size: The model.
        steps: How long each row runs.
        device: What it runs on.
        compiled: Whether models are compiled.
        mean_dialogue: Tokens of a dialogue on average, from which the packs of a step follow.
    """
    plain = _peer(size, steps, device, compiled=compiled) | {
        "stage": "finetune",
        "sequence_length": size.sequence_length,
        "micro_batch": size.micro_batch_dialogues,
        "accumulation": size.batch_dialogues // size.micro_batch_dialogues,
    }
    packs = max(1, round(size.batch_dialogues * mean_dialogue / size.sequence_length))
    micro_batch = min(size.micro_batch_sequences, packs)
    packed = {"micro_batch": micro_batch, "accumulation": max(1, round(packs / micro_batch))}

    def ours(name: str, num_processes: int = 1, **changes: Any) -> Row:
        section = {
            **_section(device, compiled=compiled),
            "epochs": 1.0,
            "batch_dialogues": size.batch_dialogues,
            "micro_batch_dialogues": micro_batch,
            "max_length": size.sequence_length,
            **changes,
        }
        return Row(name, "ours", {"stage": "finetune", "section": section}, num_processes)

    rows = [
        Row("the original's way: padded to the longest", "peers", {**plain, "way": "original", "compile": False}),
        Row("transformers.Trainer, grouped by length", "peers", {**plain, "way": "trainer"}),
        Row("trl.SFTTrainer, as it comes", "peers", {**plain, "way": "trl"}),
        Row("trl.SFTTrainer, packing bfd, padding-free", "peers", {**plain, **packed, "way": "trl-packing"}),
        ours("Lemur"),
    ]
    rows += [
        ours(f"Lemur, {_told(engine)}, {device.num_devices} GPUs", device.num_devices, engine=engine)
        for engine in _engines(device)
    ]
    return rows


def checkpoint_row(size: Size, steps: Steps, device: Device, *, compiled: bool) -> Row:
    """Returns a run of ours that stores a checkpoint every other step of those that are measured."""
    rows = {row.name: row for row in pretraining_rows(size, steps, device, compiled=compiled)}
    plain = rows["Lemur"]
    section = {**plain.settings["section"], "checkpoint_every_steps": 2, "keep_checkpoints": 1}
    return plain._replace(settings={**plain.settings, "section": section})


def num_checkpoints(steps: Steps) -> int:
    """Returns how many checkpoints `checkpoint_row` stores; after the last step there is none."""
    return (steps.total - 1) // 2


def _section(device: Device, *, compiled: bool) -> dict[str, Any]:
    return {
        "learning_rate": 1e-4,
        "precision": device.precision,
        "compile": compiled,
        "checkpoint_every_steps": 10**6,
        "log_every_steps": 1,
    }


def _peer(size: Size, steps: Steps, device: Device, *, compiled: bool) -> dict[str, Any]:
    return {
        "precision": device.precision,
        "compile": compiled,
        "num_steps": steps.total,
        "num_warmup_steps": steps.num_warmup,
        "num_workers": 2 if device.num_devices else 0,
    }


def _engines(device: Device) -> list[Mapping[str, Any]]:
    """Returns ways to share a model over several GPUs."""
    if device.num_devices < 2:
        return []
    return [{"kind": "ddp"}, {"kind": "fsdp"}, *({"kind": "deepspeed", "zero_stage": stage} for stage in (1, 2, 3))]


def _told(engine: Mapping[str, Any]) -> str:
    return " ".join(str(value) for value in engine.values()).replace("deepspeed", "DeepSpeed ZeRO")
