"""Steps that would harm the model do not change it, the same in every process and with every engine."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import ForkedBackend
from small_training import SEQUENCE_LENGTH, hardware_section, losses_of, pretrain_section, weights_of

from lemur.errors import TrainingError
from lemur.receipt import Receipt
from lemur.recipe import ModelSection, SpikeLimits
from lemur.storage import open_storage
from lemur.training import run
from lemur.training.loop.spikes import RecentSteps

NUM_STEPS = 16
ENGINES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "tensor parallel": {"kind": "fsdp", "tensor_parallel": 2},
    "zero 1": {"kind": "deepspeed", "zero_stage": 1},
    "zero 1, bfloat16": {"kind": "deepspeed", "zero_stage": 1},
    "zero 2": {"kind": "deepspeed", "zero_stage": 2},
    "zero 2, bfloat16": {"kind": "deepspeed", "zero_stage": 2},
    "zero 3": {"kind": "deepspeed", "zero_stage": 3},
}
FAULTY = ForkedBackend(prepare="faulty")
NO_NUMBER = "nan"


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says what goes wrong in the processes of the next runs."""
    monkeypatch.setenv("FAULTS_OUT", str(tmp_path))
    monkeypatch.setenv("LEMUR_JOB_ERROR", str(tmp_path / "error.json"))

    def plant(**planted: Any) -> None:
        monkeypatch.setenv("FAULTS", json.dumps(planted))

    plant()
    return plant


@pytest.fixture
def pretrain(storage: str, tokens: Receipt, model: ModelSection) -> Callable[..., Receipt]:
    """Pretrains the tiny model with faults."""

    def start(num_processes: int = 2, **changes: Any) -> Receipt:
        settings = {"tokens": NUM_STEPS * 8 * SEQUENCE_LENGTH, "log_every_steps": 1, **changes}
        made = run.pretrain(
            model=model,
            pretrain=pretrain_section(**settings),
            hardware=hardware_section(FAULTY, devices_per_node=num_processes),
            tokens=tokens,
            storage=storage,
            run="faulty",
        )
        return made.base

    return start


def rates_of(made: Receipt) -> list[float]:
    """Returns the learning rate of each step."""
    lines = open_storage(made.uri).read("metrics.jsonl").decode().splitlines()
    return [json.loads(line)["learning_rate"] for line in lines]


