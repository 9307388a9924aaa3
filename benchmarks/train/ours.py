"""A real training job of Lemur as a process to be measured: `python -m benchmarks.train.ours SETTINGS RECEIPT`.

The settings are what `lemur.training.run.pretrain` or `finetune` takes, as JSON; the receipt of the result is written
to the second file, and what was measured is printed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.train.measured import Measured, window_of_curve
from lemur.receipt import Receipt
from lemur.recipe import FinetuneSection, HardwareSection, ModelSection, PretrainSection
from lemur.results import fetch
from lemur.training import run


def main(settings: dict[str, Any], receipt_path: Path) -> None:
    """Runs the job and prints what it took."""
    hardware = HardwareSection.model_validate(settings["hardware"])
    where = {"hardware": hardware, "storage": settings["storage"], "run": "benchmark"}
    if settings["stage"] == "pretrain":
        made = run.pretrain(
            model=ModelSection.model_validate(settings["model"]),
            pretrain=PretrainSection.model_validate(settings["section"]),
            tokens=Receipt.load(settings["tokens"]),
            **where,
        ).base
    else:
        made = run.finetune(
            finetune=FinetuneSection.model_validate(settings["section"]),
            base=Receipt.load(settings["base"]),
            dialogues=Receipt.load(settings["dialogues"]),
            **where,
        )
    made.save(receipt_path)
    folder = fetch(made, receipt_path.with_suffix(""), ["metrics.jsonl"])
    if not settings["num_warmup_steps"]:
        print("{}")
        return
    found = window_of_curve(folder / "metrics.jsonl", settings["num_warmup_steps"])
    tokens, metadata = int(found["tokens"]), made.metadata
    told = ("engine", "kernels", "steps", "processes")
    Measured(
        tokens,
        round(tokens / (1 - metadata.get("padding_share", 0.0))),
        found["seconds"],
        found["wait_seconds"],
        int(made.metrics["peak_memory_bytes"]),
        found["loss"],
        {
            **{name: metadata[name] for name in told if name in metadata},
            "checkpoint_stall_seconds": made.metrics.get("checkpoint_stall_seconds", 0.0),
        },
    ).write()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
