"""The token dataset as training reads it, from files."""

from __future__ import annotations

import json
import pickle
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored_mixture import END_OF_TEXT, numbered, store_mixture

from lemur.dataset import Provenance, TokenDataset, open_dataset, storage_root, token_dtype
from lemur.dataset.token_dataset import Sample, read_index
from lemur.errors import IntegrityError, PlanError
from lemur.receipt import Receipt
from lemur.storage import open_storage

_PARTITIONS = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=1, max_size=4)


def small(storage: str, **changes: object) -> Receipt:
    """Two sources, three partitions, sequences of eight tokens."""
    sources = {
        "code": [numbered([5, 3, 20, 6]), numbered([7, 2, 2, 9], first=500)],
        "text": [numbered([8, 3, 4], first=1000)],
    }
    return store_mixture(storage, sources, **{"sequence_length": 8, **changes})  # type: ignore[arg-type]


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return (tmp_path / "storage").as_uri()


@settings(max_examples=25, deadline=None)
@given(code=_PARTITIONS, text=_PARTITIONS, sequence_length=st.integers(1, 16), pad=st.booleans(), wide=st.booleans())
def test_a_sample_is_its_pieces_one_after_another_and_padding(
    code: list[list[int]], text: list[list[int]], sequence_length: int, pad: bool, wide: bool
) -> None:
    sources = {
        name: [numbered(lengths, first=1 + 600 * number) for number, lengths in enumerate(partitions)]
        for name, partitions in (("code", code), ("text", text))
    }
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder).as_uri()
        vocab_size = 100_000 if wide else 4096
        receipt = store_mixture(storage, sources, sequence_length=sequence_length, vocab_size=vocab_size, pad=pad)
        dataset = open_dataset(receipt, Path(folder) / "work")
        provenance = Provenance(dataset, storage_root(receipt), Path(folder) / "work")
        for place in range(2 * len(dataset)):
            sample, origins = dataset.sample(place), provenance.of(place)
            ids, positions, lengths = list[int](), list[int](), list[int]()
            for piece, origin, offset, document_tokens in origins:
                number, row = origin.removesuffix(f":{piece.document + 1}"), piece.document
                partition = int(number.removeprefix(f"{piece.source}-").removesuffix(".jsonl"))
                document = sources[piece.source][partition][row]
                assert document_tokens == len(document)
                ids += document[offset : offset + piece.length]
                positions += range(piece.length)
                lengths.append(piece.length)
            num_padding = sequence_length - len(ids)
            if num_padding:
                ids += [END_OF_TEXT] * num_padding
                positions += range(num_padding)
                lengths.append(num_padding)
            assert sample.input_ids.tolist() == dataset.tokens(place).tolist() == ids
            assert sample.position_ids.tolist() == positions
            assert sample.lengths.tolist() == lengths
            assert sample.num_padding == num_padding
            dtypes = (sample.input_ids.dtype, sample.position_ids.dtype, sample.lengths.dtype)
            assert dtypes == (np.int64, np.int64, np.int32)


@settings(max_examples=15, deadline=None)
@given(partitions=_PARTITIONS, sequence_length=st.integers(1, 16), pad=st.booleans())
def test_every_token_comes_once_in_each_epoch(partitions: list[list[int]], sequence_length: int, pad: bool) -> None:
    documents = [numbered(lengths, first=1 + 600 * number) for number, lengths in enumerate(partitions)]
    stored = Counter(token for partition in documents for document in partition for token in document)
    with tempfile.TemporaryDirectory() as folder:
        receipt = store_mixture(Path(folder).as_uri(), {"code": documents}, sequence_length=sequence_length, pad=pad)
        dataset = open_dataset(receipt, Path(folder) / "work")
        size = len(dataset)
        for epoch in range(3):
            samples = dataset.samples(range(epoch * size, (epoch + 1) * size))
            read = Counter(
                token
                for sample in samples
                for token in sample.input_ids[: sequence_length - sample.num_padding].tolist()
            )
            assert read == stored


