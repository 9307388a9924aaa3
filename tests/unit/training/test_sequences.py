"""The training stream as the Trainer reads it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from small_training import SEQUENCE_LENGTH, make_tokens, model_section
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lemur.dataset import TokenDataset, open_dataset
from lemur.receipt import Receipt
from lemur.training.pretraining import Sequences

if TYPE_CHECKING:
    from conftest import S3Server


@pytest.fixture
def dataset(tokens: Receipt, tmp_path: Path) -> TokenDataset:
    return open_dataset(tokens, tmp_path)


def test_padding_is_not_learned_from_and_everything_else_is(dataset: TokenDataset) -> None:
    samples = [dataset.sample(place) for place in range(len(dataset))]
    items = Sequences(dataset, first=0, num_sequences=len(dataset)).__getitems__(range(len(dataset)))

    assert {sample.num_padding > 0 for sample in samples} == {True, False}
    for sample, item in zip(samples, items, strict=True):
        num_tokens = SEQUENCE_LENGTH - sample.num_padding
        assert item.keys() == {"input_ids", "labels"}
        assert item["input_ids"].tolist() == sample.input_ids.tolist()
        assert item["labels"][:num_tokens].tolist() == sample.input_ids[:num_tokens].tolist()
        assert item["labels"][num_tokens:].tolist() == [-100] * sample.num_padding


def test_one_item_is_the_same_as_the_batch_gives(dataset: TokenDataset) -> None:
    sequences = Sequences(dataset, first=5, num_sequences=90, isolate_documents=True)

    for index, item in zip((3, 70), sequences.__getitems__([3, 70]), strict=True):
        assert all(torch.equal(value, item[name]) for name, value in sequences[index].items())
        assert item["position_ids"].tolist() == dataset.sample(5 + index).position_ids.tolist()


@pytest.mark.parametrize("num_ranks", [1, 2, 7, 64])
def test_a_step_has_the_same_sequences_for_any_number_of_processes_and_any_start(
    dataset: TokenDataset, num_ranks: int
) -> None:
    num_sequences, first, batch = 3 * 448, 448, 448
    micro_batch = batch // num_ranks
    expected = [dataset.tokens(place).tolist() for place in range(first, num_sequences)]

    sequences = Sequences(dataset, first=first, num_sequences=num_sequences)
    ranks = [
        # As the Trainer does: the batches of a sequential sampler, dealt to the processes in turn.
        iter(BatchSamplerShard(BatchSampler(SequentialSampler(sequences), micro_batch, True), num_ranks, rank))
        for rank in range(num_ranks)
    ]
    read = [
        item["input_ids"].tolist()
        for _ in range((num_sequences - first) // batch)
        for rank in ranks
        for item in sequences.__getitems__(next(rank))
    ]

    assert read == expected


def test_processes_that_load_read_the_same_from_a_bucket(
    dataset: TokenDataset,
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    s3.use(monkeypatch)
    stored = open_dataset(make_tokens(s3.new_bucket(), tokenizer, texts), tmp_path / "work")
    sequences = Sequences(stored, first=3, num_sequences=64)

    read = torch.cat([batch["input_ids"] for batch in DataLoader(sequences, batch_size=8, num_workers=2)])

    assert read.tolist() == [dataset.tokens(3 + index).tolist() for index in range(64)]


def test_isolated_documents_are_read_as_if_each_stood_alone(dataset: TokenDataset) -> None:
    architecture = model_section(dataset.index.vocab_size).architecture
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=dataset.index.vocab_size,
            hidden_size=architecture.hidden_size,
            intermediate_size=architecture.intermediate_size,
            num_hidden_layers=architecture.num_layers,
            num_attention_heads=architecture.num_heads,
            use_cache=False,
        )
    )
    item = Sequences(dataset, first=0, num_sequences=1, isolate_documents=True)[0]
    lengths = dataset.sample(0).lengths.tolist()
    assert len(lengths) > 1

    together = model(input_ids=item["input_ids"][None], position_ids=item["position_ids"][None]).logits[0]
    alone = [model(input_ids=part[None]).logits[0] for part in item["input_ids"].split(lengths)]

    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
