"""Reading records as documents: what is counted, what is refused, and what a damaged file still gives."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lemur.data.reading import compressed
from lemur.data.reading.documents import Document, Tally, read_documents
from lemur.data.source import Partition, Record, Source, Unreadable
from lemur.data.sources import jsonl
from lemur.errors import RecipeError
from lemur.recipe import DataSection


def source(root: Path, **fields: Any) -> Source:
    data = {"sources": [{"name": "code", "kind": "jsonl", "root": str(root), **fields}], "sequence_length": 8}
    return DataSection.model_validate(data).sources[0]


def read(root: Path, **fields: Any) -> tuple[list[Document], Tally]:
    tally = Tally()
    return list(read_documents(source(root, **fields), tally)), tally


def test_a_document_has_its_text_place_size_and_digest(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "ünï"}\n\n  \n{"text": ""}\n{"text": "two"}')

    documents, tally = read(tmp_path)

    assert documents == [
        ("ünï", "a.jsonl:1", 5, hashlib.sha256("ünï".encode()).digest()),
        ("two", "a.jsonl:5", 3, hashlib.sha256(b"two").digest()),
    ]
    assert (tally.num_records, tally.num_empty, tally.num_unreadable) == (3, 1, 0)


def test_lines_that_only_a_lenient_parser_takes_are_read(tmp_path: Path) -> None:
    lines = ['{"text": "a", "score": NaN}', '{"text": "b", "score": -Infinity}', f'{{"text": "c", "n": {2**80}}}']
    (tmp_path / "a.jsonl").write_text("\r\n".join(lines))

    assert [document.text for document in read(tmp_path)[0]] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "\\ud800 lone"}', "half of a surrogate pair at character 0"),
        (b'{"text": "\\ud83d\\ude00 pair"}', None),
        (b'{"text": "\xed\xa0\x80"}', "not UTF-8 at byte 10 of the line"),
        (b"[" * 100_000, "not JSON: maximum recursion depth"),
        (b'{"text": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
        (b'{"\\ud800": "key"}', "no text among the fields ?"),
        (b'{"text": null}', "no text among the fields text"),
        (b'"text"', "str where an object belongs"),
        (b"\x00\x00\x00", "not JSON"),
    ],
)
def test_a_hostile_line_is_one_unreadable_record(line: bytes, reason: str | None, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n')

    documents, tally = read(tmp_path)

    assert [documents[0].text, documents[-1].text] == ["before", "after"]
    assert tally.num_unreadable == (reason is not None)
    if reason:
        assert tally.first_unreadable[0].origin == "a.jsonl:2"
        assert tally.first_unreadable[0].reason.startswith(reason)
        json.dumps(tally.to_json(), ensure_ascii=False).encode()


def test_a_line_beyond_all_measure_is_refused_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed, "LONGEST_LINE_BYTES", 50)
    monkeypatch.setattr(jsonl, "LONGEST_LINE_BYTES", 50)
    lines = [json.dumps({"text": "x" * length}) for length in (10, 37, 38, 39, 40, 500)]
    assert [len(line) for line in lines[2:5]] == [50, 51, 52]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, '{"text": "end"}']))

    documents, tally = read(tmp_path)

    assert [len(document.text) for document in documents] == [10, 37, 38, 3]
    assert tally.first_unreadable == [(f"a.jsonl:{line}", "longer than 50 bytes") for line in (4, 5, 6)]


def zstandard_with_extras(data: bytes) -> bytes:
    skippable = b"\x53\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"extra"
    return skippable + zstandard.ZstdCompressor().compress(data)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard_with_extras,
}


@pytest.mark.parametrize("ending", COMPRESS)
def test_a_file_of_many_members_is_read_to_its_end(ending: str, tmp_path: Path) -> None:
    texts = [f"document {number} " * 50 for number in range(2000)]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    cut = [0, 7, 70_000, 70_001, 400_000, len(lines)]
    members = [COMPRESS[ending](lines[start:end]) for start, end in pairwise(cut)]
    (tmp_path / f"a.jsonl{ending}").write_bytes(b"".join(members))

    documents, _ = read(tmp_path)

    assert [document.text for document in documents] == texts


@pytest.mark.parametrize("damage", ["cut", "followed by something else"])
@pytest.mark.parametrize("ending", COMPRESS)
def test_a_damaged_file_gives_what_comes_before_the_damage(ending: str, damage: str, tmp_path: Path) -> None:
    texts = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(40_000)]
    data = COMPRESS[ending]("".join(f'{{"text": "{text}"}}\n' for text in texts).encode())
    damaged = data[:-1000] if damage == "cut" else data + b"something else"
    (tmp_path / f"a.jsonl{ending}").write_bytes(damaged)

    documents, tally = read(tmp_path)

    assert [document.text for document in documents] == texts[: len(documents)]
    assert 10_000 < len(documents) < 40_000
    ((origin, reason),) = tally.first_unreadable
    assert origin == f"a.jsonl{ending}:{len(documents) + 1}"
    assert "damaged or breaks off" in reason


def test_a_flipped_byte_is_noticed_at_the_latest_where_the_file_ends(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(b"".join(b'{"text": "%064d"}\n' % number for number in range(40_000))))
    data[len(data) // 2] ^= 255
    (tmp_path / "a.jsonl.gz").write_bytes(data)

    *_, last = source(tmp_path).records()

    assert isinstance(last, Unreadable)
    assert "damaged or breaks off" in last.reason


def test_a_parquet_page_that_does_not_fit_its_checksum_ends_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"text": f"document {number}"} for number in range(300)]
    settings = {"compression": "none", "use_dictionary": False, "write_page_checksum": True, "row_group_size": 100}
    pq.write_table(pa.Table.from_pylist(rows), path, **settings)
    path.write_bytes(path.read_bytes().replace(b"document 150", b"document 15O"))

    documents, tally = read(tmp_path, kind="parquet")

    assert [document.text for document in documents] == [row["text"] for row in rows[: len(documents)]]
    assert len(documents) <= 150
    ((origin, reason),) = tally.first_unreadable
    assert origin == f"a.parquet#{len(documents)}"
    assert "damaged" in reason


def test_little_more_than_a_piece_is_lost_where_a_file_breaks_off(tmp_path: Path) -> None:
    lines = b"".join(b'{"text": "%064d"}\n' % number for number in range(40_000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines)[:-4])

    documents, _ = read(tmp_path)

    assert len(lines) - len(documents) * 78 < 2**19


class ListedSource(Source):
    """Records as they are given."""

    kind: Literal["listed"]
    parts: list[list[Any]]
    """Records of each partition: a text, or a number for one that cannot be read."""

    def records(self) -> Iterator[Record | Unreadable]:
        """Yields all."""
        for number in range(len(self.parts)):
            yield from self._part(number)

    def partition_records(self, partition: Partition) -> Iterator[Record | Unreadable]:
        """Yields the ones of a partition, which its fingerprint numbers."""
        return self._part(int(partition.fingerprint))

    def partitions(self, partition_bytes: int) -> list[Partition]:
        """Returns a partition for each part."""
        return [Partition((), str(number), None) for number in range(len(self.parts))]

    def fingerprint(self) -> str:
        """Returns nothing of use."""
        return ""

    def estimated_bytes(self) -> None:
        """Does not know."""

    def _part(self, number: int) -> Iterator[Record | Unreadable]:
        for row, value in enumerate(self.parts[number]):
            origin = f"{number}#{row}"
            yield Record({"text": value}, origin) if isinstance(value, str) else Unreadable(origin, f"bad {value}")


def listed(parts: list[list[Any]], *filters: dict[str, Any]) -> ListedSource:
    return ListedSource.model_validate({"kind": "listed", "name": "code", "parts": parts, "filters": list(filters)})


LENGTH = {"kind": "length", "minimum_characters": 3}
DIGITS = {"kind": "lines", "minimum_alphanumeric": 0.5}
VALUES = st.one_of(st.sampled_from(["", "ab", "abc", "----"]), st.integers(0, 9))


@given(st.lists(st.lists(VALUES, max_size=6), max_size=6))
def test_the_tallies_of_partitions_add_up_to_the_tally_of_the_source(parts: list[list[Any]]) -> None:
    found = listed(parts, LENGTH, DIGITS)
    whole, merged = Tally(), Tally()
    expected = list(read_documents(found, whole, max_share=1.0))

    documents = []
    for partition in found.partitions(1):
        tally = Tally()
        documents += read_documents(found, tally, partition)
        merged.merge(Tally.from_json(json.loads(json.dumps(tally.to_json()))))

    assert documents == expected
    assert merged == whole
    assert len(merged.first_unreadable) == min(10, merged.num_unreadable)
    left_out = sum(dropped.num_documents for dropped in merged.dropped.values())
    assert merged.num_records == len(documents) + merged.num_empty + merged.num_unreadable + left_out


def test_a_partition_may_be_worse_than_the_source_as_a_whole_may_be() -> None:
    found = listed([[1] * 500 + ["text"], ["text"] * 499_501])
    merged = Tally()
    for partition in found.partitions(1):
        tally = Tally()
        assert sum(1 for _ in read_documents(found, tally, partition))
        merged.merge(tally)

    merged.check("code", 0.001)
    with pytest.raises(
        RecipeError, match=r"'code': 500 of 500,002 records cannot be read, more than the 0\.09% .*bad 1"
    ):
        merged.check("code", 0.0009)


def test_ten_unreadable_records_are_always_let_pass() -> None:
    Tally(num_records=10, num_unreadable=10).check("code", 0.0)
    with pytest.raises(RecipeError, match="11 of 11"):
        Tally(num_records=11, num_unreadable=11).check("code", 0.001)


def test_a_partition_is_given_up_where_a_thousand_records_are_too_many_already() -> None:
    found = listed([[1] * 5000])
    tally = Tally()

    with pytest.raises(RecipeError, match="1,000 of 1,000 records"):
        list(read_documents(found, tally, found.partitions(1)[0]))
    assert not list(read_documents(found, Tally(), found.partitions(1)[0], max_share=1.0))


def test_a_long_reason_is_cut_before_it_fills_the_receipt(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({f"field {number}": 1 for number in range(10_000)}))

    _, tally = read(tmp_path)

    assert len(json.dumps(tally.metadata())) < 500