def test_what_is_read_is_the_same_for_any_number_of_readers_and_any_start(storage: str, tmp_path: Path) -> None:
    receipt = small(storage)
    stream = [dataset_bytes(sample) for sample in open_dataset(receipt, tmp_path / "work").samples(range(448))]

    for num_ranks in (1, 2, 7, 64):
        copies = [pickle.loads(pickle.dumps(open_dataset(receipt, tmp_path / "work"))) for _ in range(num_ranks)]
        read: dict[int, bytes] = {}
        for rank, dataset in enumerate(copies):
            for start in range(64, 448, 2 * num_ranks):
                places = [place for place in (start + 2 * rank, start + 2 * rank + 1) if place < 448]
                read.update(zip(places, map(dataset_bytes, dataset.samples(places)), strict=True))
        assert [read[place] for place in range(64, 448)] == stream[64:]


def dataset_bytes(sample: Sample) -> bytes:
    return sample.input_ids.tobytes() + sample.position_ids.tobytes() + sample.lengths.tobytes()


def test_the_stream_goes_on_after_an_epoch_in_another_order(storage: str, tmp_path: Path) -> None:
    receipt = store_mixture(storage, {"code": [numbered([8] * 10)]}, sequence_length=8)
    dataset = open_dataset(receipt, tmp_path)
    epochs = [[tuple(dataset.tokens(10 * epoch + place)) for place in range(10)] for epoch in range(3)]

    assert len(dataset) == 10
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]


def test_iteration_ends_where_the_run_does_and_may_pass_an_epoch(storage: str, tmp_path: Path) -> None:
    dataset = open_dataset(small(storage), tmp_path, num_sequences=30)

    assert len(list(dataset)) == len(dataset) == 30
    assert dataset[29].input_ids.tolist() == dataset.tokens(29).tolist()
    assert dataset_bytes(dataset.__getitems__([3, 29])[1]) == dataset_bytes(dataset[29])
    for ask in (lambda: dataset[30], lambda: dataset[-1], lambda: dataset.__getitems__([3, 30])):
        with pytest.raises(IndexError, match="outside the 30 sequences"):
            ask()


def test_a_copy_in_another_process_takes_paths_along_and_no_tokens(storage: str, tmp_path: Path) -> None:
    dataset = open_dataset(small(storage), tmp_path)
    first = [dataset.tokens(place).tolist() for place in range(20)]

    copied = pickle.dumps(dataset)

    assert len(copied) < 2000
    assert [pickle.loads(copied).tokens(place).tolist() for place in range(20)] == first


def test_a_run_over_the_limit_of_epochs_is_refused_before_it_starts(storage: str, tmp_path: Path) -> None:
    receipt = small(storage, max_epochs=2)

    open_dataset(receipt, tmp_path, num_sequences=8)
    with pytest.raises(PlanError, match="'text' is too small by 8 tokens"):
        open_dataset(receipt, tmp_path, num_sequences=10)


def test_more_partitions_than_may_be_mapped_at_a_time_read_the_same(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = small(storage)
    expected = [dataset_bytes(sample) for sample in open_dataset(receipt, tmp_path)]
    monkeypatch.setattr("lemur.dataset.maps._MAX_MAPS", 2)

    dataset = open_dataset(receipt, tmp_path)

    assert [dataset_bytes(sample) for sample in dataset] == expected
    assert dataset._tokens._maps.cache_info().currsize == 2  # type: ignore[attr-defined]


def test_altered_tokens_are_refused_when_a_run_begins_and_marked(storage: str, tmp_path: Path) -> None:
    receipt = small(storage)
    path = next((tmp_path / "storage" / "documents").glob("*/tokens.bin"))
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)

    with pytest.raises(IntegrityError, match=r"tokens\.bin was altered.*the next run makes .* anew"):
        open_dataset(receipt, tmp_path / "work")
    assert json.loads((path.parent / "damaged.json").read_text()) == ["tokens.bin"]


