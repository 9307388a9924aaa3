"""Micro batches: packed dialogues are learned from as single ones are, by any number of processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import make_texts, make_tokenizer, sums
from transformers import LlamaConfig, LlamaForCausalLM

from lemur.training.dialogues.arrangement import Arrangement, arrange
from lemur.training.dialogues.batches import MicroBatches, one_item
from lemur.training.dialogues.chatml import prepare_tokenizer
from lemur.training.dialogues.encoding import EncodedDialogues, encode_dialogues
from lemur.training.isolation import NO_LABEL

CAPACITY = 96
TOKENIZER = make_tokenizer(make_texts())
prepare_tokenizer(TOKENIZER)


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> EncodedDialogues:
    folder = tmp_path_factory.mktemp("dialogues")
    (folder / "dialogues.jsonl").write_text("".join(json.dumps({"messages": each}) + "\n" for each in sums(40)))
    return encode_dialogues(folder / "dialogues.jsonl", folder / "encoded", TOKENIZER, max_length=CAPACITY)


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(TOKENIZER), num_key_value_heads=2, use_cache=False, **sizes)
    model = LlamaForCausalLM(config)
    model.set_attn_implementation(request.param)
    return model


def arranged(dialogues: EncodedDialogues, packing: Any = "best_fit", epochs: float = 1.0) -> Arrangement:
    return arrange(dialogues.lengths, epochs=epochs, batch_dialogues=20, packing=packing, capacity=CAPACITY, seed=3)


def batches(
    dialogues: EncodedDialogues, arrangement: Arrangement, num_micro_batches: int = 2, **settings: Any
) -> MicroBatches:
    rows_at_once = settings.pop("rows_at_once", -(-arrangement.most_rows // num_micro_batches))
    return MicroBatches(
        dialogues,
        arrangement,
        num_micro_batches=num_micro_batches,
        rows_at_once=rows_at_once,
        pad_token_id=TOKENIZER.pad_token_id,
        **settings,
    )


def single(ids: np.ndarray[Any, Any], learned: np.ndarray[Any, Any]) -> dict[str, torch.Tensor]:
    token_ids = torch.from_numpy(ids.astype(np.int64))[None]
    return {"input_ids": token_ids, "labels": torch.where(torch.from_numpy(learned.copy())[None], token_ids, NO_LABEL)}


def gradients(model: LlamaForCausalLM, items: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    """Returns the gradients of the mean loss of a learned token in all of the items, as the Trainer takes them."""
    model.zero_grad()
    num_learned = sum(int((item["labels"][:, 1:] != NO_LABEL).sum()) for item in items)
    for item in items:
        model(**item, num_items_in_batch=num_learned).loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("flat", [False, True], ids=["rows", "one row"])
def test_a_packed_dialogue_has_the_logits_that_it_has_alone(
    dialogues: EncodedDialogues, model: LlamaForCausalLM, flat: bool
) -> None:
    arrangement = arranged(dialogues)
    item = batches(dialogues, arrangement, 1, flat=flat)[0]
    rows = batches(dialogues, arrangement, 1).rows(0, 0)
    with torch.no_grad():
        together = model(**item).logits
        places = zip(*torch.nonzero(item["position_ids"] == 0, as_tuple=True), strict=True)
        starts = [place for place in places if item["input_ids"][place] != TOKENIZER.pad_token_id]
        numbers = [number for row in rows for number in arrangement.row(row).tolist()]
        for (row, start), number in zip(starts, numbers, strict=True):
            ids, learned = dialogues[number]
            alone = model(**single(ids, learned)).logits[0]
            assert item["input_ids"][row, start : start + len(ids)].tolist() == ids.tolist()
            torch.testing.assert_close(together[row, start : start + len(ids)], alone, atol=1e-5, rtol=0)
    assert len(numbers) > len(rows) >= 3


def test_a_dialogue_does_not_see_the_one_before_it(dialogues: EncodedDialogues, model: LlamaForCausalLM) -> None:
    item = batches(dialogues, arranged(dialogues), 1, flat=True)[0]
    second = int(torch.nonzero(item["position_ids"][0] == 0)[1])
    changed = {**item, "input_ids": item["input_ids"].clone()}
    changed["input_ids"][0, :second] = item["input_ids"][0, :second].flip(0)

    with torch.no_grad():
        before, after = model(**item).logits[0], model(**changed).logits[0]

    assert (before[:second] - after[:second]).abs().max() > 1e-3
    torch.testing.assert_close(before[second:], after[second:], atol=1e-6, rtol=0)


@pytest.mark.parametrize("flat", [False, True], ids=["rows", "one row"])
def test_packed_dialogues_give_the_gradients_that_single_ones_give(
    dialogues: EncodedDialogues, model: LlamaForCausalLM, flat: bool
) -> None:
    arrangement = arranged(dialogues)
    made = batches(dialogues, arrangement, 2, flat=flat)
    packed = [made[index] for index in range(2)]
    rows = range(arrangement.step_firsts[0], arrangement.step_firsts[1])
    alone = [single(*dialogues[number]) for row in rows for number in arrangement.row(row).tolist()]

    for ours, theirs in zip(gradients(model, packed), gradients(model, alone), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("packing", ["best_fit", "none"])
def test_a_step_is_the_same_with_any_number_of_micro_batches(dialogues: EncodedDialogues, packing: str) -> None:
    arrangement = arranged(dialogues, packing, epochs=2.0)

    def learned(num_micro_batches: int, step: int) -> list[int]:
        made = batches(dialogues, arrangement, num_micro_batches)
        items = [made[step * num_micro_batches + number] for number in range(num_micro_batches)]
        return sorted(int(token) for item in items for token in item["labels"].flatten() if token != NO_LABEL)

    for step in range(arrangement.num_steps):
        assert learned(1, step) == learned(3, step) == learned(50, step)


def test_micro_batches_without_dialogues_change_nothing(dialogues: EncodedDialogues, model: LlamaForCausalLM) -> None:
    arrangement = arranged(dialogues)
    made = batches(dialogues, arrangement, 64, rows_at_once=1)
    items = [made[index] for index in range(64)]
    busy = [item for item in items if (item["labels"] != NO_LABEL).any()]

    assert len(busy) == arrangement.step_firsts[1] < 64
    for all_of_them, some in zip(gradients(model, items), gradients(model, busy), strict=True):
        torch.testing.assert_close(all_of_them, some, atol=1e-7, rtol=0)


def test_a_resumed_run_reads_what_was_left(dialogues: EncodedDialogues) -> None:
    arrangement = arranged(dialogues, epochs=3.0)
    whole, rest = batches(dialogues, arrangement, 2), batches(dialogues, arrangement, 2, first_step=2)

    for index in range(len(whole) - 4):
        assert torch.equal(whole[index + 4]["input_ids"], rest[index]["input_ids"])
    # A loader reads ahead of the last step.
    assert (rest[len(whole) - 4]["labels"] == NO_LABEL).all()


def test_batches_of_one_size_are_padded_to_the_capacity(dialogues: EncodedDialogues) -> None:
    arrangement = arranged(dialogues)
    made = batches(dialogues, arrangement, 3, full=True, rows_at_once=arrangement.most_rows)
    flat = batches(dialogues, arrangement, 3, full=True, flat=True, rows_at_once=arrangement.most_rows)

    assert {tuple(item["input_ids"].shape) for item in (made[0], made[5])} == {(arrangement.most_rows, CAPACITY)}
    assert flat[1]["input_ids"].shape == (1, arrangement.most_rows * CAPACITY)
    assert (flat[1]["labels"] != NO_LABEL).sum() == (made[1]["labels"] != NO_LABEL).sum()


def test_the_dialogues_of_a_batch_are_named_by_their_lines(dialogues: EncodedDialogues) -> None:
    arrangement = arranged(dialogues)
    made = batches(dialogues, arrangement, 1)

    numbers = [number for row in made.rows(1, 0) for number in arrangement.row(row).tolist()]
    assert made.origins(1) == [f"line {number + 1} of dialogues.jsonl" for number in numbers]


def test_the_trainer_takes_items_as_they_are(dialogues: EncodedDialogues, tmp_path: Path) -> None:
    item = batches(dialogues, arranged(dialogues))[0]

    assert one_item([item]) is item
