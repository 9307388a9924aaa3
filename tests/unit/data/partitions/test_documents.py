"""What is stored of a partition's documents."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from small_corpus import END_OF_TEXT_ID, HOSTILE, document, read_lines, section, write_lines
from tokenizers import Tokenizer

from lemur.data.cleaning.contamination import ContaminationIndex
from lemur.data.cleaning.minhash import signatures
from lemur.data.mixing.heldout import uniform
from lemur.data.partitions import documents as documents_module
from lemur.data.partitions.columns import Column
from lemur.data.partitions.documents import DocumentsMaker, Tokenized
from lemur.data.tokenizer.encoder import EngineName, open_encoder
from lemur.recipe import DataSection, ModelSection, PretrainedTokenizer

TEXTS = [*map(document, range(30)), *HOSTILE, document(99, 40_000), document(100)]


class Making:
    """Makes documents results of a file of lines in a folder."""

    def __init__(self, tokenizer: ModelSection, folder: Path) -> None:
        assert isinstance(tokenizer.tokenizer, PretrainedTokenizer)
        self.tokenizer = Path(tokenizer.tokenizer.name)
        self.folder = folder

    def make(
        self, name: str, *, engine: EngineName = "fastokens", vocab_size: int = 500, **changes: Any
    ) -> tuple[Path, Tokenized]:
        target = self.folder / name
        target.mkdir()
        encoder = open_encoder(self.tokenizer, engine, end_of_text_id=END_OF_TEXT_ID, vocab_size=vocab_size)
        data: DataSection = section(self.folder / "corpus", **changes)
        asked = data.cleaning.decontamination
        index = ContaminationIndex.build(asked.benchmarks, ngram_words=asked.ngram_words) if asked else None
        (partition,) = data.sources[0].partitions(10**9)
        counted: list[int] = []
        made = DocumentsMaker(data, encoder, index).make(data.sources[0], partition, target, counted.append)
        assert sum(counted) == sum(len(text.encode()) for text in self.texts(data))
        return target, made

    def texts(self, data: DataSection) -> Iterator[str]:
        kept = data.sources[0].filters
        for record in data.sources[0].records():
            text = record[0]["text"]  # type: ignore[index]
            if text and all(one.keeps(text, {}) for one in kept):
                yield text


@pytest.fixture
def making(tokenizer: ModelSection, tmp_path: Path) -> Making:
    write_lines(tmp_path / "corpus/code/a.jsonl", TEXTS)
    return Making(tokenizer, tmp_path)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def spans(ends: npt.NDArray[np.uint64]) -> Iterator[slice]:
    for begin, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        yield slice(begin, end)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(500, "<u2"), (65_536, "<u2"), (65_537, "<u4")])
def test_every_row_tells_of_its_document(making: Making, vocab_size: int, dtype: str) -> None:
    folder, made = making.make("made", vocab_size=vocab_size)
    tokens, ends = np.fromfile(folder / "tokens.bin", dtype), np.load(folder / "ends.npy")
    decoder = Tokenizer.from_file(str(making.tokenizer / "tokenizer.json"))
    rows = [tokens[span].tolist() for span in spans(ends)]

    assert ends.dtype == np.uint64
    assert [decoder.decode(row[:-1], skip_special_tokens=False) for row in rows] == TEXTS
    assert all(row.index(END_OF_TEXT_ID) == len(row) - 1 for row in rows)
    stored = np.load(folder / "digests.npy")
    assert stored.dtype == np.uint8
    assert [row.tobytes() for row in stored] == [hashlib.sha256(text.encode()).digest()[:16] for text in TEXTS]
    origins = pq.read_table(folder / "origins.parquet")
    assert [str(field.type) for field in origins.schema] == ["string", "uint32"]
    assert origins["origin"].to_pylist() == [f"a.jsonl:{line}" for line in range(1, len(TEXTS) + 1)]
    assert origins["num_bytes"].to_pylist() == [len(text.encode()) for text in TEXTS]
    assert made.metrics["documents"] == len(TEXTS)
    assert made.metrics["tokens"] == len(tokens) == ends[-1]
    assert made.metrics["bytes"] == sum(len(text.encode()) for text in TEXTS)


def test_every_block_of_tokens_has_its_checksum(making: Making) -> None:
    folder, _ = making.make("made", vocab_size=70_000)

    stored, data = np.load(folder / "blocks.npy"), (folder / "tokens.bin").read_bytes()

    assert stored.dtype == np.uint32
    assert len(data) > 2 * 131_072
    blocks = [data[begin : begin + 131_072] for begin in range(0, len(data), 131_072)]
    assert stored.tolist() == [zlib.crc32(block) for block in blocks]


def test_neither_the_engine_nor_the_size_of_batches_shows_in_what_is_stored(
    making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = {"heldout_fraction": 0.3, "cleaning": {"near_duplicates": {"num_permutations": 16}}}
    first = digests(making.make("first", **changes)[0])

    assert digests(making.make("engine", engine="tokenizers", **changes)[0]) == first
    monkeypatch.setattr(documents_module, "_BATCH_BYTES", 1000)
    monkeypatch.setattr(documents_module, "_WRITE_BYTES", 100)
    assert digests(making.make("batches", **changes)[0]) == first
    assert len(first) == 8


def test_texts_that_may_be_held_out_are_kept_by_their_digest(making: Making) -> None:
    folder, _ = making.make("made", heldout_fraction=0.3)

    expected = [
        {"row": row, "text": text}
        for row, text in enumerate(TEXTS)
        if uniform(hashlib.sha256(text.encode()).digest()) < 0.3
    ]
    assert 0 < len(expected) < len(TEXTS)
    assert read_lines(folder / "candidates.jsonl") == expected


def test_signatures_are_stored_only_where_near_duplicates_are_looked_for(making: Making) -> None:
    data = section(making.folder, cleaning={"near_duplicates": {"num_permutations": 16}})
    near = data.cleaning.near_duplicates
    folder, _ = making.make("near", cleaning=data.cleaning.model_dump())
    without, _ = making.make("without")

    assert near
    assert np.array_equal(np.load(folder / "minhash.npy"), signatures(TEXTS, near))
    assert not (without / "minhash.npy").exists()


def test_contaminated_documents_are_listed_and_leave_no_other_trace(making: Making) -> None:
    problem = "Write a function that returns the sum of the squares of all even numbers in a list"
    (making.folder / "bench.json").write_text(json.dumps([{"prompt": problem}]))
    clean, _ = making.make("clean", heldout_fraction=0.4)
    lines = [*TEXTS[:3], f"Exercise: {problem}!", *TEXTS[3:]]
    write_lines(making.folder / "corpus/code/a.jsonl", lines)

    benchmarks = {"sums": str(making.folder / "bench.json")}
    folder, made = making.make(
        "made", heldout_fraction=0.4, cleaning={"decontamination": {"benchmarks": benchmarks, "ngram_words": 8}}
    )

    assert read_lines(folder / "contaminated.jsonl") == [
        {"origin": "a.jsonl:4", "benchmark": "sums", "words": "write a function that returns the sum of"}
    ]
    assert made.metadata["contaminated"] == 1
    same = ("tokens.bin", "ends.npy", "digests.npy", "candidates.jsonl", "blocks.npy")
    assert [digests(folder)[name] for name in same] == [digests(clean)[name] for name in same]


def test_a_partition_of_which_nothing_is_kept_is_stored_as_nothing(making: Making) -> None:
    write_lines(making.folder / "corpus/code/a.jsonl", ["short\n", ""])
    folder, made = making.make(
        "made",
        code={"filters": [{"kind": "length", "minimum_characters": 1000}]},
        cleaning={"near_duplicates": {"num_permutations": 16}},
    )

    assert (folder / "tokens.bin").read_bytes() == b""
    shapes = {name: np.load(folder / f"{name}.npy").shape for name in ("ends", "digests", "blocks", "minhash")}
    assert shapes == {"ends": (0,), "digests": (0, 16), "blocks": (0,), "minhash": (0, 16)}
    assert pq.read_table(folder / "origins.parquet").num_rows == 0
    assert made.metadata["tally"]["dropped"] == {"length": {"documents": 1, "bytes": 6}}
    assert made.metadata["tally"]["empty"] == 1


def test_a_column_is_the_file_that_numpy_writes_at_once(tmp_path: Path) -> None:
    rows = np.arange(60, dtype=np.uint32).reshape(20, 3)
    with Column(tmp_path / "column.npy", np.uint32, 3) as column:
        for begin in range(0, 20, 7):
            column.append(rows[begin : begin + 7])

    assert column.num_rows == 20
    assert np.array_equal(np.load(tmp_path / "column.npy", mmap_mode="r"), rows)