def test_documents_that_were_made_anew_with_other_content_are_refused(storage: str, tmp_path: Path) -> None:
    receipt = small(storage)
    small(storage, vocab_size=4095)
    documents = next((tmp_path / "storage" / "documents").glob("*/manifest.json"))
    manifest = json.loads(documents.read_text())
    manifest["objects"] = manifest["objects"][1:]
    documents.write_text(json.dumps(manifest))

    with pytest.raises(IntegrityError, match="was made anew with other content"):
        open_dataset(receipt, tmp_path / "work")


@pytest.mark.parametrize(("damage", "message"), [("truncated", r"bytes instead of"), ("missing", "is missing")])
def test_tokens_that_are_damaged_while_a_run_goes_on_are_named(
    storage: str, tmp_path: Path, damage: str, message: str
) -> None:
    dataset = open_dataset(small(storage), tmp_path / "work")
    for path in (tmp_path / "storage" / "documents").glob("*/tokens.bin"):
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-2])

    with pytest.raises(IntegrityError, match=rf"/tokens\.bin .*{message}"):
        dataset.sample(0)


@pytest.mark.parametrize("name", ["pieces.bin", "firsts.bin"])
def test_sequences_that_are_damaged_while_a_run_goes_on_are_named(storage: str, tmp_path: Path, name: str) -> None:
    dataset = open_dataset(small(storage), tmp_path / "work")
    for path in (tmp_path / "storage" / "tokens").glob(f"*/sequences/*/{name}"):
        path.write_bytes(path.read_bytes()[:-2])

    with pytest.raises(IntegrityError, match=rf"/{name} has .* bytes instead of"):
        dataset.sample(0)


def test_an_altered_index_is_refused(storage: str, tmp_path: Path) -> None:
    receipt = small(storage)
    stored = open_storage(receipt.uri)
    content = bytearray(stored.read("sequences/code/pieces.bin"))
    content[0] ^= 1
    stored.write("sequences/code/pieces.bin", bytes(content))

    with pytest.raises(IntegrityError, match=r"sequences/code/pieces\.bin was altered"):
        open_dataset(receipt, tmp_path / "work")


def test_a_folder_without_an_index_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"dataset\.json is missing"):
        read_index(tmp_path)


def test_the_pieces_of_a_place_say_where_they_stand(storage: str, tmp_path: Path) -> None:
    receipt = small(storage)
    dataset = open_dataset(receipt, tmp_path / "work")
    provenance = Provenance(dataset, storage_root(receipt), tmp_path / "work")
    # The third document of the first partition of the code, 20 tokens from the eighth on, is cut into three.
    pieces = {origin for place in range(3 * len(dataset)) for origin in provenance.of(place)}
    cut = {
        (found.offset_tokens, found.piece.start, found.piece.length, found.document_tokens)
        for found in pieces
        if found.origin == "code-0.jsonl:3"
    }

    assert cut == {(0, 8, 8, 20), (8, 16, 8, 20), (16, 24, 4, 20)}
    assert {found.piece.documents for found in pieces if found.origin.startswith("text")} == {
        row.documents for row in map(dataset.partitions.row, range(3)) if row.source == "text"
    }


def test_tokens_take_two_bytes_where_the_vocabulary_allows() -> None:
    assert [token_dtype(size) for size in (32_000, 65_536, 65_537)] == ["<u2", "<u2", "<u4"]


def test_a_dataset_reads_through_whatever_reads_its_tokens(storage: str, tmp_path: Path) -> None:
    mapped = open_dataset(small(storage), tmp_path)

    again = TokenDataset(mapped.folder, mapped._tokens)

    assert list(map(dataset_bytes, again)) == list(map(dataset_bytes, mapped))
