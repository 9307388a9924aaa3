"""What the rows share: the model, the tokens, the dialogues; and how a row is run."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.data.corpus import make_corpus, make_tokenizer
from benchmarks.data.ours import settings as mixing_settings
from benchmarks.data.processes import measure
from benchmarks.train.dialogues import write_dialogues
from benchmarks.train.rows import Device, Row, Steps
from benchmarks.train.sizes import Size
from lemur.model_size import training_flops_per_token

_TIMEOUT_SECONDS = 1800.0


@dataclass(frozen=True)
class Bench:
    """One size of model, with everything that is trained on."""

    work: Path
    """Folder for everything that is written."""
    size: Size
    """The model."""
    device: Device
    """What it runs on."""
    steps: Steps
    """How long each row runs."""
    repeats: int
    """How often each row is run; rows take turns."""
    seed: int
    """Seed of the dialogues."""

    @functools.cached_property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return make_tokenizer(self.work / f"tokenizer-{self.size.vocab_size}", self.size.vocab_size)

    @functools.cached_property
    def tokens(self) -> Path:
        """Receipt of the token mixture, made by the steps of the pipeline."""
        corpus = make_corpus(self.work / "corpus", self.size.corpus_bytes, 2)
        folder = self._made("tokens")
        data = {"sequence_length": self.size.sequence_length, "partition_bytes": 2**26}
        asked = mixing_settings(self.tokenizer, self.size.vocab_size, corpus.files, folder / "storage", data)
        (folder / "settings.json").write_text(json.dumps(asked))
        if not (folder / "tokens.json").exists():
            measure([sys.executable, "-m", "benchmarks.data.ours", "all", folder], work=folder / "process")
        return folder / "tokens.json"

    @functools.cached_property
    def base(self) -> Path:
        """Receipt of the model that all rows begin with, drawn at random and taught one step."""
        row = Row("base", "ours", {"stage": "pretrain", "section": self._one_step(), "num_warmup_steps": 0})
        folder = self._made("base")
        if not (folder / "receipt.json").exists():
            self._run(row, folder)
        return folder / "receipt.json"

    @property
    def dialogues(self) -> Path:
        """Receipt of the dialogues, as many as all steps learn from."""
        return self._drawn[0]

    @property
    def dialogue_lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each dialogue, as all rows read them."""
        return self._drawn[1]

    @functools.cached_property
    def _drawn(self) -> tuple[Path, npt.NDArray[np.int64]]:
        """Draws the dialogues; a few that came out longer than the window are left out, so that no row cuts any."""
        from lemur.receipt import digest_of
        from lemur.results import write_result
        from lemur.training.dialogues.chatml import encode_dialogue, prepare_tokenizer
        from lemur.training.models import load_tokenizer

        folder, size = self._made("dialogues"), self.size
        corpus = make_corpus(self.work / "corpus", size.corpus_bytes, 2)
        num_dialogues = self.steps.total * size.batch_dialogues
        file = folder / "dialogues.jsonl"
        write_dialogues(
            file,
            "\n".join(json.loads(line)["text"] for line in corpus.files[0].read_text().splitlines()),
            num_dialogues=num_dialogues + num_dialogues // 10 + 10,
            median=size.median_dialogue,
            window=size.sequence_length,
            bytes_per_token=corpus.num_bytes / self._num_corpus_tokens(),
            seed=self.seed,
        )
        tokenizer = load_tokenizer(self.tokenizer)
        prepare_tokenizer(tokenizer)
        lines = file.read_text().splitlines()
        lengths = [len(encode_dialogue(tokenizer, json.loads(line)["messages"]).token_ids) for line in lines]
        chosen = [number for number, length in enumerate(lengths) if length <= size.sequence_length][:num_dialogues]
        file.write_text("".join(f"{lines[number]}\n" for number in chosen))
        key = digest_of(file.read_text())
        storage = (folder / "storage").as_uri()
        writer = write_result(storage, prefix="dialogues/all", kind="dialogues", stage="mix", key=key, parents={})
        writer.add(file.name, file)
        writer.commit().save(folder / "receipt.json")
        return folder / "receipt.json", np.array([lengths[number] for number in chosen])

    def flops_per_token(self, stage: str) -> float:
        """Returns the operations that training on a token takes: `6 N + 12 L h s`, see `lemur.model_size`.

        N are the parameters a token is multiplied with; s is the length of what it may attend to, counted in full
        although the causal half would do (PaLM's convention, by which published figures are comparable; a kernel that
        uses the mask does half). For tuning s is the mean length of a token's own dialogue, sum(l²) / sum(l), the
        same for all rows: attention to padding or to other dialogues is no progress.
        """
        lengths = self.dialogue_lengths
        mean = float((lengths**2).sum() / lengths.sum()) if stage == "finetune" else float(self.size.sequence_length)
        return training_flops_per_token(self.size.architecture, self.size.vocab_size, sequence_length=mean)

    def run(self, row: Row) -> dict[str, Any]:
        """Runs a row once.

        Raises:
            CommandError: It failed; the message ends with its last lines.
        """
        folder = self.work / "runs" / uuid.uuid4().hex[:8]
        folder.mkdir(parents=True)
        try:
            return self._run(row, folder)
        finally:
            shutil.rmtree(folder)

    def _run(self, row: Row, folder: Path) -> dict[str, Any]:
        told: dict[str, Any] = {"num_warmup_steps": self.steps.num_warmup, **row.settings}
        needed = {"tokens": "tokens"} if told["stage"] == "pretrain" else {"dialogues": "dialogues", "base": "base"}
        if row.program == "peers":
            needed["base"] = "base"
        else:
            told |= {"storage": (folder / "storage").as_uri(), "model": self._model(), "hardware": self._hardware(row)}
        told |= {name: str(getattr(self, attribute)) for name, attribute in needed.items()}
        path = folder / "settings.json"
        path.write_text(json.dumps(told))
        command: list[str | Path] = [sys.executable, "-m", f"benchmarks.train.{row.program}", path]
        if row.program == "ours":
            command.append(folder / "receipt.json")
        # Threads that spin while they wait starve the one they wait for; our own jobs set this themselves.
        environment = {"LEMUR_WORK": str(folder / "work"), "OMP_WAIT_POLICY": "PASSIVE"}
        return measure(
            command, work=folder / "process", environment=environment, timeout_seconds=_TIMEOUT_SECONDS
        ).output

    def _made(self, name: str) -> Path:
        folder = self.work / self.size.name / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _num_corpus_tokens(self) -> int:
        return int(json.loads(self.tokens.read_text())["metrics"]["tokens"])

    def _model(self) -> dict[str, Any]:
        return {
            "start": {"kind": "random", "seed": 1},
            "architecture": self.size.architecture.model_dump(mode="json"),
            "tokenizer": {
                "kind": "pretrained",
                "name": str(self.tokenizer),
                "vocab_size": self.size.vocab_size,
            },
        }

    def _hardware(self, row: Row) -> Mapping[str, Any]:
        return {
            "backend": {"kind": "local"},
            "devices_per_node": row.num_processes,
            "accelerator": {
                "name": self.device.device,
                "memory_bytes": 2**36,
                "peak_flops": self.device.peak_flops,
            },
        }

    def _one_step(self) -> dict[str, Any]:
        batch_tokens = self.size.micro_batch_sequences * self.size.sequence_length
        return {
            "tokens": batch_tokens,
            "batch_tokens": batch_tokens,
            "micro_batch_sequences": self.size.micro_batch_sequences,
            "learning_rate": 1e-4,
            "warmup_steps": 1,
            "precision": "float32",
            "log_every_steps": 1,
        }
