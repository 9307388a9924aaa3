"""Documents of one sequence do not see each other, and are not predicted from each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_training import SEQUENCE_LENGTH, folder_of, hardware_section, losses_of, pretrain_section
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from lemur.dataset import TokenDataset, open_dataset
from lemur.errors import TrainingError
from lemur.receipt import Receipt
from lemur.recipe import ModelSection
from lemur.training import run
from lemur.training.isolation import guard_isolation, in_one_row
from lemur.training.pretraining import Sequences

Batch = dict[str, torch.Tensor]


@pytest.fixture
def dataset(tokens: Receipt, tmp_path: Path) -> TokenDataset:
    return open_dataset(tokens, tmp_path)


@pytest.fixture(params=["sdpa", "eager"])
def network(request: pytest.FixtureRequest, tokens: Receipt) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokens.metadata["vocab_size"],
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_cache=False,
        attn_implementation=request.param,
    )
    return LlamaForCausalLM(config).eval()  # type: ignore[no-untyped-call]


def _items(dataset: TokenDataset) -> list[Batch]:
    """Eight sequences, the first of which has several documents and the last of which is padded."""
    items = Sequences(dataset, first=0, num_sequences=len(dataset), isolate_documents=True).__getitems__(range(40))
    several = [item for item in items if int((item["position_ids"] == 0).sum()) > 2]
    assert len(several) >= 8
    return several[:8]


def _stacked(items: list[Batch]) -> Batch:
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def _pieces(item: Batch) -> list[tuple[int, int]]:
    starts = torch.nonzero(item["position_ids"] == 0)[:, 0].tolist()
    return list(zip(starts, [*starts[1:], SEQUENCE_LENGTH], strict=True))


@torch.no_grad()
def test_packed_documents_have_the_logits_of_separate_ones(network: LlamaForCausalLM, dataset: TokenDataset) -> None:
    items = _items(dataset)
    batch = _stacked(items)
    packed = network(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
    for row, item in enumerate(items):
        for start, end in _pieces(item):
            alone = network(input_ids=item["input_ids"][None, start:end]).logits[0]
            assert (packed[row, start:end] - alone).abs().max() < 1e-5


@torch.no_grad()
def test_changing_a_document_does_not_move_another(network: LlamaForCausalLM, dataset: TokenDataset) -> None:
    item = _items(dataset)[0]
    (_, end), *_ = _pieces(item)
    other = {**item, "input_ids": item["input_ids"].clone()}
    other["input_ids"][:end] = (item["input_ids"][:end] + 7) % network.config.vocab_size

    before, after = (
        network(input_ids=each["input_ids"][None], position_ids=each["position_ids"][None]).logits[0]
        for each in (item, other)
    )

    assert not torch.equal(before[:end], after[:end])
    assert torch.equal(before[end:], after[end:])


def test_no_documents_first_token_is_a_label(dataset: TokenDataset) -> None:
    for item in _items(dataset):
        first = item["position_ids"] == 0
        assert (item["labels"][first] == -100).all()
        kept = item["labels"] != -100
        assert torch.equal(item["labels"][kept], item["input_ids"][kept])
        # Beside first tokens, only padding is none: it is the last document, and nothing of it is learned.
        left_out = ~kept & ~first
        assert not left_out.any() or left_out.nonzero()[0] > torch.nonzero(first)[-1]


@pytest.mark.parametrize(
    ("trap", "words"),
    [
        ({"attention_mask": torch.ones(1, SEQUENCE_LENGTH)}, "there is an attention_mask"),
        ({"use_cache": True}, "use_cache is on"),
        ({"position_ids": None}, "there are no position_ids"),
    ],
    ids=["mask", "cache", "no positions"],
)
def test_what_would_leak_silently_is_an_error(
    trap: dict[str, Any], words: str, network: LlamaForCausalLM, dataset: TokenDataset
) -> None:
    item = _items(dataset)[0]
    inputs = {"input_ids": item["input_ids"][None], "position_ids": item["position_ids"][None]}
    leaking = {**inputs, **trap}
    sound, leaked = network(**inputs).logits, network(**leaking).logits
    # The library takes it without a word.
    assert (sound - leaked).abs().max() > 1e-2

    guard_isolation(network)

    assert torch.equal(network(**inputs).logits, sound)
    with pytest.raises(TrainingError, match=words):
        network(**leaking)


def test_a_configuration_with_a_cache_is_an_error(network: LlamaForCausalLM, dataset: TokenDataset) -> None:
    item = _items(dataset)[0]
    guard_isolation(network)
    network.config.use_cache = True
    with pytest.raises(TrainingError, match="use_cache is on"):
        network(input_ids=item["input_ids"][None], position_ids=item["position_ids"][None])


@torch.no_grad()
def test_one_row_for_variable_length_kernels_means_the_same(network: LlamaForCausalLM, dataset: TokenDataset) -> None:
    items = _items(dataset)
    batch, row = _stacked(items), in_one_row(items)

    flat = network(**{name: row[name] for name in ("input_ids", "labels", "position_ids")})

    assert float(flat.loss) == pytest.approx(float(network(**batch).loss), abs=1e-5)
    bounds = row["cu_seq_lens_q"].tolist()
    lengths = [end - start for item in items for start, end in _pieces(item)]
    assert bounds == [0, *torch.tensor(lengths).cumsum(0).tolist()]
    assert row["cu_seq_lens_q"].dtype == torch.int32
    assert row["max_length_q"] == row["max_length_k"] == max(lengths)


@torch.no_grad()
@pytest.mark.parametrize("isolated", [True, False])
def test_a_run_learns_from_documents_as_if_each_stood_alone(
    isolated: bool, dataset: TokenDataset, storage: str, tokens: Receipt, model: ModelSection
) -> None:
    made = run.pretrain(
        model=model,
        pretrain=pretrain_section(tokens=8 * SEQUENCE_LENGTH, isolate_documents=isolated, log_every_steps=1),
        hardware=hardware_section(),
        tokens=tokens,
        storage=storage,
        run="isolated",
    )
    initial = LlamaForCausalLM.from_pretrained(folder_of(made.initial))
    total, count = 0.0, 0
    for item in Sequences(dataset, first=0, num_sequences=8, isolate_documents=True).__getitems__(range(8)):
        num_tokens = SEQUENCE_LENGTH - dataset.sample(0).num_padding
        for start, end in _pieces(item) if isolated else [(0, num_tokens)]:
            ids = item["input_ids"][start:end]
            learned = item["labels"][start:end][1:] != -100 if isolated else torch.ones(len(ids) - 1, dtype=torch.bool)
            logits = initial(input_ids=ids[None]).logits[0, :-1]
            total += functional.cross_entropy(logits[learned], ids[1:][learned], reduction="sum").item()
            count += int(learned.sum())

    assert losses_of(made.base)[0] == pytest.approx(total / count, abs=1e-5)
    assert made.base.metadata["isolate_documents"] is isolated
