"""Pretraining from a mixture to a stored model, whatever happens on the way."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import ForkedBackend, NoBackend
from small_training import (
    SEQUENCE_LENGTH,
    folder_of,
    hardware_section,
    losses_of,
    make_tokens,
    model_section,
    pretrain_section,
    weights_of,
)
from transformers import PreTrainedTokenizerFast

from lemur.errors import PlanError, RecipeError, StorageError, TrainingError
from lemur.receipt import Receipt
from lemur.recipe import ModelSection
from lemur.storage import open_storage
from lemur.training import run
from lemur.training.backend import Backend


@pytest.fixture
def pretrain(storage: str, tokens: Receipt, model: ModelSection) -> Callable[..., run.Pretrained]:
    """Pretrains the tiny model; keyword arguments replace parts of it."""

    def start(backend: Backend | None = None, **changes: Any) -> run.Pretrained:
        arguments = {
            "model": model,
            "pretrain": pretrain_section(),
            "hardware": hardware_section(backend),
            "tokens": tokens,
            "storage": storage,
            "run": "tiny",
        }
        return run.pretrain(**{**arguments, **changes})

    return start


def test_it_learns_and_stores_a_model_that_transformers_loads(pretrained: run.Pretrained, shared_storage: str) -> None:
    initial, base = pretrained

    losses = losses_of(base)
    assert len(losses) == 4
    assert losses[-1] < losses[0] - 1
    assert base.metrics["final_loss"] == losses[-1]
    assert base.metadata["steps"] == 12
    assert base.metadata["tokens"] == 12 * 8 * SEQUENCE_LENGTH
    assert (initial.metadata["role"], base.metadata["role"]) == ("initial", "base")
    assert base.parents["initial"].digest == initial.digest
    # What only served the run is gone.
    names = {found.name for found in open_storage(shared_storage).list()}
    assert not any(name.startswith("jobs/") or "steps" in name for name in names)

    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = folder_of(base)
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert loaded.num_parameters() == base.metadata["num_parameters"]
    assert loaded.generation_config.eos_token_id == tokenizer.eos_token_id


def test_a_second_run_trains_nothing_whatever_the_hardware_and_the_bookkeeping(
    pretrain: Callable[..., run.Pretrained], pretrained: run.Pretrained, shared_storage: str
) -> None:
    section = pretrain_section(log_every_steps=1, checkpoint_every_steps=2, micro_batch_sequences=1)
    found = pretrain(
        pretrain=section, hardware=hardware_section(NoBackend(), devices_per_node=2), storage=shared_storage
    )

    assert found == pretrained


def test_two_processes_learn_what_one_learns(
    pretrain: Callable[..., run.Pretrained], pretrained: run.Pretrained
) -> None:
    together = pretrain(hardware=hardware_section(devices_per_node=2))

    assert together.base.metadata["processes"] == 2
    assert together.initial.digest == pretrained.initial.digest
    assert losses_of(together.base) == pytest.approx(losses_of(pretrained.base), abs=1e-4)


@pytest.mark.parametrize(
    ("killed", "resumed_at"),
    [
        (ForkedBackend(kill_after_step=2), []),
        (ForkedBackend(kill_after_step=7), [4]),
        (ForkedBackend(kill_in_commit_of_step=8), [4]),
        (ForkedBackend(kill_after_step=12), [8]),
    ],
    ids=["before a checkpoint", "between checkpoints", "while a checkpoint is stored", "after the last step"],
)
def test_a_killed_run_ends_as_an_unbroken_one(
    pretrain: Callable[..., run.Pretrained], pretrained: run.Pretrained, killed: ForkedBackend, resumed_at: list[int]
) -> None:
    with pytest.raises(TrainingError, match="-9"):
        pretrain(killed)
    resumed = pretrain()

    assert resumed.base.metadata["resumed_at_steps"] == resumed_at
    assert weights_of(resumed.base) == weights_of(pretrained.base)
    assert losses_of(resumed.base) == losses_of(pretrained.base)


def test_a_run_killed_with_two_processes_goes_on_with_one(
    pretrain: Callable[..., run.Pretrained], pretrained: run.Pretrained
) -> None:
    with pytest.raises(TrainingError):
        pretrain(hardware=hardware_section(ForkedBackend(kill_after_step=6), devices_per_node=2))
    resumed = pretrain()

    assert resumed.base.metadata["resumed_at_steps"] == [4]
    assert losses_of(resumed.base) == pytest.approx(losses_of(pretrained.base), abs=1e-4)


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "manifest"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    pretrain: Callable[..., run.Pretrained], tmp_path: Path, damage: str, notes: Callable[[], str]
) -> None:
    with pytest.raises(TrainingError):
        pretrain(ForkedBackend(kill_after_step=10))
    (newest,) = (tmp_path / "storage" / "checkpoints").glob("*-steps/00000008")
    path = newest / ("manifest.json" if damage == "manifest" else "state-00000-of-00001-0.safetensors")
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "altered":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(content[: len(content) // 2])

    resumed = pretrain()

    assert resumed.base.metadata["resumed_at_steps"] == [4]
    assert f"00000008/{path.name}" in notes()


def test_a_damaged_model_is_made_again(pretrain: Callable[..., run.Pretrained], notes: Callable[[], str]) -> None:
    made = pretrain()
    before = weights_of(made.base)
    (folder_of(made.base) / "model.safetensors").write_bytes(b"")

    assert weights_of(pretrain().base) == before
    assert "model.safetensors is damaged" in notes()


def test_it_goes_on_from_a_pretrained_model(
    pretrain: Callable[..., run.Pretrained], pretrained: run.Pretrained, model: ModelSection
) -> None:
    start = {"kind": "pretrained", "name": pretrained.base.uri}

    made = pretrain(model=model_section(model.tokenizer.vocab_size, start=start))

    assert weights_of(made.initial) == weights_of(pretrained.base)
    assert losses_of(made.base)[0] < losses_of(pretrained.base)[0] - 1


def test_bfloat16_is_stored_as_such(pretrain: Callable[..., run.Pretrained]) -> None:
    from transformers import AutoModelForCausalLM

    made = pretrain(pretrain=pretrain_section(precision="bfloat16"))

    loaded = AutoModelForCausalLM.from_pretrained(folder_of(made.base))
    assert str(loaded.dtype) == "torch.bfloat16"
    assert made.base.metadata["weights"] == "bfloat16"
    assert losses_of(made.base)[-1] < losses_of(made.base)[0] - 1


def test_a_mixture_that_is_too_small_is_refused_before_any_work(
    pretrain: Callable[..., run.Pretrained], storage: str, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> None:
    with pytest.raises(PlanError, match="source 'code' is too small"):
        pretrain(NoBackend(), tokens=make_tokens(storage, tokenizer, texts, max_epochs=0.01))


def test_another_tokenizer_than_the_recipes_is_refused_before_any_work(
    pretrain: Callable[..., run.Pretrained],
) -> None:
    with pytest.raises(RecipeError, match=r"vocab_size is 4096, and the mixture at .* a tokenizer of \d+ entries"):
        pretrain(NoBackend(), model=model_section(4096))


def test_an_engine_that_cannot_be_is_refused_before_any_work(pretrain: Callable[..., run.Pretrained]) -> None:
    section = pretrain_section(engine={"kind": "fsdp", "tensor_parallel": 2})
    with pytest.raises(RecipeError, match="tensor_parallel 2 does not divide the 1 processes"):
        pretrain(NoBackend(), pretrain=section)


def test_a_checkpoint_that_cannot_be_written_is_one_error_and_harms_no_other(
    pretrain: Callable[..., run.Pretrained], pretrained: run.Pretrained
) -> None:
    with pytest.raises(TrainingError):
        pretrain(ForkedBackend(kill_after_step=6))

    with pytest.raises(TrainingError, match=rf"\[{StorageError.exit_code}\]"):
        pretrain(ForkedBackend(max_file_bytes=50_000), pretrain=pretrain_section(checkpoint_retry_seconds=0))
    resumed = pretrain()

    assert resumed.base.metadata["resumed_at_steps"] == [4]
    assert weights_of(resumed.base) == weights_of(pretrained.base)


def test_it_works_and_goes_on_through_s3(
    pretrain: Callable[..., run.Pretrained],
    pretrained: run.Pretrained,
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    s3: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s3.use(monkeypatch)
    bucket = s3.new_bucket()
    tokens = make_tokens(bucket, tokenizer, texts)

    with pytest.raises(TrainingError):
        pretrain(ForkedBackend(kill_after_step=7), tokens=tokens, storage=bucket)
    resumed = pretrain(tokens=tokens, storage=bucket)

    assert resumed.base.metadata["resumed_at_steps"] == [4]
    assert weights_of(resumed.base) == weights_of(pretrained.base)


def test_a_storage_that_is_gone_is_named(
    pretrain: Callable[..., run.Pretrained], s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.use(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    with pytest.raises(StorageError, match=re.escape("127.0.0.1:9")):
        pretrain(NoBackend(), storage="s3://nowhere")


def test_a_loss_that_is_no_number_ends_the_run(pretrain: Callable[..., run.Pretrained]) -> None:
    with pytest.raises(TrainingError, match=rf"\[{TrainingError.exit_code}\]"):
        pretrain(pretrain=pretrain_section(learning_rate=1e30))
