"""The sample: spread over a source, cheap on a large one, the same each time, and never what may be held out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from lemur.data.filter import Filter
from lemur.data.mixing.heldout import uniform
from lemur.data.reading.documents import Document
from lemur.data.source import Partition, Record, Source, SourceFile, Unreadable
from lemur.data.sources.jsonl import JsonlSource
from lemur.data.tokenizer.sampling import sample_documents

WORDS = "the quick brown fox jumps over the lazy dog again and again until it is tired of it "


class WithoutTired(Filter, abstract=True):
    kind: Literal["without_tired"] = "without_tired"

    def keeps(self, text: str, fields: Mapping[str, Any]) -> bool:
        return "tired" not in text


class LargeSource(Source, abstract=True):
    """As many files as asked for, none of which is anywhere: what is read of them is counted."""

    kind: Literal["large"] = "large"
    num_files: int
    records_per_file: int

    def records(self) -> Iterator[Record | Unreadable]:
        raise AssertionError("the whole source is not read for a sample")

    def fingerprint(self) -> str:
        return ""

    def estimated_bytes(self) -> int:
        return self.num_files * self.records_per_file * 1000

    def partitions(self, partition_bytes: int) -> list[Partition]:
        size = self.records_per_file * 1000
        files = [SourceFile(f"{number:06}.jsonl", "", size) for number in range(self.num_files)]
        each = max(1, partition_bytes // size)
        groups = [tuple(files[start : start + each]) for start in range(0, self.num_files, each)]
        return [Partition(group, "", size * len(group)) for group in groups]

    def partition_records(self, partition: Partition) -> Iterator[Record | Unreadable]:
        for file in partition.files:
            for row in range(self.records_per_file):
                NUM_READ[self.name] = NUM_READ.get(self.name, 0) + 1
                text = f"{file.name} {row} {WORDS}"
                yield Record({"text": text + "." * (1000 - len(text))}, f"{file.name}:{row}")


NUM_READ: dict[str, int] = {}


@pytest.fixture(autouse=True)
def _nothing_read() -> None:
    NUM_READ.clear()


def sample(
    *sources: Source, sample_bytes: int, partition_bytes: int = 10_000_000, first_uniform: float = 0.0
) -> list[Document]:
    partitions = {source.name: source.partitions(partition_bytes) for source in sources}
    shares = {source.name: 1 / len(sources) for source in sources}
    found = sample_documents(sources, partitions, shares, sample_bytes=sample_bytes, first_uniform=first_uniform)
    return list(found)


def large(name: str = "large", num_files: int = 1000, records_per_file: int = 100_000) -> LargeSource:
    return LargeSource(name=name, num_files=num_files, records_per_file=records_per_file)


def small(folder: Path, lines: list[str], **settings: Any) -> JsonlSource:
    for number in range(3):
        (folder / f"{number}.jsonl").write_text("\n".join(lines[number::3]) + "\n")
    return JsonlSource(kind="jsonl", name="small", root=str(folder), **settings)


def as_line(number: int) -> str:
    return json.dumps({"text": f"{number} {WORDS}"})


def files_of(documents: list[Document]) -> set[str]:
    return {document.origin.rpartition(":")[0] for document in documents}


def test_a_sample_of_a_hundred_gigabytes_reads_megabytes_from_many_files() -> None:
    found = sample(large(), sample_bytes=1_000_000)

    assert 1_000_000 <= sum(document.num_bytes for document in found) <= 1_001_000
    assert NUM_READ["large"] < 10_000
    assert len(files_of(found)) == 16


def test_of_small_files_many_are_read_and_each_document_is_taken_once() -> None:
    found = sample(large(num_files=100_000, records_per_file=1), sample_bytes=1_000_000)

    assert len(found) == len(set(found)) == 1000
    assert NUM_READ["large"] < 3000
    assert min(files_of(found)) < "010000.jsonl" < "090000.jsonl" < max(files_of(found))


def test_of_one_large_file_not_only_the_first_documents_are_taken() -> None:
    found = sample(large(num_files=1), sample_bytes=1_000_000)

    assert len(found) == 1000
    assert 4000 < NUM_READ["large"] < 16_000


def test_the_sample_is_the_same_each_time_and_for_any_partitions() -> None:
    samples = [sample(large(), sample_bytes=100_000, partition_bytes=size) for size in (1, 10**8, 10**9, 10**12)]

    assert samples[0]
    assert all(found == samples[0] for found in samples)


def test_sources_get_their_share(tmp_path: Path) -> None:
    sources = [large("first"), large("second", num_files=3)]
    partitions = {source.name: source.partitions(10_000_000) for source in sources}

    found = list(sample_documents(sources, partitions, {"first": 0.9, "second": 0.1}, sample_bytes=1_000_000))

    assert [document.origin for document in found] == [
        document.origin
        for source, size in zip(sources, (900_000, 100_000), strict=True)
        for document in sample(source, sample_bytes=size)
    ]


@pytest.mark.parametrize("sample_bytes", [20_000, 60_000, 10_000_000])
def test_what_may_be_held_out_is_never_in_the_sample(tmp_path: Path, sample_bytes: int) -> None:
    source = small(tmp_path, [as_line(number) for number in range(1000)])

    found = sample(source, sample_bytes=sample_bytes, first_uniform=0.3)

    assert all(uniform(document.digest) >= 0.3 for document in found)
    if sample_bytes == 10_000_000:
        everything = sample(source, sample_bytes=sample_bytes)
        assert len(everything) == 1000
        assert len(found) == sum(uniform(document.digest) >= 0.3 for document in everything)


def test_where_most_text_is_in_one_file_the_rest_of_the_sample_comes_from_it(tmp_path: Path) -> None:
    source = small(tmp_path, [as_line(number) for number in range(180)])
    for file in range(3, 7):
        (tmp_path / f"{file}.jsonl").write_text("\n".join(as_line(60 * file + row) for row in range(60)) + "\n")
    (tmp_path / "7.jsonl").write_text("\n".join(as_line(number) for number in range(1000, 3000)) + "\n")
    wanted_bytes = (source.estimated_bytes() or 0) * 3 // 10

    found = sample(source, sample_bytes=wanted_bytes)

    assert wanted_bytes <= sum(document.num_bytes for document in found) <= wanted_bytes + 200
    assert len(found) == len(set(found))


def test_a_source_with_less_text_gives_what_it_has_once(tmp_path: Path) -> None:
    source = small(tmp_path, [as_line(number) for number in range(300)])

    found = sample(source, sample_bytes=source.estimated_bytes() or 0)

    assert len(found) == len(set(found)) == 300


def test_documents_that_are_not_trained_on_are_not_sampled(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"{number} not so"}) for number in range(50)]
    lines += [as_line(number) for number in range(50)] + ["{broken", json.dumps({"text": "\ud800"})] * 1000
    source = small(tmp_path, lines).model_copy(update={"filters": [WithoutTired()]})

    found = sample(source, sample_bytes=1_000_000)

    assert sorted(document.text for document in found) == sorted(f"{number} not so" for number in range(50))
