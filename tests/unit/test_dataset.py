"""The token dataset as training reads it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from lemur.data.shards import ShardWriter
from lemur.dataset import INDEX_NAME, DatasetIndex, SourceIndex, TokenDataset, shard_name, token_dtype
from lemur.errors import IntegrityError, PlanError

LENGTH = 4


def write_dataset(folder: Path, sizes: dict[str, int], *, max_epochs: float | None = None) -> Path:
    """Writes a dataset in which each source counts upwards, in shards of three sequences."""
    sources = []
    for number, (name, num_tokens) in enumerate(sizes.items()):
        writer = ShardWriter(folder, name, dtype="<u2", sequence_length=LENGTH, shard_sequences=3)
        tokens = np.arange(num_tokens) + 1000 * number
        for part in np.array_split(tokens, 5):
            writer.append(part)
        num_sequences, dropped = writer.finish()
        assert (num_sequences, dropped) == divmod(num_tokens, LENGTH)
        sources.append(
            SourceIndex(name=name, group=None, weight=1.0, max_epochs=max_epochs, num_sequences=num_sequences)
        )
    index = DatasetIndex(
        dtype="<u2",
        sequence_length=LENGTH,
        shard_sequences=3,
        vocab_size=4096,
        end_of_text_id=0,
        seed=3,
        sources=sources,
    )
    (folder / INDEX_NAME).write_text(index.model_dump_json())
    return folder


def test_an_epoch_gives_back_every_stored_token_in_order_within_its_sequence(tmp_path: Path) -> None:
    dataset = TokenDataset(write_dataset(tmp_path, {"code": 41}))

    samples = [dataset.sample(place) for place in range(10)]

    assert all(sample.dtype == np.int64 and sample.shape == (LENGTH,) for sample in samples)
    assert np.concatenate(sorted(samples, key=lambda sample: int(sample[0]))).tolist() == list(range(40))


def test_the_stream_goes_on_after_an_epoch_in_another_order(tmp_path: Path) -> None:
    dataset = TokenDataset(write_dataset(tmp_path, {"code": 40}))
    epochs = [[tuple(dataset.sample(10 * epoch + place)) for place in range(10)] for epoch in range(3)]

    assert len(dataset) == 10
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]


def test_iteration_ends_where_the_run_does_and_may_pass_an_epoch(tmp_path: Path) -> None:
    dataset = TokenDataset(write_dataset(tmp_path, {"code": 40, "text": 8}), num_sequences=30)

    assert len(list(dataset)) == len(dataset) == 30
    with pytest.raises(IndexError):
        dataset[30]


def test_a_copy_in_another_process_reads_the_same(tmp_path: Path) -> None:
    dataset = TokenDataset(write_dataset(tmp_path, {"code": 40, "text": 16}))
    first = [dataset.sample(place).tolist() for place in range(20)]

    copied = pickle.dumps(dataset)

    assert len(copied) < 1000
    assert [pickle.loads(copied).sample(place).tolist() for place in range(20)] == first


def test_a_run_over_the_limit_of_epochs_is_refused_before_it_starts(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, {"code": 40, "text": 8}, max_epochs=2)

    TokenDataset(folder, num_sequences=8)
    with pytest.raises(PlanError, match="'text' is too small by 4 tokens"):
        TokenDataset(folder, num_sequences=10)


def test_a_truncated_or_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, {"code": 40})
    shard = folder / shard_name("code", 1)

    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(IntegrityError, match=r"00001\.bin has 22 bytes instead of 24"):
        list(TokenDataset(folder))
    shard.unlink()
    with pytest.raises(IntegrityError, match=r"00001\.bin is missing"):
        list(TokenDataset(folder))


def test_a_folder_without_an_index_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"dataset\.json is missing"):
        TokenDataset(tmp_path)


def test_tokens_take_two_bytes_where_the_vocabulary_allows() -> None:
    assert [token_dtype(size) for size in (32_000, 65_536, 65_537)] == ["<u2", "<u2", "<u4"]
