"""The benchmark of training runs: with a model so small that its figures mean nothing."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.train.dialogues import write_dialogues
from benchmarks.train.measured import window_of_curve
from benchmarks.train.rows import Device, Steps, checkpoint_row, num_checkpoints, pretraining_rows, tuning_rows
from benchmarks.train.sizes import SIZES
from lemur.recipe import FinetuneSection, PretrainSection

_ROOT = Path(__file__).parents[2]
_GPUS = Device("NVIDIA H100 80GB HBM3", 8, "bfloat16", 989e12, "data sheet")


@pytest.mark.timeout(900)  # Nine processes, each of which imports the libraries.
def test_rows_are_measured_on_the_same_tokens_and_one_that_cannot_run_says_why(tmp_path: Path) -> None:
    small = ("--sizes=tiny", "--steps=2", "--warmup-steps=1", "--repeats=1", "--rehearse=2")
    rows = "original|packing|^Lemur$|documents see|float8"
    options = (*small, "--only=finetune,pretrain", f"--rows={rows}", f"--json={tmp_path / 'json'}")
    command = [sys.executable, "-m", "benchmarks.train", *options]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)

    tuning, pretraining = json.loads((tmp_path / "json").read_text())["tables"]
    names = [row[0] for row in tuning["rows"]]
    assert names == ["the original's way: padded to the longest", "trl.SFTTrainer, packing bfd, padding-free", "Lemur"]
    assert tuning["title"] in done.stdout
    original, packing, _ = tuning["measurements"]
    assert original["padded_tokens"] > 1.1 * original["tokens"]
    assert packing["padded_tokens"] == packing["tokens"]
    plain, *ours = pretraining["measurements"]
    assert plain["tokens"] == 2 * 4 * 128
    assert [run["tokens"] for run in ours] == [plain["tokens"]] * 2
    for run in (*tuning["measurements"], *pretraining["measurements"]):
        assert 0 < run["wait_seconds"] < run["seconds"]
        assert run["peak_memory_bytes"] > 1e8
        # Six nats are what a model says that knows nothing of 512 entries.
        assert 5.5 < run["loss"] < 6.7

    # Processors do not compute float8: the row says so, and the whole does not pass for measured.
    assert pretraining["rows"][-1][0] == "Lemur, float8"
    assert re.match("not measured: .*float8", pretraining["rows"][-1][1])
    assert done.returncode == 1


def test_an_unknown_size_is_refused_with_those_there_are() -> None:
    command = [sys.executable, "-m", "benchmarks.train", "--sizes=7b"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert "--sizes: '7b' is unknown; there are tiny, 20m, 1b, 3b" in done.stderr


@pytest.mark.parametrize("name", list(SIZES))
def test_every_row_is_a_section_that_the_recipe_takes(name: str) -> None:
    size, steps = SIZES[name], Steps(5, 20)
    rows = [
        *pretraining_rows(size, steps, _GPUS, compiled=True),
        *tuning_rows(size, steps, _GPUS, compiled=True, mean_dialogue=650.0),
        checkpoint_row(size, steps, _GPUS, compiled=True),
    ]
    ours = [row for row in rows if row.program == "ours"]

    for row in ours:
        model = PretrainSection if row.settings["stage"] == "pretrain" else FinetuneSection
        model.model_validate(row.settings["section"])
    engines = {row.name.removeprefix("Lemur, ") for row in ours if row.num_processes == 8}
    assert engines == {f"{engine}, 8 GPUs" for engine in ("ddp", "fsdp", *(f"DeepSpeed ZeRO {n}" for n in (1, 2, 3)))}
    assert any(row.settings["section"]["precision"] == "float8" for row in ours)
    plain = [row.settings for row in rows if row.program == "peers"]
    for settings in plain:
        assert settings["num_steps"] == 25
        assert settings["compile"] == (settings.get("way") != "original")
    # A step of the plain Trainer reads what a step of ours does.
    assert plain[0]["micro_batch"] * plain[0]["accumulation"] == size.batch_sequences
    assert num_checkpoints(steps) == 12


def test_lengths_of_dialogues_have_a_long_tail_within_the_window(tmp_path: Path) -> None:
    path = tmp_path / "dialogues.jsonl"
    text = "".join(chr(97 + number % 26) for number in range(100_000))
    write_dialogues(path, text, num_dialogues=2000, median=240, window=2048, bytes_per_token=4.0, seed=0)

    dialogues = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    lengths = [sum(len(turn["content"]) / 4.0 + 8 for turn in dialogue) for dialogue in dialogues]
    assert statistics.median(lengths) == pytest.approx(240, rel=0.1)
    assert statistics.fmean(lengths) > 1.4 * statistics.median(lengths)
    assert 0.85 * 2048 < max(lengths) <= 0.9 * 2048 + 1
    for dialogue in dialogues:
        assert [turn["role"] for turn in dialogue] == ["user", "assistant"] * (len(dialogue) // 2)


def test_only_the_window_of_a_curve_counts(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    points = [
        {"step": 1, "tokens": 100, "seconds": 50.0, "data_wait_share": 0.9, "loss": 6.0},
        {"step": 2, "tokens": 200, "seconds": 60.0, "data_wait_share": 0.5, "loss": 5.0},
        {"step": 3, "tokens": 310, "seconds": 61.0, "data_wait_share": 0.1, "loss": 4.0},
        {"step": 4, "tokens": 410, "seconds": 63.0, "data_wait_share": 0.2, "loss": 3.0},
    ]
    path.write_text("".join(json.dumps(point) + "\n" for point in points))

    found = window_of_curve(path, 2)

    assert found == {"tokens": 210, "seconds": 3.0, "wait_seconds": pytest.approx(0.5), "loss": 4.5}
