"""Mixing: every token once, counts that are true, and an index that agrees with itself."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_corpus import (
    LENGTH,
    Made,
    StoredMixture,
    mix_here,
    model,
    path_of,
    save_tokenizer,
    section,
    tokenize_here,
    write_corpus,
)
from tokenizers import Tokenizer

from lemur.data.mixing.mixing import mix_tokens
from lemur.data.partitions.listing import list_partitions
from lemur.dataset import TokenDataset, open_dataset
from lemur.errors import IntegrityError, PlanError
from lemur.receipt import MANIFEST_NAME, Receipt
from lemur.recipe import DataSection, ModelSection
from lemur.results import fetch, read_manifest

PACKINGS = ["best_fit", "concatenate"]


class Here(Made):
    """What the steps made from a corpus that is only read, and how to mix it otherwise."""

    def again(self, **changes: Any) -> Receipt:
        storage = self.partitions.uri.rsplit("/", 2)[0]
        data = section(Path(storage.removeprefix("file://")).parent / "corpus", **changes)
        return mix_tokens(data=data, partitions=self.partitions, documents=self.documents, storage=storage)


@pytest.fixture(scope="module")
def made(tokenizer: ModelSection, tmp_path_factory: pytest.TempPathFactory) -> Here:
    folder = tmp_path_factory.mktemp("made")
    write_corpus(folder / "corpus")
    return Here(*mix_here(tokenizer, section(folder / "corpus"), folder))


@pytest.mark.parametrize("packing", PACKINGS)
def test_every_document_stands_once_in_the_sequences_and_decodes_to_itself(
    made: Here, packing: str, tmp_path: Path
) -> None:
    mixture = StoredMixture(made.again(packing=packing))

    for source, texts in write_corpus(tmp_path).items():
        assert mixture.texts(source) == texts


@pytest.mark.parametrize("packing", PACKINGS)
def test_counts_are_those_that_are_counted_by_hand(made: Here, packing: str, tmp_path: Path) -> None:
    receipt = made.again(packing=packing)
    mixture = StoredMixture(receipt)
    encoder = Tokenizer.from_file(str(mixture.folder / "tokenizer/tokenizer.json"))
    encoder.encode_special_tokens = True

    for source, texts in write_corpus(tmp_path).items():
        lengths = [len(encoder.encode(text).ids) + 1 for text in texts]
        sequences = list(mixture.sequences(source))
        pieces_of = Counter((piece.partition, piece.document) for sequence in sequences for piece in sequence)
        counts = receipt.metadata["sources"][source]
        assert counts["documents"] == len(texts)
        assert counts["tokens"] == sum(lengths)
        assert counts["bytes"] == sum(len(text.encode()) for text in texts)
        assert counts["sequences"] == len(sequences)
        assert counts["padding_tokens"] == len(sequences) * LENGTH - sum(lengths)
        assert counts["cut_documents"] == sum(count > 1 for count in pieces_of.values()) > 0
        assert counts["token_lengths"] == [
            sum(2**power <= length < 2 ** (power + 1) for length in lengths)
            for power in range(max(lengths).bit_length())
        ]
        assert counts["weight"] == pytest.approx({"code": 10 / 11, "text": 1 / 11}[source])
    for name in ("tokens", "documents", "bytes"):
        assert receipt.metrics[name] == sum(source[name] for source in receipt.metadata["sources"].values())


@pytest.mark.parametrize("packing", PACKINGS)
def test_index_partitions_and_receipts_agree(made: Here, packing: str) -> None:
    receipt = made.again(packing=packing)
    mixture = StoredMixture(receipt)

    assert [row["source"] for row in mixture.partitions] == ["code"] * 3 + ["text"] * 2
    for row, documents in zip(mixture.partitions, made.documents, strict=True):
        assert documents.uri.endswith(f"/{row['documents']}")
        assert row["digest"] == documents.digest
        assert (row["num_tokens"], row["num_documents"]) == (
            documents.metrics["tokens"],
            documents.metrics["documents"],
        )
    for entry in mixture.index["sources"]:
        counts = receipt.metadata["sources"][entry["name"]]
        rows = [row for row in mixture.partitions if row["source"] == entry["name"]]
        assert entry["num_sequences"] == counts["sequences"] == sum(row["num_sequences"] for row in rows)
        assert (entry["num_tokens"], entry["num_documents"]) == (counts["tokens"], counts["documents"])
        assert counts["partitions"] == len(rows)
    for name in ("sequence_length", "packing", "seed", "vocab_size"):
        assert mixture.index[name] == receipt.metadata[name]
    assert mixture.index["dtype"] == "<u2"


@pytest.mark.parametrize("packing", PACKINGS)
def test_training_reads_all_of_it_at_the_requested_shares_with_padding_only_at_the_end(
    made: Here, packing: str, tmp_path: Path
) -> None:
    receipt = made.again(packing=packing)
    dataset: TokenDataset = open_dataset(receipt, tmp_path)
    counts = receipt.metadata["sources"]

    assert dataset.mixture.counts(1100) == {"code": 1000, "text": 100}
    first_epoch: dict[int, Any] = {}
    place = 0
    while len(first_epoch) < counts["text"]["sequences"]:
        location = dataset.mixture.locate(place)
        if location.source == "text" and location.epoch == 0:
            first_epoch[location.sequence] = dataset.sample(place)
        place += 1
    assert sum(sample.num_padding for sample in first_epoch.values()) == counts["text"]["padding_tokens"]
    for sample in first_epoch.values():
        assert sum(sample.lengths) == LENGTH == len(sample.input_ids)
        assert (sample.input_ids[LENGTH - sample.num_padding :] == dataset.index.end_of_text_id).all()
    read = np.concatenate([sample.input_ids[: LENGTH - sample.num_padding] for sample in first_epoch.values()])
    stored = np.concatenate([StoredMixture(receipt).tokens(number) for number in (3, 4)])
    assert Counter(read.tolist()) == Counter(stored.tolist())


def test_the_order_of_receipts_does_not_matter_and_a_second_run_is_found(
    made: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Here(made.partitions, made.documents[::-1], made.tokens).again() == made.tokens
    assert "mix: unchanged, tokens at" in capsys.readouterr().err
    assert made.again(seed=1).key != made.tokens.key


def test_what_only_the_index_depends_on_makes_no_document_anew(made: Here) -> None:
    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for receipt in made.documents for path in path_of(receipt).iterdir()}

    before = written()

    digests = [
        made.again(**changes).digest
        for changes in ({}, {"sequence_length": 48}, {"packing": "concatenate"}, {"seed": 3}, {"code": {"weight": 2}},
                        {"groups": {"code": 1, "text": 1}}, {"cleaning": {"exact_duplicates": False}})
    ]  # fmt: skip

    assert written() == before
    # A weight within a group of one changes nothing; nor does the switch where there are no duplicates.
    assert len(set(digests)) == 5


def test_a_source_without_documents_is_refused_and_leaves_no_mixture(
    mix: Callable[..., Receipt], corpus: Path, tmp_path: Path
) -> None:
    for path in (corpus / "text").iterdir():
        path.write_text('{"text": ""}\n' * 3)

    with pytest.raises(PlanError, match="'text' holds no sequence"):
        mix()
    assert not list((tmp_path / "storage/tokens").rglob(MANIFEST_NAME))


def test_a_missing_object_of_the_mixture_is_made_anew_and_nothing_else_is(
    mix: Callable[..., Receipt], corpus: Path, made: Here
) -> None:
    before = {path: path.stat().st_mtime_ns for path in path_of(made.documents[0]).iterdir()}
    (path_of(made.tokens) / "sequences/code/pieces.bin").unlink()

    assert made.again() == made.tokens

    assert fetch(made.tokens, corpus)
    assert {path: path.stat().st_mtime_ns for path in path_of(made.documents[0]).iterdir()} == before


def test_an_altered_object_of_a_partition_is_refused_by_its_name_and_marked(
    tokenizer: ModelSection, corpus: Path, tmp_path: Path
) -> None:
    data = section(corpus)
    storage = str(tmp_path / "storage")
    partitions = list_partitions(model=tokenizer, data=data, storage=storage)
    documents = tokenize_here(data, partitions, storage, tmp_path / "work")
    ends = path_of(documents[1]) / "ends.npy"
    ends.write_bytes(ends.read_bytes()[:-1] + b"\x7f")

    with pytest.raises(IntegrityError, match=r"ends\.npy.* run again"):
        mix_tokens(data=data, partitions=partitions, documents=documents, storage=storage)
    assert json.loads((ends.parent / "damaged.json").read_text()) == ["ends.npy"]


def test_a_trained_tokenizer_and_all_that_follows_are_the_same_each_time(corpus: Path, tmp_path: Path) -> None:
    data = section(corpus, heldout_fraction=0.1)

    first, again = (mix_here(model(kind="train", vocab_size=280), data, tmp_path / folder) for folder in ("one", "two"))

    assert first.tokens.digest == again.tokens.digest
    assert first.tokens.metadata["vocab_size"] == 280
    assert StoredMixture(first.tokens).texts("code")


def test_the_size_of_partitions_changes_neither_documents_nor_what_is_held_out(
    tokenizer: ModelSection, corpus: Path, tmp_path: Path
) -> None:
    few, many = (
        StoredMixture(mix_here(tokenizer, section(corpus, heldout_fraction=0.2, partition_bytes=size), tmp_path).tokens)
        for size in (10**6, 1)
    )

    assert (len(few.partitions), len(many.partitions)) == (2, 5)
    for source in ("code", "text"):
        assert few.heldout(source) == many.heldout(source) != []
        assert few.texts(source) == many.texts(source)


def test_objects_of_a_mixture_are_named_as_its_layout_says(made: Here) -> None:
    names = {stored.name for stored in read_manifest(made.tokens.uri).objects}

    sequences = {f"sequences/{source}/{name}.bin" for source in ("code", "text") for name in ("pieces", "firsts")}
    heldout = {f"heldout/{source}.jsonl" for source in ("code", "text")}
    described = {"dataset.json", "partitions.parquet", "contaminated.jsonl"}
    assert {name for name in names if not name.startswith("tokenizer/")} == sequences | heldout | described


def test_a_tokenizer_of_other_files_makes_another_mixture(corpus: Path, tmp_path: Path, made: Here) -> None:
    folder = tmp_path / "tokenizer"
    other = save_tokenizer(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:-40]
    (folder / "tokenizer.json").write_text(json.dumps(content))

    data: DataSection = section(corpus)
    assert mix_here(other, data, tmp_path).tokens.metrics["tokens"] > made.tokens.metrics["tokens"]