def states(folder: Path, rank: int) -> list[dict[str, Any]]:
    """Returns what a rank held after each step."""
    return [json.loads(line) for line in (folder / f"states-{rank}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ENGINES)
def test_a_skipped_step_changes_nothing_in_any_process(
    name: str,
    pretrain: Callable[..., Receipt],
    faults: Callable[..., None],
    tmp_path: Path,
    notes: Callable[[], str],
) -> None:
    spike = 1e6
    faults(rank=1, losses={1: NO_NUMBER, 5: NO_NUMBER, 14: spike})

    precision = "bfloat16" if "bfloat16" in name else "float32"
    made = pretrain(engine=ENGINES[name], precision=precision, skip_spikes={"window_steps": 8})

    skipped = {row["step"]: row for row in made.metadata["skipped"]}
    assert {step: row["fault"] for step, row in skipped.items()} == {
        1: "loss is no number",
        5: "loss is no number",
        14: "loss spiked",
    }
    assert skipped[5]["loss"] is None
    assert skipped[14]["loss"] > 1e4
    assert made.metadata["skipped_steps"] == [1, 5, 14]
    assert "step 5: loss is no number" in notes()
    for rank in (0, 1):
        told = states(tmp_path, rank)
        assert [row["updates"] for row in told] == [0, 1, 2, 3, 3, *range(4, 12), 11, 12, 13][:NUM_STEPS]
        for before, after in itertools.pairwise(told):
            assert (before["state"] == after["state"]) == (after["step"] in skipped), after["step"]
    # What is no number has no place in the curve, and the rest goes on as it would have.
    losses = [loss for loss in losses_of(made) if loss is not None]
    assert len(losses) == NUM_STEPS - len(skipped)
    assert losses[-1] < losses[0] - 1
    rates = rates_of(made)
    assert rates == sorted(set(rates[:2])) + sorted(set(rates[2:]), reverse=True)


@pytest.mark.parametrize("name", ["ddp", "zero 2"])
def test_an_interrupted_run_with_a_skipped_step_ends_as_an_unbroken_one(
    name: str, pretrain: Callable[..., Receipt], faults: Callable[..., None], tokens: Receipt, storage: str
) -> None:
    settings = {"engine": ENGINES[name], "skip_spikes": {"window_steps": 8}, "checkpoint_every_steps": 6}
    planted = {"rank": 1, "losses": {5: NO_NUMBER, 14: 1e6}}
    faults(**planted)
    unbroken = pretrain(**settings)
    weights, losses = weights_of(unbroken), losses_of(unbroken)
    clear(storage)

    # The spike comes after the resumption, and eight accepted steps are known only with those before it.
    faults(**planted, kill=10)
    with pytest.raises(TrainingError):
        pretrain(**settings)
    faults(**planted)
    resumed = pretrain(**settings)

    assert resumed.metadata["resumed_at_steps"] == [6]
    assert resumed.metadata["skipped"] == unbroken.metadata["skipped"]
    assert losses_of(resumed) == losses
    assert weights_of(resumed) == weights


def clear(storage: str) -> None:
    """Deletes the models, so that the next run makes them again."""
    shutil.rmtree(f"{storage.removeprefix('file://')}/checkpoints")


@pytest.mark.parametrize(("name", "step"), [("ddp", 3), ("zero 3", 10)])
def test_a_rank_that_is_asked_to_stop_takes_all_of_them_along_with_a_checkpoint(
    name: str, step: int, pretrain: Callable[..., Receipt], faults: Callable[..., None], tmp_path: Path
) -> None:
    settings = {"engine": ENGINES[name], "checkpoint_every_steps": 100}
    unbroken = weights_of(pretrain(**settings))
    clear((tmp_path / "storage").as_uri())

    faults(rank=1, terminate=step)
    with pytest.raises(TrainingError, match=r"\[143, 143\]"):
        pretrain(**settings)
    (stored,) = (tmp_path / "storage" / "checkpoints").glob("*-steps/*/manifest.json")
    faults()
    resumed = pretrain(**settings)

    assert stored.parent.name == f"{step:08d}"
    said = json.loads((tmp_path / "error.json").read_text(encoding="utf-8"))
    assert said["type"] == "PreemptedError"
    assert f"after step {step} of {NUM_STEPS}, with a checkpoint" in said["message"]
    assert resumed.metadata["resumed_at_steps"] == [step]
    assert weights_of(resumed) == unbroken


def test_too_many_skipped_steps_end_the_run_and_name_their_data(
    pretrain: Callable[..., Receipt], faults: Callable[..., None], tmp_path: Path
) -> None:
    faults(rank=1, losses={3: NO_NUMBER, 6: NO_NUMBER})

    with pytest.raises(TrainingError, match=r"\[6, 6\]"):
        pretrain(max_skipped_steps=1)

    message = json.loads((tmp_path / "error.json").read_text(encoding="utf-8"))["message"]
    assert "2 steps were skipped, and max_skipped_steps is 1; step 6: loss is no number" in message
    # Rank 1's first micro batch of two sequences is the second of the step's four, which begins with sequence 40.
    first = message.splitlines()[2]
    assert first.startswith("  item 42: code: functions.py:")
    assert "item 40" not in message
    assert "raise max_skipped_steps and run again" in message


def test_weights_that_give_no_numbers_end_the_run_soon(
    pretrain: Callable[..., Receipt], faults: Callable[..., None], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"\[6\]"):
        pretrain(1, learning_rate=1e30)

    message = json.loads((tmp_path / "error.json").read_text(encoding="utf-8"))["message"]
    assert "the last 5 steps gave no numbers, so the weights are past saving" in message
    assert "lower learning_rate (1e+30)" in message


def test_a_spike_is_judged_by_the_accepted_steps_alone() -> None:
    recent = RecentSteps(SpikeLimits(window_steps=8, deviations=6.0))
    for number in range(8):
        assert recent.fault(5.0, 1.0 + 0.01 * number) is None

    # The deviation is at least a twentieth of the median.
    assert recent.fault(5.0, 1.3) is None
    assert recent.fault(5.0, 1.4) == "gradient spiked"
    assert recent.fault(7.0, 1.0) == "loss spiked"
    for _ in range(20):
        # However often it comes, what was not accepted does not become the measure.
        assert recent.fault(5.0, 100.0) == "gradient spiked"
    assert recent.fault(4.0, 0.1) is None


def test_without_limits_only_what_is_no_number_is_refused() -> None:
    recent = RecentSteps(None)
    for _ in range(300):
        assert recent.fault(1.0, 1.0) is None

    assert recent.fault(1e9, 1e9) is None
    assert recent.fault(math.nan, 1.0) == "loss is no number"
    assert recent.fault(1.0, math.inf) == "gradient is no number"


def test_what_was_judged_before_an_interruption_still_counts() -> None:
    limits = SpikeLimits(window_steps=8, deviations=6.0)
    before, after = RecentSteps(limits), RecentSteps(limits)
    for _ in range(8):
        before.fault(5.0, 1.0)

    after.restore(json.loads(json.dumps(before.state())))

    assert after.fault(5.0, 9.0) == before.fault(5.0, 9.0) == "gradient spiked"
