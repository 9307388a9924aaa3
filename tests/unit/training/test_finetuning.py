"""Tuning a base model on dialogues, whatever happens on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from forked import ForkedBackend, NoBackend
from small_training import (
    finetune_section,
    folder_of,
    hardware_section,
    losses_of,
    make_dialogues,
    sums,
    weights_of,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from lemur.errors import TrainingError
from lemur.receipt import Receipt
from lemur.training import run
from lemur.training.backend import Backend

LORA = {"kind": "lora", "rank": 4, "dropout": 0.1}


@pytest.fixture
def finetune(storage: str, pretrained: run.Pretrained, dialogues: Receipt) -> Callable[..., Receipt]:
    """Tunes the tiny model; keyword arguments replace parts of it."""

    def start(backend: Backend | None = None, **changes: Any) -> Receipt:
        arguments = {
            "finetune": finetune_section(),
            "hardware": hardware_section(backend),
            "base": pretrained.base,
            "dialogues": dialogues,
            "storage": storage,
            "run": "tiny",
        }
        return run.finetune(**{**arguments, **changes})

    return start


def test_it_learns_and_stores_a_chat_model_that_ends_its_turns(finetuned: Receipt) -> None:
    losses = losses_of(finetuned)
    assert losses[-1] < losses[0] - 1
    assert finetuned.metadata["role"] == "chat"
    assert finetuned.metadata["steps"] == 30
    assert finetuned.metadata["encoded"]["dialogues"] == 96
    assert finetuned.metadata["encoded"]["cut"] == 0

    folder = folder_of(finetuned)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == "<|im_end|>"
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "7 + 8?"}], add_generation_prompt=True)
    answered = torch.tensor([prompt["input_ids"] + tokenizer("15")["input_ids"]])
    assert model(answered).logits[0, -1].argmax() == tokenizer.eos_token_id


def test_a_second_run_trains_nothing(finetune: Callable[..., Receipt], finetuned: Receipt, shared_storage: str) -> None:
    found = finetune(
        finetune=finetune_section(log_every_steps=1, micro_batch_dialogues=2),
        hardware=hardware_section(NoBackend()),
        storage=shared_storage,
    )

    assert found == finetuned


def test_two_processes_learn_what_one_learns(finetune: Callable[..., Receipt], finetuned: Receipt) -> None:
    together = finetune(hardware=hardware_section(devices_per_node=2))

    assert losses_of(together) == pytest.approx(losses_of(finetuned), abs=1e-4)


def test_a_killed_run_ends_as_an_unbroken_one(finetune: Callable[..., Receipt], finetuned: Receipt) -> None:
    with pytest.raises(TrainingError, match="-9"):
        finetune(ForkedBackend(kill_after_step=17))
    resumed = finetune()

    assert resumed.metadata["resumed_at_steps"] == [10]
    assert weights_of(resumed) == weights_of(finetuned)
    assert losses_of(resumed) == losses_of(finetuned)


def test_adapters_are_merged_and_survive_a_kill(
    finetune: Callable[..., Receipt], pretrained: run.Pretrained, shared_storage: str
) -> None:
    section = finetune_section(method=LORA)
    unbroken = finetune(finetune=section, storage=shared_storage)
    with pytest.raises(TrainingError, match="-9"):
        finetune(ForkedBackend(kill_after_step=17), finetune=section)
    resumed = finetune(finetune=section)

    assert resumed.metadata["resumed_at_steps"] == [10]
    # Dropout is drawn alike, so even that run is the same to the last bit.
    assert weights_of(resumed) == weights_of(unbroken)
    assert losses_of(unbroken)[-1] < losses_of(unbroken)[0]
    base = AutoModelForCausalLM.from_pretrained(folder_of(pretrained.base))
    merged, report = AutoModelForCausalLM.from_pretrained(folder_of(unbroken), output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    vocab_size = base.config.vocab_size
    # What no adapter touches is the base model's; ChatML's tokens have learned embeddings of their own.
    assert torch.equal(merged.model.embed_tokens.weight[:vocab_size], base.model.embed_tokens.weight)
    assert not torch.equal(merged.model.layers[0].mlp.up_proj.weight, base.model.layers[0].mlp.up_proj.weight)


def test_the_receipt_counts_what_was_cut_left_out_and_padded(finetune: Callable[..., Receipt], storage: str) -> None:
    question, answer = {"role": "user", "content": "?"}, {"role": "assistant", "content": "no"}
    long = [question, answer, question, {"role": "assistant", "content": "no " * 100}]
    unanswered = [{"role": "user", "content": "why " * 100}, {"role": "assistant", "content": "so"}]
    dialogues = make_dialogues(storage, [*sums(30), long, long, unanswered])

    made = finetune(dialogues=dialogues, finetune=finetune_section(epochs=1))

    encoded = made.metadata["encoded"]
    counts = {name: encoded[name] for name in ("dialogues", "cut", "turns_dropped", "too_long")}
    assert counts == {"dialogues": 32, "cut": 2, "turns_dropped": 4, "too_long": 1}
    assert 0 < encoded["learned_tokens"] < encoded["tokens"]
    assert encoded["tokens_dropped"] > 200
    assert made.metadata["steps"] == 2
    assert made.metadata["tokens"] == encoded["tokens"]
    assert 0 < made.metadata["padding_share"] < 0.3


def test_without_packing_it_learns_as_much(finetune: Callable[..., Receipt], finetuned: Receipt) -> None:
    single = finetune(finetune=finetune_section(packing="none"))

    assert single.metadata["steps"] == finetuned.metadata["steps"]
    assert single.metadata["tokens"] == finetuned.metadata["tokens"]
    assert losses_of(single)[-1] == pytest.approx(losses_of(finetuned)[-1], abs=0.3)


def test_a_pack_that_holds_more_than_a_step_is_to_have_is_told(
    finetune: Callable[..., Receipt], notes: Callable[[], str]
) -> None:
    made = finetune(finetune=finetune_section(epochs=1, batch_dialogues=1))

    assert made.metadata["steps"] < 96
    assert "a pack of 64 tokens holds" in notes()
    assert "and batch_dialogues is 1" in notes()
